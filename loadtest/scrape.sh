#!/usr/bin/env bash
# Whether scraping costs bid requests anything: loads an exchange of many shards with and without somebody who reads /metrics, in turns,
# and prints what the load generator saw as a markdown table. Decides nothing: the runs without differ among themselves, and by how
# much is beside them. Needs jq, curl, and a release build of both programs.
set -euo pipefail
# shellcheck source=loadtest/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'USAGE'
Usage: loadtest/scrape.sh [options]
  --shards N         shards of the exchange                      [16]
  --rate R           bid requests a second                       [1000]
  --duration S       seconds of each run                         [15]
  --turns N          runs with, and as many without              [3]
  --every S          seconds between two scrapes                 [1]
  --port N           first of 25 ports: exchange, admin port, DSPs [18480]
  --out DIR          for what the load generator prints          [target/scrape]
  --bin DIR          where corebid and corebid-loadtest are      [build them: target/release]
USAGE
}

command="loadtest/scrape.sh $*"
shards=16 rate=1000 duration=15 turns=3 every=1 port=18480 out=target/scrape bin=''
take_options "shards rate duration turns every port out bin" '' "$@"
to_root
need jq curl "$bin"/{corebid,corebid-loadtest}
mkdir -p "$out"
go_before_others

admin=http://127.0.0.1:$((port + 1))
profile_on_ports >"$scratch/corebid.toml"
"$bin/corebid-loadtest" dsps --base-port $((port + 2)) >"$scratch/dsps.log" 2>&1 &
pids+=($!)
COREBID_SERVER__SHARDS=$shards "$bin/corebid" serve --config "$scratch/corebid.toml" >"$scratch/corebid.log" 2>&1 &
exchange=$!
pids+=("$exchange")
await_ready "$admin" "$scratch/corebid.log"

# Seconds and bytes of each scrape go to a file.
scrape() {
    while :; do
        curl -s -o /dev/null -w '%{time_total} %{size_download}\n' "$admin/metrics" >>"$out/scrapes"
        sleep "$every"
    done
}

conditions
cat <<TABLE
- $shards shards, 23 DSPs, $rate bid requests a second for $duration s; a scrape every $every s, or none

| scraped | scrapes | latency p50 / p99 / p99.9 ms | excess p50 / p99 ms | CPU us/orch. | wrong, and unanswered |
|---|--:|---|---|--:|--:|
TABLE
rm -f "$out/scrapes"
for ((turn = 1; turn <= turns; turn++)); do
    for scraped in no yes; do
        touch "$out/scrapes"
        before=$(wc -l <"$out/scrapes")
        if [[ $scraped == yes ]]; then
            scrape &
            pids+=($!)
        fi
        # Exit code 1 says that answers were late or wrong, which is in the table.
        "$bin/corebid-loadtest" run --target "http://127.0.0.1:$port" --rate "$rate" --duration "$duration" --warmup 3 \
            --h2-connections 16 --floor-rule above --server-pid "$exchange" --json >"$out/$scraped-$turn.json" 2>"$out/$scraped-$turn.log" ||
            (($? == 1))
        [[ $scraped == no ]] || stop_last
        jq -r --arg scraped "$scraped" --arg scrapes "$(($(wc -l <"$out/scrapes") - before))" '
            .measured as $m | ($m.verification | .wrong_winner + .wrong_price + .unexpected_no_bid + .missing_no_bid + .malformed) as $wrong
            | ($m.requests - ($m.statuses["200"] // 0) - ($m.statuses["204"] // 0)) as $failed
            | "| \($scraped) | \($scrapes) | \(.latency.p50_ms) / \(.latency.p99_ms) / \(.latency.p999_ms) | \(.excess.p50_ms) / \(.excess.p99_ms) | " +
              "\(.server.cpu_us_per_orchestration | round) | \($wrong) and \($failed) of \($m.requests) |"' "$out/$scraped-$turn.json"
    done
done
echo
awk '{ n++; seconds += $1; bytes = $2; if ($1 > most) most = $1 }
    END { printf "A scrape took %.1f ms on average, %.1f at most, and had %d kB.\n", 1e3 * seconds / n, 1e3 * most, bytes / 1e3 }' "$out/scrapes"
