#!/usr/bin/env bash
# What an exchange does with more bid requests than it can: measures it at multiples of the rate that it sustains on one
# core, several times each, and prints a markdown table with the conditions; progress goes to stderr. Starts the DSP
# simulator and `corebid serve` itself, stops them by pid, also on Ctrl-C. Needs bash, jq, curl, taskset, and a release
# build of both programs.
#
# Promised, and checked at 3 times the rate: goodput (bid responses within the tmax, from when the request was meant to
# be sent) is within 10 % of the highest of the table, the 99th percentile of what is answered is within the deadline,
# no auction is wrong, no connection breaks; and at every rate the ports for health and metrics answer within a second.
# Exits with 0 if so, 1 if not, 2 on bad usage or where the generator was the limit and nothing can be said.
#
# The server gets a core of its own. DSPs and generator share the other, so the server should be the slow one: with DSPs
# over HTTP/1.1 it does a quarter of what it does over HTTP/2, and 5 times that is well within the generator's reach.
set -euo pipefail
# shellcheck source=loadtest/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'USAGE'
Usage: loadtest/overload.sh [options] [-- options for `corebid-loadtest run`]
  --bin DIR          where corebid and corebid-loadtest are      [target/release]
  --config FILE      configuration of the exchange               [profiles/reference.toml]
  --target URL       where it listens                            [http://127.0.0.1:8080]
  --admin URL        where its admin port is                     [http://127.0.0.1:9090]
  --server-core N    core of the exchange                        [0]
  --load-core N      core of DSPs and generator                  [1]
  --sustained R      the rate it sustains; without it loadtest/sweep.sh looks for it
  --low R --high R   between which that lies                     [200, 20000]
  --steps LIST       multiples of it                             [0.5,1,2,3,5]
  --duration S       seconds of each run                         [20]
  --runs N           runs of each, whose medians are judged      [3]
  --base-port N      port of the first of the 23 simulated DSPs  [9001]
  --grid-us US       grid of the simulated DSPs' answers         [100]
  --seed N           seed of everything                          [1]
Ports and limits of the exchange can be overridden as always: COREBID_SERVER__LISTEN=... loadtest/overload.sh
USAGE
}

bin=target/release config=profiles/reference.toml target=http://127.0.0.1:8080 admin=http://127.0.0.1:9090
server_core=0 load_core=1 sustained=0 low=200 high=20000 steps=0.5,1,2,3,5 duration=20 runs=3 grid_us=100 seed=1 base_port=9001
take_options "bin config target admin server-core load-core sustained low high steps duration runs base-port grid-us seed" '' "$@"
# The reference profile's floor rule; what the caller gives behind it wins. SSPs with many requests keep few connections.
run_options=(--floor-rule above --h2-connections 4 "${rest[@]}")
need jq curl taskset "$bin/corebid" "$bin/corebid-loadtest"

if ((sustained == 0)); then
    sustained=$("$(dirname "$0")/sweep.sh" --bin "$bin" --config "$config" --target "$target" --rates '' \
        --server-core "$server_core" --load-core "$load_core" --low "$low" --high "$high" --grid-us "$grid_us" \
        --seed "$seed" -- "${run_options[@]}" | sed -n 's/^Highest sustained rate: \*\*\([0-9]*\).*/\1/p')
    ((sustained > 0)) || exit 2
fi

go_before_others
start dsps "$load_core" "$bin/corebid-loadtest" dsps --count 23 --base-port "$base_port" --seed "$seed" --grid-us "$grid_us"
COREBID_SERVER__CORES=$server_core start corebid "$server_core" "$bin/corebid" serve --config "$config"
server_pid=${pids[-1]}
curl -sf -o /dev/null --retry 50 --retry-delay 1 --retry-all-errors --max-time 1 "$admin/readyz" || {
    echo "overload.sh: the exchange does not get ready:" >&2
    tail -5 "$scratch"/*.log >&2
    exit 1
}

# Asks for everything that must answer whatever the load, five times a second; a line for each that does not in a second. In one
# process, and not on the exchange's core: as twenty a second these took a tenth of that, some milliseconds at a time.
watch_health() {
    local urls=() url
    for url in "$admin/healthz" "$admin/readyz" "$admin/metrics" "$target/status"; do urls+=(-o /dev/null "$url"); done
    while true; do
        taskset -c "$load_core" curl -s --max-time 1 -w '%{http_code} %{url_effective}\n' "${urls[@]}" | grep -v '^200 ' || true
        sleep 0.2
    done
}

shed_by_reason() {
    curl -s "$admin/metrics" | sed -n 's/^corebid_shed_total{reason="\(.*\)"} \(.*\)/\1 \2/p'
}

load() { # rate -> one JSON object
    # Exit code 1 says that bid requests were refused, which is what we are here for; 2 is a mistake of ours.
    local status=0
    taskset -c "$load_core" "$bin/corebid-loadtest" run --target "$target" --rate "$1" --duration "$duration" --warmup 3 \
        --seed "$seed" --server-pid "$server_pid" --json "${run_options[@]}" || status=$?
    ((status <= 1)) || exit "$status"
}

# From runs to their rows: what the table shows, by name.
row() {
    jq -c --argjson step "$1" --argjson unwell "$2" '
        (.measured.statuses | to_entries | map({key: .key, value: .value}) | from_entries) as $statuses
        | (.measured.verification | .wrong_winner + .wrong_price + .unexpected_no_bid + .missing_no_bid + .malformed)
          as $wrong
        | {step: $step, offered: .rates.offered, sent: .rates.sent, goodput: .rates.in_time,
           shed: (100 * ($statuses["503"] // 0) / .measured.requests),
           p50: .latency.p50_ms, p99: .latency.p99_ms, p999: .latency.p999_ms,
           cpu: .server.cpus_busy, rss: .server.rss_peak_mib,
           lost: .measured.verification.bids_lost, wrong: ($wrong - .measured.verification.bids_lost),
           errors: ([.measured.errors[]] | add), unwell: $unwell,
           generator: (100 * .generator.cpu_share), late: .send_lateness.p99_ms, deadline: .conditions.deadline_ms}'
}

trap 'kill "$watcher" 2>/dev/null || true; stop_all' EXIT
for step in ${steps//,/ }; do
    rate=$(jq -n "$sustained * $step | floor")
    for ((run = 1; run <= runs; run++)); do
        echo "overload.sh: $step x $sustained/s, run $run of $runs" >&2
        watch_health >"$scratch/unwell" 2>/dev/null &
        watcher=$!
        load "$rate" >"$scratch/run.json"
        kill "$watcher" && wait "$watcher" 2>/dev/null || true
        row "$step" "$(wc -l <"$scratch/unwell")" <"$scratch/run.json" | tee -a "$scratch/rows" >&2
        # An interval of admission, so that one run does not begin in the other's overload.
        sleep 1
    done
done

cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -1)
echo "Sustained: **$sustained/s**. Goodput: bid responses (200) within the tmax of 100 ms, from the intended send time."
echo
echo "| load | offered/s | sent/s | goodput/s | of highest | shed % | p50 ms | p99 ms | p99.9 ms | CPUs | peak MiB | bids lost |\
 wrong auctions | errors | health | generator CPU % | lateness p99 ms |"
echo "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
jq -rs '
    def median: sort | .[(length - 1) / 2 | floor];
    def medians: . as $rows | first | with_entries(.key as $key | .value = ($rows | map(.[$key]) | median));
    def round1: . * 10 | round / 10;
    def cells($highest): [.step, .offered, .sent, .goodput, (100 * .goodput / $highest | round1 | "\(.) %"), .shed, .p50, .p99,
        .p999, (.cpu * 100 | round / 100), .rss, .lost, .wrong, .errors, .unwell, .generator, .late]
        | map(if type == "number" then (if . < 10 then . * 100 | round / 100 else round1 end) else . end);
    group_by(.step) | (map(medians | .goodput) | max) as $highest
    | .[] | (.[] | cells($highest) | map(tostring)), (medians | cells($highest) | map("**\(.)**"))
    | "| " + join(" | ") + " |"' "$scratch/rows"
echo
echo "Shed since the start, by reason: $(shed_by_reason | paste -sd, | sed 's/,/, /g')."
cat <<CONDITIONS

Conditions: commit $(git rev-parse --short HEAD), $(date -u +%Y-%m-%dT%H:%MZ), kernel $(uname -r), $cpu, $(nproc) CPUs; exchange on core $server_core, 23 simulated
DSPs (seed $seed, reference latency profile, answers on a grid of $grid_us us) and the generator on core $load_core; $duration s per row after
3 s of warm-up; medians in bold. "health": of /healthz, /readyz, /metrics, /status asked five times a second, those that did
not answer within one. \`$config\`, load: \`corebid-loadtest run --target $target ${run_options[*]}\`.

CONDITIONS
jq -rs '
    def median: sort | .[(length - 1) / 2 | floor];
    def of($name): map(.[$name]) | median;
    (group_by(.step) | map(of("goodput")) | max) as $highest
    | map(select(.step == 3)) as $at3
    | if $at3 == [] then "Not judged: 3 x was not measured.\n2"
      elif ($at3 | of("sent") < 0.97 * of("offered")) then "Not judged: the generator was the limit at 3 x.\n2"
      else
        [($at3 | of("goodput") as $goodput | select($goodput < 0.9 * $highest)
            | "goodput at 3 x is \($goodput)/s of \($highest)/s"),
         ($at3 | of("p99") as $p99 | select($p99 > of("deadline")) | "p99 at 3 x is \($p99) ms"),
         (map(.wrong) | add | select(. > 0) | "\(.) auctions are wrong"),
         (map(.errors) | add | select(. > 0) | "\(.) requests have no answer"),
         (map(.unwell) | add | select(. > 0) | "health or metrics did not answer \(.) times")]
        | if . == [] then "The promise is kept.\n0" else "**The promise is not kept**: \(join("; ")).\n1" end
      end' "$scratch/rows" >"$scratch/verdict"
head -n -1 "$scratch/verdict"
exit "$(tail -1 "$scratch/verdict")"
