#!/usr/bin/env bash
# Measures corebid beside loadtest/peers/tokio-exchange, a plain exchange on tokio, hyper and serde_json: the same DSPs, the
# same load, the same core. Prints markdown for loadtest/runs: the highest rate each sustains over every protocol, both at
# equal rates, each near its own limit, the ratios, and the conditions; progress goes to stderr. Starts all it needs and
# stops it by pid, also on Ctrl-C. Needs bash, jq, taskset, two cores, and cargo unless --bin is given.
#
# Fair by these rules. Every run has an exchange started for it, so that its peak memory and its bad moments are its own.
# Runs alternate between the exchanges, so that whatever else the machine does meets all of them; of several runs the
# median counts, of wrong answers the sum. Each exchange is compared by the protocols that are best for it.
#
# Sustained means, as in sweep.sh: no error, no refusal, no wrong answer, at least 99 % of the offered rate answered, a
# bound on the excess over the earliest possible completion at p99, and a generator that was not itself the limit. A rate has
# a second chance, on a machine that is not ours alone.
set -euo pipefail
# shellcheck source=loadtest/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'USAGE'
Usage: loadtest/compare.sh [options] [-- options for `corebid-loadtest run`]
  --ssp "P ..."      protocols towards SSPs: h1, h2              [h1 h2]
  --dsp "P ..."      towards DSPs: h1, h2, h2-hyper (peer only)  [h1 h2 h2-hyper]
  --low R            lowest rate a limit is looked for at        [500]
  --high R           and highest                                 [16000]
  --probe S          seconds of each run in search of it         [6]
  --excess-ms MS     most excess at p99 that counts as sustained [12]
  --rates "R ..."    equal rates at which all that sustain them are measured
                     [25, 50 and 80 % of what the slower exchange sustains at its best]
  --runs N           runs of each at each rate                   [3]
  --duration S       seconds measured in each run                [20]
  --warmup S         seconds of the same load before that        [3]
  --seed N           seed of everything                          [1]
  --server-core N    core of the exchange                        [0]
  --load-core N      core of DSPs and generator                  [1]
  --grid-us N        grid on which DSPs answer                   [500]
  --port N --admin-port N --dsp-port N  of the exchange, its admin port, DSP 1  [8080 9090 9001]
  --raw FILE         also keep each run as a line of JSON
  --bin DIR          take the three programs from here           [build them: target/release]
USAGE
}

command="loadtest/compare.sh $*"
ssp='h1 h2' dsp='h1 h2 h2-hyper' low=500 high=16000 probe=6 excess_ms=12 rates='' runs=3 duration=20 warmup=3 seed=1
server_core=0 load_core=1 grid_us=500 port=8080 admin_port=9090 dsp_port=9001 raw='' bin=''
take_options "ssp dsp low high probe excess-ms rates runs duration warmup seed server-core load-core grid-us port admin-port dsp-port raw bin" \
    '' "$@"
run_options=("${rest[@]}")
[[ -z $bin ]] || bin=$(realpath "$bin")
[[ -z $raw ]] || raw=$(realpath "$raw")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z $bin ]]; then
    # Apart: built together, the peer's features of tokio and hyper would be compiled into corebid too.
    cargo build --release --locked --quiet -p corebid -p corebid-loadtest
    cargo build --release --locked --quiet -p tokio-exchange
    bin=target/release
fi
need jq taskset "$bin"/{corebid,corebid-loadtest,tokio-exchange}

readonly dsps=23
readonly address=127.0.0.1:$port
go_before_others

# Another program's exchange would be measured in place of ours.
for taken in "$port" "$admin_port" "$dsp_port"; do
    if listens "127.0.0.1:$taken"; then
        echo "compare.sh: something listens on port $taken already" >&2
        exit 1
    fi
done

# The profiles, with the DSPs where they are.
for name in reference reference-h2; do
    awk -v port="$dsp_port" '/^endpoint/ { sub(/:[0-9]+\//, ":" port++ "/") } { print }' "profiles/$name.toml" \
        >"$scratch/$name.toml"
done
peer_dsps=()
for ((n = 0; n < dsps; n++)); do peer_dsps+=(--dsp "127.0.0.1:$((dsp_port + n))"); done

start_exchange() { # exchange, protocol with DSPs
    local server
    case $1-$2 in
        corebid-h1) server=("$bin/corebid" serve --config "$scratch/reference.toml") ;;
        corebid-h2) server=("$bin/corebid" serve --config "$scratch/reference-h2.toml") ;;
        tokio-*) server=("$bin/tokio-exchange" --listen "$address" --cores "$server_core" --dsp-protocol "$2" "${peer_dsps[@]}") ;;
    esac
    COREBID_SERVER__LISTEN=$address COREBID_SERVER__ADMIN=127.0.0.1:$admin_port COREBID_SERVER__CORES=$server_core \
        start exchange "$server_core" "${server[@]}"
    await_port "$address" exchange
}

# One run: what the tables need is then a line of JSON in $scratch/run.json. Never in a subshell, whose processes nobody
# would stop.
run() { # "exchange ssp dsp", rate, duration, warm-up
    local exchange ssp dsp status=0 ssp_options=()
    read -r exchange ssp dsp <<<"$1"
    [[ $ssp == h1 ]] || ssp_options=(--h2-connections 4)
    start_exchange "$exchange" "$dsp"
    # Not in the foreground: a signal to this script alone would have to wait for its end.
    start run "$load_core" "$bin/corebid-loadtest" run --target "http://$address" --rate "$2" --duration "$3" --warmup "$4" \
        --seed "$seed" --floor-rule above --server-pid "${pids[-1]}" --json "${ssp_options[@]}" "${run_options[@]}"
    wait "${pids[-1]}" || status=$?
    unset 'pids[-1]'
    # 1 says that answers were wrong, which is a finding; 2 is a mistake of ours.
    if ((status > 1)) || ! grep -q '^{' "$scratch/run.log"; then
        echo "compare.sh: the load generator failed in front of $1:" >&2
        tail -5 "$scratch/run.log" "$scratch/exchange.log" >&2
        exit 1
    fi
    stop_last
    grep '^{' "$scratch/run.log" | jq -c --arg exchange "$exchange" --arg ssp "$ssp" --arg dsp "$dsp" --argjson rate "$2" \
        --argjson excess_ms "$excess_ms" '
        (.measured.verification | .wrong_winner + .wrong_price + .unexpected_no_bid + .missing_no_bid + .malformed)
          as $wrong
        | ([.measured.statuses | to_entries[] | select(.key != "200" and .key != "204") | .value] | add // 0) as $refused
        | ([.measured.errors[]] | add) as $errors
        | {$exchange, $ssp, $dsp, $rate, offered: .rates.offered, achieved: .rates.achieved, $wrong,
           wrong_auctions: ($wrong - .measured.verification.bids_lost), failed: ($errors + $refused),
           cpu_us: .server.cpu_us_per_orchestration, wait_us: .server.run_delay_us_per_orchestration,
           p50: .latency.p50_ms, p99: .latency.p99_ms, excess_p50: .excess.p50_ms, excess_p99: .excess.p99_ms,
           rss_mib: .server.rss_peak_mib, generator_limit: .generator.was_the_limit}
        | .objection = (if .failed + .wrong > 0 then "\($errors) errors, \($refused) refused, \($wrong) wrong"
            elif .achieved < 0.99 * .offered then "\(.achieved)/s of \(.offered)/s"
            elif .excess_p99 > $excess_ms then "excess p99 \(.excess_p99) ms"
            elif .generator_limit then "the generator was the limit"
            else "" end)' >"$scratch/run.json"
}

# Leaves in `why` why a rate is not sustained; nothing if it is.
object() { # combination, rate
    local _
    for _ in first second; do
        run "$1" "$2" "$probe" 2
        why=$(jq -r .objection "$scratch/run.json")
        [[ -n $why ]] || break
    done
    echo "  $1 $2/s: ${why:-sustained}" >&2
}

declare -A highest ended_by
search() { # combination: doubles the rate, then halves the doubt until it is 5 %
    local good=0 bad=$((high + 1)) rate=$low why=''
    ended_by[$1]="not looked for above $high/s"
    while ((rate < bad && rate > good)); do
        object "$1" "$rate"
        if [[ -z $why ]]; then
            good=$rate
        else
            bad=$rate
            ended_by[$1]="$rate/s: $why"
        fi
        if ((good == 0)); then
            break
        elif ((bad > high)); then
            rate=$((good * 2 < high ? good * 2 : high))
        elif ((bad - good > bad / 20)); then
            rate=$(((good + bad) / 2))
        else
            break
        fi
    done
    highest[$1]=$good
}

keep() { # kind: the last run counts
    jq -c --arg kind "$1" '.kind = $kind' "$scratch/run.json" >>"$scratch/results"
}

combinations=()
for exchange in corebid tokio; do
    for s in $ssp; do
        for d in $dsp; do
            [[ "$exchange-$d" == corebid-h2-hyper ]] || combinations+=("$exchange $s $d")
        done
    done
done

start dsps "$load_core" "$bin/corebid-loadtest" dsps --seed "$seed" --count "$dsps" --base-port "$dsp_port" --grid-us "$grid_us"
await_port "127.0.0.1:$dsp_port" dsps
load_before=$(cut -d' ' -f1-3 /proc/loadavg)
began=$(date -u +%Y-%m-%dT%H:%MZ)

echo "compare.sh: looking for the highest rates" >&2
declare -A best=([corebid]='' [tokio]='') best_rate=([corebid]=0 [tokio]=0)
for combination in "${combinations[@]}"; do
    search "$combination"
    exchange=${combination%% *}
    if ((${highest[$combination]} > ${best_rate[$exchange]})); then
        best[$exchange]=$combination
        best_rate[$exchange]=${highest[$combination]}
    fi
done
ours=${best_rate[corebid]} theirs=${best_rate[tokio]}
slower=$((ours < theirs ? ours : theirs))
if ((slower == 0)); then
    echo "compare.sh: not even $low/s is sustained by both" >&2
    exit 1
fi
[[ -n $rates ]] || rates="$((slower / 4)) $((slower / 2)) $((slower * 4 / 5))"

for ((n = 1; n <= runs; n++)); do
    echo "compare.sh: run $n of $runs" >&2
    for rate in $rates; do
        for combination in "${combinations[@]}"; do
            ((${highest[$combination]} >= rate)) || continue
            run "$combination" "$rate" "$duration" "$warmup"
            keep equal
            echo "  $combination $rate/s" >&2
        done
    done
    for exchange in corebid tokio; do
        rate=$((${best_rate[$exchange]} * 4 / 5))
        run "${best[$exchange]}" "$rate" "$duration" "$warmup"
        keep own
        echo "  ${best[$exchange]} $rate/s, 80 % of its own" >&2
    done
done
[[ -z $raw ]] || cp "$scratch/results" "$raw"

cat <<HEADING
## Highest rate sustained
| exchange | SSP over | DSPs over | highest/s | not sustained |
|---|---|---|--:|---|
HEADING
for combination in "${combinations[@]}"; do
    read -r exchange s d <<<"$combination"
    echo "| $exchange | $s | $d | ${highest[$combination]} | ${ended_by[$combination]} |"
done
echo
jq -rn --argjson ours "$ours" --argjson theirs "$theirs" '
    "corebid at its best sustains **\($ours)/s**, the peer at its best **\($theirs)/s**: "
    + "\($ours / $theirs * 100 | round / 100) times as much."'

jq -rs '
    def median: map(select(. != null)) | sort
        | if length == 0 then null elif length % 2 == 1 then .[length / 2 | floor]
          else (.[length / 2 - 1] + .[length / 2]) / 2 end;
    def round2: if . == null then "-" else (. * 100 | round / 100) end;
    def over($other): if . == null or $other == null or $other == 0 then "-" else (. / $other | round2) end;
    def row: "| " + (map(tostring) | join(" | ")) + " |";
    def measures: ["achieved", "cpu_us", "wait_us", "p50", "p99", "excess_p50", "excess_p99", "rss_mib"];
    def medians: group_by([.rate, .exchange, .ssp, .dsp]) | map(
        . as $runs | reduce measures[] as $m (
            $runs[0] | {rate, exchange, ssp, dsp}; .[$m] = ($runs | map(.[$m]) | median))
        | .wrong = ($runs | map(.wrong) | add)
        | .wrong_auctions = ($runs | map(.wrong_auctions) | add)
        | .failed = ($runs | map(.failed) | add)
        | .limited = ($runs | map(select(.generator_limit)) | length));
    def table:
        (["rate/s", "exchange", "SSP over", "DSPs over", "achieved/s", "wrong", "of these wrong auctions", "failed",
          "CPU us/orch.", "waited for CPU us/orch.", "p50 ms", "p99 ms", "excess p50 ms", "excess p99 ms", "peak RSS MiB",
          "runs limited by generator"] | row),
        "|--:|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        (.[] | [.rate, .exchange, .ssp, .dsp, (.achieved | round2), .wrong, .wrong_auctions, .failed, (.cpu_us | round2),
                (.wait_us | round2), (.p50 | round2), (.p99 | round2), (.excess_p50 | round2), (.excess_p99 | round2),
                (.rss_mib | round2), .limited] | row);
    def best($exchange): map(select(.exchange == $exchange and .cpu_us != null)) | min_by(.cpu_us);

    (map(select(.kind == "equal")) | medians) as $equal
    | "", "## At equal rates", ($equal | table), "",
      "The peer divided by corebid: above 1, corebid takes less. Of each, the protocols with the least CPU at that rate.", "",
      (["rate/s", "peer (SSP, DSPs)", "corebid (SSP, DSPs)", "CPU", "p50", "p99", "excess p50", "excess p99", "peak RSS"] | row),
      "|--:|---|---|--:|--:|--:|--:|--:|--:|",
      ($equal | group_by(.rate)[] | best("corebid") as $ours | best("tokio") as $peer
        | select($ours != null and $peer != null)
        | [$ours.rate, "\($peer.ssp), \($peer.dsp)", "\($ours.ssp), \($ours.dsp)", ($peer.cpu_us | over($ours.cpu_us)),
           ($peer.p50 | over($ours.p50)), ($peer.p99 | over($ours.p99)), ($peer.excess_p50 | over($ours.excess_p50)),
           ($peer.excess_p99 | over($ours.excess_p99)), ($peer.rss_mib | over($ours.rss_mib))] | row),
      "", "## Each at 80 % of its own highest rate", (map(select(.kind == "own")) | medians | table)' "$scratch/results"

cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -1)
commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
cat <<CONDITIONS

## Conditions
- $began, commit $commit, kernel $(uname -r), $cpu, $(nproc) CPUs, load average $load_before at the start,
  $(cut -d' ' -f1-3 /proc/loadavg) at the end.
- The exchange alone on core $server_core; $dsps simulated DSPs (seed $seed, reference latency profile, answers on a grid of $grid_us us, which is
  part of the excess) and the generator on core $load_core. SSPs over h2: 4 connections.
- Highest rates by runs of $probe s after 2 s of warm-up, with an excess of at most $excess_ms ms at p99; the rest are medians of $runs run(s) of $duration s after $warmup s of warm-up;
  wrong and failed answers are sums. Latency is from the intended send time of Poisson arrivals.
- Both with the release profile of the workspace, corebid with mimalloc, the peer with the system's allocator. Command: \`$command\`
CONDITIONS
