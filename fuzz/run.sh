#!/usr/bin/env bash
# Runs one fuzzer on its committed corpus: fuzz/run.sh TARGET [--runs N | --seconds S | --minimise]
#
# Without a bound it runs until it finds something. What it finds new goes to fuzz/target/corpus/TARGET and stays there
# for the next run; --minimise then takes into fuzz/corpus/TARGET what covers something that is not covered there. Ends
# with a line of figures and 0, or with the input that failed in fuzz/artifacts/TARGET and another status.
#
# Any toolchain will do: the flags that coverage needs are those of a nightly one, which RUSTC_BOOTSTRAP allows on a
# stable one. SANITIZER=address also finds wrong unsafe code; debug assertions and overflow checks are on with either.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    echo "usage: fuzz/run.sh TARGET [--runs N | --seconds S | --minimise]; targets: $(ls fuzz_targets | sed 's/\.rs$//' | xargs)" >&2
    exit 2
}

target=${1:-}
[ -f "fuzz_targets/$target.rs" ] || usage
case ${2:-} in
    '') bound=() ;;
    --runs) bound=("-runs=${3:?$(usage)}") ;;
    --seconds) bound=("-max_total_time=${3:?$(usage)}") ;;
    --minimise) bound=(-merge=1) ;;
    *) usage ;;
esac

# Long enough for what the target reads, short enough for many runs a second.
case $target in
    decimal) max_len=420 ;;
    h2 | hpack) max_len=512 ;;
    *) max_len=1024 ;;
esac

command -v cargo-fuzz >/dev/null || {
    echo "no cargo-fuzz: cargo install --locked cargo-fuzz" >&2
    exit 1
}
export RUSTC_BOOTSTRAP=1 CARGO_TERM_COLOR=never
sanitizer=${SANITIZER:-none}
cargo fuzz build --sanitizer "$sanitizer" "$target"
binary=target/$(rustc -vV | sed -n 's/^host: //p')/release/$target

found=target/corpus/$target artifacts=artifacts/$target
mkdir -p "$found" "$artifacts"
options=(
    -max_len="$max_len" -artifact_prefix="$artifacts/" -print_final_stats=1
    # An input of a kilobyte is read in microseconds. Time is the wall's, and a busy machine may look elsewhere for
    # minutes, or somebody stop the fuzzer;
    # what never ends is found all the same.
    -timeout=3600 -rss_limit_mb=2048 -malloc_limit_mb=64
    ${bound[@]+"${bound[@]}"}
)
[ ! -f "dictionaries/$target" ] || options+=(-dict="dictionaries/$target")

if [ "${2:-}" = --minimise ]; then
    exec "$binary" "${options[@]}" "corpus/$target" "$found"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
began=$EPOCHREALTIME
status=0
"$binary" "${options[@]}" "$found" "corpus/$target" >"$log" 2>&1 || status=$?
seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f", b - a }')
if [ $status -ne 0 ]; then
    tail -n 60 "$log"
    echo "$target: FAILED; the input is in fuzz/$artifacts: fuzz/README.md says what to do with it"
    exit $status
fi
awk -v target="$target" -v seconds="$seconds" -v sanitizer="$sanitizer" -v max="$max_len" '
    /^#/ {
        for (i = 1; i < NF; i++) {
            if ($i == "cov:") cov = $(i + 1)
            if ($i == "ft:") ft = $(i + 1)
            if ($i == "corp:") corpus = $(i + 1)
        }
    }
    /number_of_executed_units/ { runs = $2 }
    /peak_rss_mb/ { rss = $2 }
    END {
        printf "%s: %d executions in %d s, %d a second; %d edges and %d features covered by a corpus of %s; inputs of up to %d bytes; sanitizer %s; peak RSS %d MB; no failure\n", \
            target, runs, seconds, runs / (seconds > 0 ? seconds : 1), cov, ft, corpus, max, sanitizer, rss
    }' "$log"
