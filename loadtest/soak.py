"""What a soak looked like: loadtest/soak.py DIR reads samples.tsv and rounds.tsv of loadtest/soak.sh there, writes
soak.svg and soak.md, prints the latter, and exits with 1 if memory, descriptors or latency grew, a request had no answer, or a
wrong one. Standard library only.

Something grew if the line that fits what was seen after the first quarter best rises, until the end, by more than it may:
memory by 5 % and 2 MB (an allocator returns pages when it likes), descriptors by 5 % and 20 (connections come and go with
the faults), p99 of the quiet phases by half and 5 ms (one machine does other things). By the median of the slopes between
any two looks (Theil and Sen), of which a few odd ones change nothing.

With handovers the exchange is one process after another, each of which begins anew. Then a look is not compared with the one
before it but with those of earlier processes at the same age: of each process there is one point, the median of what was seen
while it was between a half and the whole of the age that all but the shortest-lived came to. Fewer than four such processes
say nothing of a trend, and are looked at as if they were one."""

import csv
import os
import statistics
import sys

FROM = 0.25
SERIES = [
    # Title, unit, colour, what it may rise by: as a share, and in units. Both must be passed.
    ("resident memory", "MB", "#3366aa", 0.05, 2.0),
    ("descriptors", "", "#aa6622", 0.05, 20.0),
    ("p99 in quiet", "ms", "#338855", 0.5, 5.0),
]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def slope(points):
    """Of many points, every so many; the pairs of 400 are enough."""
    points = points[:: max(1, len(points) // 400)]
    slopes = [
        (y2 - y1) / (x2 - x1)
        for place, (x1, y1) in enumerate(points)
        for x2, y2 in points[place + 1 :]
        if x2 > x1
    ]
    return statistics.median(slopes) if slopes else 0.0


def judge(points, share, least):
    """The level after the first quarter, what it has risen by until the end, and whether that is too much."""
    end = max(x for x, _ in points)
    settled = [(x, y) for x, y in points if x >= FROM * end]
    level = statistics.median(y for _, y in settled)
    rise = slope(settled) * (end - settled[0][0])
    return level, rise, rise > max(share * level, least)


def by_process(points, processes):
    """One point for each process: how it was in the second half of its time. All of them where there are too few processes."""
    lives = {}
    for point, process in zip(points, processes):
        lives.setdefault(process, []).append(point)
    ages = sorted(life[-1][0] - life[0][0] for life in lives.values())
    age = ages[len(ages) // 4]
    whole = [life for life in lives.values() if life[-1][0] - life[0][0] >= age]
    if len(whole) < 4:
        return points
    olds = [[(x, y) for x, y in life if age / 2 <= x - life[0][0] <= age] for life in whole]
    return [tuple(statistics.median(values) for values in zip(*old)) for old in olds if old]


def picture(series, end):
    width, height, left, gap = 900, 150, 70, 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{len(series) * (height + gap) + 30}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for place, ((title, unit, colour, *_), points, judged, (level, rise, grew)) in enumerate(series):
        top = 30 + place * (height + gap)
        most = max(y for _, y in points) * 1.15 or 1.0
        x_of = lambda x: left + (width - left - 20) * x / end
        y_of = lambda y: top + height - height * y / most
        verdict = "GREW" if grew else "flat"
        out.append(
            f'<text x="{left}" y="{top - 8}" font-weight="bold">{title}: {level:.1f} {unit}, '
            f"{rise:+.1f} {unit} from a quarter on: {verdict}</text>"
        )
        for share in (0, 0.5, 1):
            y = y_of(most * share)
            out.append(
                f'<line x1="{left}" x2="{width - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{most * share:.0f}</text>'
            )
        quarter = x_of(FROM * end)
        out.append(
            f'<line x1="{quarter:.1f}" x2="{quarter:.1f}" y1="{top}" y2="{top + height}" stroke="#bbb" stroke-dasharray="4 4"/>'
        )
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(judged) < 80:
            out += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.5" fill="{colour}"/>' for x, y in judged]
        for tenth in range(0, 11, 2):
            x = end * tenth / 10
            out.append(
                f'<text x="{x_of(x):.1f}" y="{top + height + 16}" text-anchor="{"end" if x == end else "middle"}">{x / 60:.1f} min</text>'
            )
    out.append("</svg>")
    return "\n".join(out)


def main(folder):
    samples = rows(os.path.join(folder, "samples.tsv"))
    rounds = rows(os.path.join(folder, "rounds.tsv"))
    quiet = [row for row in rounds if row["phase"] == "quiet"]
    points = [
        [(float(row["s"]), float(row["kB"]) / 1024) for row in samples],
        [(float(row["s"]), float(row["descriptors"])) for row in samples],
        [(float(row["s"]), float(row["p99_ms"])) for row in quiet],
    ]
    end = max(x for series in points for x, _ in series)
    processes = [row["handovers"] for row in samples]
    # Latency is the SSPs' to see, who do not know of processes.
    judged = [by_process(points[0], processes), by_process(points[1], processes), points[2]]
    series = [(kind, seen, by, judge(by, *kind[3:])) for kind, seen, by in zip(SERIES, points, judged)]
    with open(os.path.join(folder, "soak.svg"), "w") as file:
        file.write(picture(series, end))

    requests, errors, wrong = (sum(int(row[name]) for row in rounds) for name in ("requests", "errors", "wrong"))
    text = [f"# Soak of {end / 60:.0f} minutes", "", "![memory, descriptors and p99 over time](soak.svg)", ""]
    if len(judged[0]) < len(points[0]):
        text += [f"Memory and descriptors of {len(judged[0])} processes, each in the second half of its time.", ""]
    text += ["| | after a quarter | rise from then on | may rise by | |", "|---|---|---|---|---|"]
    for (title, unit, _, share, least), _, _, (level, rise, grew) in series:
        limit = max(share * level, least)
        text.append(
            f"| {title} | {level:.1f} {unit} | {rise:+.1f} {unit} | {limit:.1f} {unit} | {'GREW' if grew else 'flat'} |"
        )
    text += [
        "",
        "| phase | requests | without an answer | shed | wrong | a bid came too late | p50, median of rounds | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for phase in dict.fromkeys(row["phase"] for row in rounds):
        of_phase = [row for row in rounds if row["phase"] == phase]
        total = lambda column: sum(int(row[column]) for row in of_phase)
        middle = lambda column: statistics.median(float(row[column]) for row in of_phase)
        text.append(
            f"| {phase} | {total('requests')} | {total('errors')} | {total('shed')} | {total('wrong')} | {total('lost')} "
            f"| {middle('p50_ms'):.1f} ms | {middle('p99_ms'):.1f} ms |"
        )
    text += [
        "",
        f"{requests} requests, {samples[-1]['reloads']} reloads; {errors} requests without an answer, {wrong} answered wrongly.",
    ]
    text = "\n".join(text)
    with open(os.path.join(folder, "soak.md"), "w") as file:
        file.write(text + "\n")
    print(text)
    return wrong > 0 or errors > 0 or any(grew for *_, (_, _, grew) in series)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
