#!/usr/bin/env bash
# Takes both cores away from an exchange again and again, for 105 ms at a time with moments between, and says whether its shards
# still turn when that is over: loadtest/standstill.sh [BIN [SECONDS]]. Exits with 1 if one stands still. Decision 0036 says why it
# might. Needs root (SCHED_FIFO), curl, Python 3; ports 19280 and 19290; the rest of the machine stands still as well.
set -euo pipefail
# shellcheck source=loadtest/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

bin=${1:-target/release} seconds=${2:-30}
throttle=$(cat /proc/sys/kernel/sched_rt_runtime_us)
throttle_again() {
    echo "$throttle" >/proc/sys/kernel/sched_rt_runtime_us
    stop_all
}
trap throttle_again EXIT
cat >"$scratch/hog.py" <<'PYTHON'
import ctypes, os, random, sys, time
ctypes.CDLL(None).prctl(29, 1)  # PR_SET_TIMERSLACK: moments that are as short as they should be
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    until = time.monotonic() + 0.105
    while time.monotonic() < until:
        pass
    time.sleep(random.uniform(1e-5, 1.2e-4))
PYTHON
root=$(dirname "${BASH_SOURCE[0]}")/..
sed 's/:8080/:19280/; s/:9090/:19290/' "$root/profiles/reference-h2.toml" >"$scratch/corebid.toml"
COREBID_SERVER__SHARDS=2 "$bin/corebid" serve --config "$scratch/corebid.toml" >"$scratch/corebid.log" 2>&1 &
pids+=($!)
sleep 4
echo -1 >/proc/sys/kernel/sched_rt_runtime_us
hogs=()
for core in 0 1; do
    python3 "$scratch/hog.py" "$core" "$seconds" &
    pids+=($!) hogs+=($!)
done
wait "${hogs[@]}"
sleep 5
curl -fsS -m 5 'http://127.0.0.1:19290/live.json?window=3' | python3 -c '
import json, sys
shards = json.load(sys.stdin)["shards"]
silent = [shard["shard"] for shard in shards if shard["cpu_percent"] is None]
print("shards that stand still:", silent or "none", "of", len(shards))
sys.exit(bool(silent))'
