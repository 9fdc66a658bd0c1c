#!/usr/bin/env bash
# Whether the event log loses anything when every auction is logged: loads an exchange, then holds what the log says
# (`corebid report`) against /metrics, count by count and money to the micro. Prints a markdown table, exits with 1 if anything
# differs or was lost, 2 on bad usage. Starts simulator and exchange itself, stops them by pid, also on Ctrl-C. Needs bash,
# curl, Python 3, and a release build of both programs.
set -euo pipefail
# shellcheck source=loadtest/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'USAGE'
Usage: loadtest/events.sh [options]
  --rate R           bid requests a second                       [3000]
  --duration S       seconds                                     [30]
  --port N           first of 25 ports: exchange, admin port, DSPs [18280]
  --out DIR          where the log is written to, on the disk that is to be tried [target/events]
  --bin DIR          where corebid and corebid-loadtest are      [build them: target/release]
USAGE
}

command="loadtest/events.sh $*"
rate=3000 duration=30 port=18280 out=target/events bin=''
take_options "rate duration port out bin" '' "$@"
to_root
need curl python3 "$bin"/{corebid,corebid-loadtest}
mkdir -p "$out"
rm -f "$out"/events*.ndjson
go_before_others

admin=http://127.0.0.1:$((port + 1))
{
    profile_on_ports
    printf '\n[events]\nfile = "%s"\none_in = 1\nfiles_max = 100\n' "$out/events.ndjson"
} >"$scratch/corebid.toml"
"$bin/corebid-loadtest" dsps --base-port $((port + 2)) >"$scratch/dsps.log" 2>&1 &
pids+=($!)
"$bin/corebid" serve --config "$scratch/corebid.toml" >"$scratch/corebid.log" 2>&1 &
pids+=($!)
await_ready "$admin" "$scratch/corebid.log"
# Exit code 1 says that answers were late or wrong, which is not the question here.
"$bin/corebid-loadtest" run --target "http://127.0.0.1:$port" --rate "$rate" --duration "$duration" --warmup 3 --h2-connections 4 \
    --floor-rule above --server-pid "${pids[-1]}" --json >"$out/run.json" 2>"$scratch/run.log" || (($? == 1))
# Late answers are looked for up to a second, buffers and counts handed over within another.
sleep 3
curl -s "$admin/metrics" >"$out/metrics.txt"
"$bin/corebid" report --json --events "$out/events*.ndjson" >"$out/report.json"
conditions
echo
python3 loadtest/events.py "$out/metrics.txt" "$out/report.json" "$out/run.json" "$out"
