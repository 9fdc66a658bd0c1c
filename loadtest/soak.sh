#!/usr/bin/env bash
# Plays loadtest/scenarios/soak.toml (faults, a spike, quiet) over and over on one exchange, reloads it meanwhile, and looks
# at whether its memory, its descriptors or its latency grow: loadtest/soak.sh [options] [MINUTES]. Writes what it saw to
# --out as tables, a picture and a verdict in markdown. Exits with 1 if something grew, a request had no answer or a wrong one, a
# handover failed or the exchange did not live.
#
# SSPs speak HTTP/1.1 and HTTP/2 in turns, half of the DSPs either. A reload changes the limits of every DSP and back, by
# POST /reload; an exchange that knows none is soaked without. What counts is how the exchange is after a quarter of the time,
# when every buffer has met its largest.
#
# With --handover the exchange is another process each time, and begins anew with memory and descriptors: what each had in the
# second half of its time is compared with what those before it had at that age. So that shows what an heir is left with too
# much, and only a soak without shows what one process gathers over hours. At the end none of the former may be there.
#
# Needs bash, jq, curl, Python 3, and two programs that are built unless --bin is given.
set -euo pipefail
# shellcheck source=loadtest/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'USAGE'
Usage: loadtest/soak.sh [options] [MINUTES]
  MINUTES            how long                                    [20]
  --round S          seconds of each round of the scenario       [60]
  --rate R           requests a second, four times that in a spike [100]
  --reload S         seconds between two reloads; 0 for none     [5]
  --handover S       seconds between two handovers; 0 for none   [0]
  --every S          seconds between two looks                   [2]
  --port N           first of 25 ports: exchange, admin port, DSPs [18080]
  --out DIR          where to write to                           [target/soak]
  --bin DIR          where corebid and corebid-loadtest are      [build them: target/release]
USAGE
}

command="loadtest/soak.sh $*"
minutes=20 round=60 rate=100 reload=5 handover=0 every=2 port=18080 out=target/soak bin=''
take_options "round rate reload handover every port out bin" minutes "$@"
to_root
need jq curl python3 "$bin"/{corebid,corebid-loadtest}
mkdir -p "$out"
rm -f "$out"/{samples.tsv,rounds.tsv,exchange.log,dsps.log}

readonly admin=http://127.0.0.1:$((port + 1))
# As the profile, but for ports, odd DSPs over HTTP/1.1, and as many connections as told.
configuration() {
    profile_on_ports | awk -v connections="$1" '
        /^endpoint = / { dsp++ }
        /^protocol = / { print "protocol = \"" (dsp % 2 ? "h1" : "h2") "\""; next }
        /^max_connections = / { print "max_connections = " (dsp % 2 ? 16 * connections : connections); next }
        { print }' >"$out/soak.toml.new"
    # A DSP that is back is asked again a while later; the oracle wants its bids at once.
    printf '\n[breaker]\nenabled = false\n' >>"$out/soak.toml.new"
    mv "$out/soak.toml.new" "$out/soak.toml"
}

# How many lines of the exchange's log say this.
logged() { grep -c "\"message\":\"$1" "$out/exchange.log" || true; }
# A process that has ended and that nobody has waited for has no program.
lives() { readlink "/proc/$1/exe" >/dev/null; }

first=''
trap stop_heirs_too EXIT
configuration 4
"$bin/corebid-loadtest" dsps --scenario loadtest/scenarios/soak.toml --base-port $((port + 2)) >"$out/dsps.log" 2>&1 &
pids+=($!)
COREBID_LOG__FORMAT=json "$bin/corebid" serve --config "$out/soak.toml" >"$out/exchange.log" 2>&1 &
first=$!
pids+=("$first")
await_ready "$admin" "$out/exchange.log"

# One line each: seconds, kilobytes, descriptors, reloads and handovers so far.
began=$EPOCHREALTIME
since() { awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }
look() {
    local reloads=0 reload_at=$reload handover_at=$handover connections=4 seconds exchange
    while exchange=$(main_pid) && lives "$exchange"; do
        seconds=$(since)
        printf '%s\t%s\t%s\t%s\t%s\n' "$seconds" "$(awk '/^VmRSS/ { print $2 }' "/proc/$exchange/status")" \
            "$(find "/proc/$exchange/fd" -mindepth 1 2>/dev/null | wc -l)" "$reloads" "$(logged 'handed over')" >>"$out/samples.tsv"
        if ((reload > 0 && ${seconds%.*} >= reload_at)); then
            reload_at=$((reload_at + reload)) connections=$((9 - connections))
            configuration "$connections"
            if [[ $(curl -s -m 5 -o /dev/null -w '%{http_code}' -X POST "$admin/reload") = 20? ]]; then
                reloads=$((reloads + 1))
            fi
        fi
        if ((handover > 0 && ${seconds%.*} >= handover_at)); then
            handover_at=$((handover_at + handover))
            kill -USR2 "$exchange"
        fi
        sleep "$every"
    done
}
printf 's\tkB\tdescriptors\treloads\thandovers\n' >"$out/samples.tsv"
look &
pids+=($!)

# One line for each phase of each round.
printf 's\tprotocol\tphase\trequests\terrors\tshed\twrong\tlost\tp50_ms\tp99_ms\n' >"$out/rounds.tsv"
end=$(awk -v m="$minutes" 'BEGIN { printf "%d", m * 60 }')
rounds=$((end / (round + 2) > 0 ? end / (round + 2) : 1))
for ((turn = 1; turn <= rounds; turn++)); do
    ssp=() name=h1
    ((turn % 2 == 1)) || { ssp=(--h2-connections 4); name=h2; }
    "$bin/corebid-loadtest" run --scenario loadtest/scenarios/soak.toml --target "http://127.0.0.1:$port" --rate "$rate" \
        --duration "$round" "${ssp[@]}" --json >"$out/round.json" 2>"$out/round.log" || true
    lives "$(main_pid)" || { echo "soak.sh: the exchange is gone" >&2; tail -n 20 "$out/exchange.log" >&2; exit 1; }
    [[ -s $out/round.json ]] || { echo "soak.sh: no report" >&2; cat "$out/round.log" "$out/dsps.log" >&2; exit 1; }
    # Errors have no answer, shed is what has another than 200 and 204. Wrong are auctions that are not right on the bids that
    # were heard; lost are those for which too few were in time.
    jq -r --arg s "$(since)" --arg name "$name" '.phases[] | .tally as $t | $t.verification as $v |
        ($t.errors | .connect + .reset + .timeout + .parse) as $errors | [$s, $name, .name, $t.requests, $errors,
        $t.requests - $errors - ($t.statuses["200"] // 0) - ($t.statuses["204"] // 0),
        $v.wrong_winner + $v.wrong_price + $v.unexpected_no_bid + $v.missing_no_bid + $v.malformed - $v.bids_lost,
        $v.bids_lost, .latency.p50_ms, .latency.p99_ms] | @tsv' "$out/round.json" >>"$out/rounds.tsv"
    echo "soak.sh: round $turn of $rounds ($name), $(tail -n 1 "$out/samples.tsv" | awk '{ printf "%.1f MB, %d descriptors, %d reloads, %d handovers", $2 / 1024, $3, $4, $5 }')" >&2
done

# Looks no more. Who has handed over finishes what it has, at most server.drain_ms.
stop_last
former() {
    local pid
    for pid in "$first" $(grep -o '"to":[0-9]*' "$out/exchange.log" | cut -d: -f2); do
        if [[ $pid != "$(main_pid)" ]] && lives "$pid"; then echo "$pid"; fi
    done
}
for _ in $(seq 100); do
    [[ $(logged 'handing over') != $(logged 'handed over') || -n $(former) ]] || break
    sleep 0.1
done
asked=$(logged 'handing over') handovers=$(logged 'handed over') left=$(former | wc -l)
stop_heirs_too

status=0
python3 loadtest/soak.py "$out" || status=$?
{
    echo
    ((handover == 0)) || echo "- $handovers of $asked handovers, $left former processes left at the end"
    conditions
} | tee -a "$out/soak.md"
if ((handovers != asked || left > 0)); then
    grep '"the handover has failed' "$out/exchange.log" >&2 || true
    status=1
fi
exit "$status"
