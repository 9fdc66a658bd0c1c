#!/usr/bin/env bash
# Everything at once on one exchange under load, and whether an SSP notices: loadtest/chaos.sh [options] [SECONDS].
# A DSP is killed (kill -9) and comes back, a share of the bid requests panics, a shard breaks every 5 s, a reload every 2 s, a
# handover every 10 s. Two generators, HTTP/1.1 and HTTP/2. A failed request is one that got no answer, or another than 200
# and 204; one that was made to panic is answered with 204. Exits with 0 when none failed and each fault came about.
#
# Bids are not judged: one of 23 DSPs is gone at times, and a panic sells nothing. With --fault die the shard dies with what it
# has in flight, which fails: that shows what the evacuation of a shard that breaks is worth. Needs bash, jq and curl.
set -euo pipefail
# shellcheck source=loadtest/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'USAGE'
Usage: loadtest/chaos.sh [options] [SECONDS]
  SECONDS            how long                                          [60]
  --rate R           requests a second of each of the two generators   [500]
  --panics N         bid requests of a million that panic              [10000]
  --fault F          what happens to shards: break, or die             [break]
  --shard S          seconds between two of them                       [5]
  --reload S         seconds between two reloads                       [2]
  --handover S       seconds between two handovers                     [10]
  --port N           first of 25 ports: exchange, admin port, DSPs     [23000]
  --out DIR          where to write to                                 [target/chaos]
  --bin DIR          where corebid and corebid-loadtest are            [build them: target/release]
USAGE
}

command="loadtest/chaos.sh $*"
seconds=60 rate=500 panics=10000 fault=break shard=5 reload=2 handover=10 port=23000 out=target/chaos bin=''
take_options "rate panics fault shard reload handover port out bin" seconds "$@"
to_root
need jq curl "$bin"/{corebid,corebid-loadtest}
mkdir -p "$out"
rm -f "$out"/{h1.json,h2.json,exchange.log,dsps.log,victim.log}
readonly admin=http://127.0.0.1:$((port + 1))

# As the profile, but for ports, two shards, and what is rehearsed; `$1` is what reloads change.
configuration() {
    profile_on_ports | awk -v connections="$1" -v panics="$panics" '
        BEGIN { print "[rehearsal]\nenabled = true\npanics_per_million = " panics }
        /^listen = / { print $0 "\nshards = 2\nrestarts_max = 1000"; next }
        /^max_connections = / { print "max_connections = " connections; next }
        { print }' >"$out/chaos.toml.new"
    mv "$out/chaos.toml.new" "$out/chaos.toml"
}

first=''
trap stop_heirs_too EXIT

victim() {
    "$bin/corebid-loadtest" dsps --count 1 --base-port $((port + 24)) >>"$out/victim.log" 2>&1 &
    victim=$!
    pids+=("$victim")
}

configuration 4
"$bin/corebid-loadtest" dsps --count 22 --base-port $((port + 2)) >"$out/dsps.log" 2>&1 &
pids+=($!)
victim
COREBID_LOG__FORMAT=json "$bin/corebid" serve --config "$out/chaos.toml" 2>"$out/exchange.log" &
first=$!
pids+=("$first")
await_ready "$admin" "$out/exchange.log"

generators=()
for name in h1 h2; do
    ssp=()
    [[ $name = h1 ]] || ssp=(--h2-connections 4)
    "$bin/corebid-loadtest" run --target "http://127.0.0.1:$port" --rate "$rate" --duration "$seconds" --warmup 2 \
        "${ssp[@]}" --json >"$out/$name.json" 2>"$out/$name.log" &
    generators+=($!)
done
sleep 2

began=$SECONDS breaks=0 reloads=0 handovers=0 kills=0 connections=4
for ((now = 1; now < seconds; now++)); do
    while ((SECONDS - began < now)); do sleep 0.05; done
    if ((now % reload == 0)); then
        connections=$((9 - connections))
        configuration "$connections"
        [[ $(curl -s -m 5 -o /dev/null -w '%{http_code}' -X POST "$admin/reload") != 200 ]] || reloads=$((reloads + 1))
    fi
    if ((now % shard == 0)); then
        url="$admin/rehearse?shard=$((breaks % 2))&fault=$fault"
        [[ $(curl -s -m 5 -o /dev/null -w '%{http_code}' -X POST "$url") != 202 ]] || breaks=$((breaks + 1))
    fi
    # Not in the same second as a shard's end: a handover waits for nobody, and what is told to the old one then is too late.
    if ((now % handover == handover / 2 + 1)); then
        kill -USR2 "$(main_pid)" && handovers=$((handovers + 1))
    fi
    if ((now % 20 == 7)); then kill -9 "$victim" && kills=$((kills + 1)); fi
    if ((now % 20 == 14)); then victim; fi
done
wait "${generators[@]}" || true

done_handovers=$(grep -c '"message":"handed over' "$out/exchange.log" || true)
struck=$(grep -c 'a bid request made us panic' "$out/exchange.log" || true)
restarted=$(grep -c 'something outside a request has panicked\|"message":"shard died"' "$out/exchange.log" || true)
failed=$(jq -s '[.[].measured | (.errors | add) + .requests - (.errors | .connect + .reset + .timeout + .parse)
    - (.statuses["200"] // 0) - (.statuses["204"] // 0)] | add' "$out/h1.json" "$out/h2.json")
{
    echo "| | requests | 200 | 204 | other | connect | reset | timeout | parse | p50 ms | p99 ms |"
    echo "|---|---|---|---|---|---|---|---|---|---|---|"
    for name in h1 h2; do
        jq -r --arg name "$name" '.measured as $m | $m.errors as $e | [$name, $m.requests, ($m.statuses["200"] // 0),
            ($m.statuses["204"] // 0), ([$m.statuses | to_entries[] | select(.key != "200" and .key != "204") | .value] | add // 0),
            $e.connect, $e.reset, $e.timeout, $e.parse, .latency.p50_ms, .latency.p99_ms] | "| " + (map(tostring) | join(" | ")) + " |"' "$out/$name.json"
    done
    echo
    echo "- $breaks shards made to $fault ($restarted in the log), $reloads reloads, $done_handovers of $handovers handovers, $kills DSPs killed, $struck requests made to panic"
    echo "- **$failed requests failed**"
    conditions
} | tee "$out/chaos.md"
stop_heirs_too
((failed == 0 && breaks > 0 && reloads > 0 && done_handovers == handovers && handovers > 0 && struck > 0))
