#!/usr/bin/env bash
# Finds the highest rate an exchange sustains on one core, then measures it at shares of that, several times each.
# Starts the DSP simulator and `corebid serve` itself, stops them by pid, also on Ctrl-C. Prints a markdown table with
# the conditions; progress goes to stderr. Needs bash, jq, taskset, and a release build of both programs.
#
# Sustained means: no error, no refusal, no wrong answer, at least 99 % of the offered rate answered, an excess over the
# earliest possible completion of at most 12 ms at p99, and a generator that was not itself the limit.
#
# The server gets a core of its own. DSPs and generator share the other, which is why DSP answers are on a grid and the
# generator never spins: on two cores, whoever spins measures itself.
set -euo pipefail
# shellcheck source=loadtest/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'USAGE'
Usage: loadtest/sweep.sh [options] [-- options for `corebid-loadtest run`]
  --bin DIR          where corebid and corebid-loadtest are      [target/release]
  --config FILE      configuration of the exchange               [profiles/reference.toml]
  --target URL       where it listens                            [http://127.0.0.1:8080]
  --server-core N    core of the exchange                        [0]
  --load-core N      core of DSPs and generator                  [1]
  --low R --high R   rates between which the limit lies          [200, 20000]
  --probe S          seconds of each short run                   [6]
  --duration S       seconds of each measured run                [60]
  --rates LIST       rates to measure, also as shares of the highest [25%,50%,80%,100%]
  --runs N           runs of each, whose medians are printed too [3]
  --highest R        take this for the highest rate, do not look for it
  --grid-us US       grid of the simulated DSPs' answers, which is part of the excess [50]
  --reports DIR      keep a report of each measured run there, in a folder RATE-RUN [none]
  --seed N           seed of everything                          [1]
USAGE
}

bin=target/release config=profiles/reference.toml target=http://127.0.0.1:8080 server_core=0 load_core=1
low=200 high=20000 probe=6 duration=60 seed=1 rates=25%,50%,80%,100% runs=3 highest=0 grid_us=50 reports=
take_options "bin config target server-core load-core low high probe duration rates runs highest grid-us reports seed" '' "$@"
best=$highest
# The reference profile's floor rule; what the caller gives behind it wins.
run_options=(--floor-rule above "${rest[@]}")
need jq taskset "$bin/corebid" "$bin/corebid-loadtest"
go_before_others

load() { # rate, seconds, warm-up, more options -> one JSON object
    # Exit code 1 says that answers were wrong, which is a finding here; 2 is a mistake of ours and is shown.
    local status=0
    taskset -c "$load_core" "$bin/corebid-loadtest" run --target "$target" --rate "$1" --duration "$2" --warmup "$3" \
        --seed "$seed" --server-pid "$server_pid" --json "${run_options[@]}" "${@:4}" || status=$?
    ((status <= 1)) || exit "$status"
}

# Prints why a run does not count as sustained; nothing if it does.
objection() {
    jq -r '
        ([.measured.statuses | to_entries[] | select(.key != "200" and .key != "204") | .value] | add // 0) as $refused
        | ([.measured.errors[]] | add) as $errors
        | (.measured.verification | .wrong_winner + .wrong_price + .unexpected_no_bid + .missing_no_bid + .malformed)
          as $wrong
        | if $errors + $refused + $wrong > 0 then "\($errors) errors, \($refused) refused, \($wrong) wrong"
          elif .rates.achieved < 0.99 * .rates.offered then "only \(.rates.achieved)/s of \(.rates.offered)/s"
          elif .excess.p99_ms > 12 then "excess p99 \(.excess.p99_ms) ms"
          elif .generator.was_the_limit then "the generator was the limit"
          else empty end'
}

start dsps "$load_core" "$bin/corebid-loadtest" dsps --count 23 --base-port 9001 --seed "$seed" \
    --grid-us "$grid_us"
await_port 127.0.0.1:9001 dsps
COREBID_SERVER__CORES=$server_core start corebid "$server_core" "$bin/corebid" serve --config "$config"
server_pid=${pids[-1]}
address=${target#http://}
await_port "${address%%/*}" corebid

find_highest() {
    echo "sweep.sh: looking for the limit between $low/s and $high/s" >&2
    # To within 3 %: closer than two runs of the same rate agree.
    while ((high - low > high * 3 / 100 && high - low > 10)); do
        rate=$(((low + high) / 2))
        ((best == 0)) && rate=$low
        why=$(load "$rate" "$probe" 2 | objection)
        # A second chance: on a virtual machine somebody else may have had the core for those seconds.
        [[ -z $why ]] || why=$(load "$rate" "$probe" 2 | objection)
        echo "  $rate/s: ${why:-sustained}" >&2
        if [[ -z $why ]]; then
            best=$rate low=$rate
        elif ((best == 0)); then
            echo "sweep.sh: not even $rate/s is sustained: $why" >&2
            exit 1
        else
            high=$rate
        fi
    done
    if ((best == 0)); then
        echo "sweep.sh: --low and --high are too close" >&2
        exit 2
    fi
    echo "Highest sustained rate: **$best/s** (no error, no wrong answer, excess p99 <= 12 ms, in runs of $probe s)."
    echo
}

# One row for each JSON object on standard input, and one of their medians.
rows() {
    jq -rs '
        def median: sort | if length == 0 then null else .[(length - 1) / 2 | floor] end;
        map([.conditions.rate, .rates.achieved, .latency.p50_ms, .latency.p90_ms, .latency.p99_ms, .latency.p999_ms,
         .latency.max_ms, .excess.p50_ms, .excess.p90_ms, .excess.p99_ms, .server.cpu_us_per_orchestration,
         .server.run_delay_us_per_orchestration, .server.rss_peak_mib, .send_lateness.p99_ms,
         .measured.verification.exact, .measured.verification.within_grey,
         (.measured.verification | .wrong_winner + .wrong_price + .unexpected_no_bid + .missing_no_bid + .malformed),
         ([.measured.errors[]] | add)])
        | . + if length > 1 then [transpose | map(map(select(. != null)) | median) | map("**\(. // "-")**")] else [] end
        | .[] | "| " + (map(. // "-" | tostring) | join(" | ")) + " |"'
}

((best > 0)) || find_highest

cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -1)
echo "| rate/s | achieved/s | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | excess p50 ms | excess p90 ms | excess p99 ms |\
 CPU us/orch. | waited us/orch. | peak MiB | lateness p99 ms | exact | grey | wrong | errors |"
echo "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
for rate in ${rates//,/ }; do
    [[ $rate == *% ]] && rate=$((best * ${rate%\%} / 100))
    for ((run = 1; run <= runs; run++)); do
        load "$rate" "$duration" 5 ${reports:+--report "$reports/$rate-$run"}
    done | rows
done
cat <<CONDITIONS

Conditions: commit $(git rev-parse --short HEAD), $(date -u +%Y-%m-%dT%H:%MZ), kernel $(uname -r), $cpu, $(nproc) CPUs; exchange on core $server_core, 23 simulated
DSPs (seed $seed, reference latency profile, answers on a grid of $grid_us us) and the generator on core $load_core; $duration s per row after
5 s of warm-up; medians in bold.
Latency is from the intended send time of Poisson arrivals. \`$config\`, load: \`corebid-loadtest run --target $target ${run_options[*]}\`.
CONDITIONS
