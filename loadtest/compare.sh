#!/usr/bin/env bash
# Measures corebid beside loadtest/peers/tokio-exchange, a plain exchange on tokio, hyper and serde_json: the same DSPs,
# the same load, the same core, in turn. Prints a markdown table, the ratios and the conditions; progress goes to
# stderr. Starts all it needs and stops it by pid, also on Ctrl-C. Needs bash, jq, taskset, two cores, and cargo unless
# --bin is given.
#
# Every run has an exchange started for it, so that its peak memory is its own. Runs alternate between the exchanges, so
# that whatever else the machine does meets all of them; of several runs the median counts, of wrong answers the sum.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: loadtest/compare.sh [options] [-- options for `corebid-loadtest run`]
  --runs N           runs of each exchange at each rate          [3]
  --rates "R ..."    bid requests per second                     [500 1000 1500]
  --duration S       seconds measured in each run                [20]
  --warmup S         seconds of the same load before that        [5]
  --seed N           seed of everything                          [1]
  --server-core N    core of the exchange                        [0]
  --load-core N      core of DSPs and generator                  [1]
  --bin DIR          take the three programs from here           [build them: target/release]
USAGE
}

command="loadtest/compare.sh $*"
runs=3 rates='500 1000 1500' duration=20 warmup=5 seed=1 server_core=0 load_core=1 bin=''
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        --runs | --rates | --duration | --warmup | --seed | --server-core | --load-core | --bin)
            (($# > 1)) || { usage >&2; exit 2; }
            name=${1#--}
            declare "${name//-/_}=$2"
            shift 2
            ;;
        *) usage >&2; exit 2 ;;
    esac
done
run_options=("$@")
[[ -z $bin ]] || bin=$(realpath "$bin")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z $bin ]]; then
    # Apart: built together, the peer's features of tokio and hyper would be compiled into corebid too.
    cargo build --release --locked --quiet -p corebid -p corebid-loadtest
    cargo build --release --locked --quiet -p tokio-exchange
    bin=target/release
fi
for tool in jq taskset "$bin"/{corebid,corebid-loadtest,tokio-exchange}; do
    command -v "$tool" >/dev/null || { echo "compare.sh: $tool is missing" >&2; exit 2; }
done

# Where the profiles have corebid listen; the peer does the same.
readonly address=127.0.0.1:8080
scratch=$(mktemp -d)
pids=()
stop() { # pid
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
stop_all() {
    # Only what this script started; newest first, so that an exchange drains while its DSPs are there.
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        stop "${pids[i]}"
    done
    rm -rf "$scratch"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Without this the kernel divides the CPUs between terminals, and one with a compiler running takes half of ours.
{ echo -10 >/proc/self/autogroup; } 2>/dev/null || echo "compare.sh: no autogroup priority (not root)" >&2

start() { # name, core, command...: its pid is then the last of pids
    local name=$1 core=$2
    shift 2
    taskset -c "$core" "$@" >"$scratch/$name.log" 2>&1 &
    pids+=($!)
}

listens() { # host:port
    (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null
}

await() { # host:port, name; of what was started last
    for _ in $(seq 100); do
        kill -0 "${pids[-1]}" 2>/dev/null || break
        if listens "$1"; then return; fi
        sleep 0.1
    done
    echo "compare.sh: $2 does not listen on $1:" >&2
    tail -5 "$scratch/$2.log" >&2
    exit 1
}

# Another program's exchange would be measured in place of ours.
for port in "$address" 127.0.0.1:9001 127.0.0.1:9090; do
    if listens "$port"; then
        echo "compare.sh: something listens on $port already" >&2
        exit 1
    fi
done

start_exchange() { # exchange, protocol with DSPs
    case $1-$2 in
        corebid-h1) set -- "$bin/corebid" serve --config profiles/reference.toml ;;
        corebid-h2) set -- "$bin/corebid" serve --config profiles/reference-h2.toml ;;
        tokio-*) set -- "$bin/tokio-exchange" --listen "$address" --threads 1 --dsp-protocol "$2" ;;
    esac
    COREBID_SERVER__CORES=$server_core start exchange "$server_core" "$@"
    await "$address" exchange
}

measure() { # exchange, protocol, rate: appends a line of JSON to the results
    start_exchange "$1" "$2"
    local server_pid=${pids[-1]} status=0
    # Not in the foreground: a signal to this script alone would have to wait for its end.
    start run "$load_core" "$bin/corebid-loadtest" run --target "http://$address" --rate "$3" --duration "$duration" \
        --warmup "$warmup" --seed "$seed" --floor-rule above --server-pid "$server_pid" --json "${run_options[@]}"
    wait "${pids[-1]}" || status=$?
    # 1 says that answers were wrong, which is a finding; 2 is a mistake of ours.
    if ((status > 1)); then
        tail -5 "$scratch/run.log" >&2
        exit "$status"
    fi
    grep '^{' "$scratch/run.log" | jq -c --arg exchange "$1" --arg protocol "$2" --argjson rate "$3" '
        (.measured.verification | .wrong_winner + .wrong_price + .unexpected_no_bid + .missing_no_bid + .malformed)
          as $wrong
        | ([.measured.statuses | to_entries[] | select(.key != "200" and .key != "204") | .value] | add // 0) as $refused
        | {$exchange, $protocol, $rate, achieved: .rates.achieved, $wrong,
           wrong_auctions: ($wrong - .measured.verification.bids_lost),
           failed: (([.measured.errors[]] | add) + $refused),
           cpu_us: .server.cpu_us_per_orchestration, wait_us: .server.run_delay_us_per_orchestration,
           p50: .latency.p50_ms, p99: .latency.p99_ms, excess_p50: .excess.p50_ms, excess_p99: .excess.p99_ms,
           rss_mib: .server.rss_peak_mib, generator_limit: .generator.was_the_limit}' | tee -a "$scratch/results" |
        jq -r '"  \(.exchange) \(.protocol) \(.rate)/s: \(.cpu_us) us CPU, \(.wrong) wrong, \(.failed) failed"' >&2
    stop "$server_pid"
    unset 'pids[-1]' 'pids[-1]'
}

exchanges=('corebid h1')
[[ -e profiles/reference-h2.toml ]] && exchanges+=('corebid h2')
exchanges+=('tokio h1' 'tokio h2')

start dsps "$load_core" "$bin/corebid-loadtest" dsps --seed "$seed"
await 127.0.0.1:9001 dsps
load_before=$(cut -d' ' -f1-3 /proc/loadavg)
for ((run = 1; run <= runs; run++)); do
    echo "compare.sh: run $run of $runs" >&2
    for rate in $rates; do
        for exchange in "${exchanges[@]}"; do
            read -r name protocol <<<"$exchange"
            measure "$name" "$protocol" "$rate"
        done
    done
done

jq -rs '
    def median: map(select(. != null)) | sort
        | if length == 0 then null elif length % 2 == 1 then .[length / 2 | floor]
          else (.[length / 2 - 1] + .[length / 2]) / 2 end;
    def round2: if . == null then "-" else (. * 100 | round / 100) end;
    def over($other): if . == null or $other == null or $other == 0 then "-" else (. / $other | round2) end;
    def row: "| " + (map(tostring) | join(" | ")) + " |";
    def measures: ["achieved", "cpu_us", "wait_us", "p50", "p99", "excess_p50", "excess_p99", "rss_mib"];

    (group_by([.rate, .exchange, .protocol]) | map(
        . as $runs | reduce measures[] as $m (
            $runs[0] | {rate, exchange, protocol}; .[$m] = ($runs | map(.[$m]) | median))
        | .wrong = ($runs | map(.wrong) | add)
        | .wrong_auctions = ($runs | map(.wrong_auctions) | add)
        | .failed = ($runs | map(.failed) | add)
        | .limited = ($runs | map(select(.generator_limit)) | length))) as $rows
    | (["rate/s", "exchange", "DSPs over", "achieved/s", "wrong", "of these wrong auctions", "failed",
        "CPU us/orch.", "waited for CPU us/orch.", "p50 ms", "p99 ms", "excess p50 ms", "excess p99 ms", "peak RSS MiB",
        "runs limited by generator"] | row),
      "|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
      ($rows[] | [.rate, .exchange, .protocol, (.achieved | round2), .wrong, .wrong_auctions, .failed,
                  (.cpu_us | round2), (.wait_us | round2), (.p50 | round2), (.p99 | round2),
                  (.excess_p50 | round2), (.excess_p99 | round2), (.rss_mib | round2), .limited] | row),
      "",
      "The peer divided by corebid: above 1, corebid takes less. \"Best\" is the protocol with less CPU.",
      "",
      (["rate/s", "peer", "corebid", "CPU", "p50", "p99", "excess p50", "excess p99", "peak RSS"] | row),
      "|--:|---|---|--:|--:|--:|--:|--:|--:|",
      ($rows[] | select(.exchange == "corebid") as $ours
        | [$rows[] | select(.exchange == "tokio" and .rate == $ours.rate)] as $peers
        | (($peers[] | select(.protocol == $ours.protocol) | .name = .protocol),
           ($peers | map(select(.cpu_us != null)) | min_by(.cpu_us) // empty | .name = "best: " + .protocol))
        | [.rate, .name, $ours.protocol, (.cpu_us | over($ours.cpu_us)), (.p50 | over($ours.p50)),
           (.p99 | over($ours.p99)), (.excess_p50 | over($ours.excess_p50)), (.excess_p99 | over($ours.excess_p99)),
           (.rss_mib | over($ours.rss_mib))] | row)' "$scratch/results"

cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -1)
commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
cat <<CONDITIONS

Conditions: $(date -u +%Y-%m-%dT%H:%MZ), commit $commit, kernel $(uname -r), $cpu, $(nproc) CPUs, load average
$load_before at the start. The exchange on core $server_core; 23 simulated DSPs (seed $seed, reference latency profile) and the generator on
core $load_core. Medians of $runs run(s) of $duration s after $warmup s of warm-up; wrong and failed answers are sums. SSP side: HTTP/1.1
unless the command says otherwise; latency from the intended send time of Poisson arrivals. Command: \`$command\`
CONDITIONS
