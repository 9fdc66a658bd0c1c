#!/usr/bin/env bash
# Instructions per orchestration, in all and per stage, and per turn of the codecs, counted by valgrind: unlike
# nanoseconds they are the same on a busy machine and on an idle one. Prints tables; the numbers are per round and include
# what is called. What valgrind does not see is the kernel, and the vDSO's clock, which it replaces by a system call.
#
#   benches/callgrind.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rounds=${1:-500}
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# Linked as one unit, as a release is, the stages are inlined into each other and cannot be told apart. The whole differs by a
# few percent.
export CARGO_PROFILE_BENCH_LTO=thin CARGO_PROFILE_BENCH_CODEGEN_UNITS=4 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/callgrind

built() { # bench: its executable
    local bench
    bench=$(cargo bench --locked --bench "$1" --no-run --message-format=json 2>/dev/null |
        sed -n "s/.*\"executable\":\"\([^\"]*\/$1-[^\"]*\)\".*/\1/p" | tail -n 1)
    [ -n "$bench" ] || { echo "the bench does not build: cargo bench --bench $1 --no-run" >&2; exit 1; }
    echo "$bench"
}

# Counts what happens inside the bench's function `counted`.
count() { # title, rows, executable, options...: rows are "label|function", separated by semicolons
    local title=$1 rows=$2
    shift 2
    valgrind --tool=callgrind --callgrind-out-file="$out" --collect-atstart=no --toggle-collect='*::counted*' \
        "$@" 2>/dev/null
    # callgrind_annotate has a row for each file that was inlined into a function; the largest is that of the whole.
    callgrind_annotate --auto=no --inclusive=yes --threshold=99.99 "$out" |
        awk -v n="$rounds" -v title="$title" -v rows="$rows" '
    BEGIN { count_of = split(rows, row, ";") }
    /^ *[0-9,]+ \(/ {
        ir = $1
        gsub(",", "", ir)
        ir += 0
        for (i = 1; i <= count_of; i++) {
            split(row[i], part, "|")
            at = index($0, part[2])
            rest = substr($0, at + length(part[2]))
            if (at && rest !~ /^[^ ]*::/ && ir > count[i]) count[i] = ir
        }
    }
    END {
        printf "%-40s %12s %7s\n", title, "instructions", "share"
        for (i = 1; i <= count_of; i++) {
            split(row[i], part, "|")
            printf "%-40s %12d %6.1f%%\n", part[1], count[i] / n, 100 * count[i] / count[1]
        }
    }'
}

bench=$(built orchestration)
count "an orchestration" "whole|orchestration::counted\
;parse|Parser::parse_request\
;  simd-json: find structure|find_structural_bits_avx2\
;fan-out: answers taken, offers read|Open<T>::take_answers\
;  offers: read_offers|::read_offers\
;    parse an answer|Parser::parse_response\
;      pass its long strings|strings::close_anywhere\
;      is it UTF-8|validate_utf8_basic\
;    price and currency|decimal::parse_micros\
;    look up a currency|Currency::from_bytes\
;auction: one imp|auction::sell\
;histograms|Histogram<T>::record_n_inner\
;copies: memcpy|__memcpy_\
;allocations: malloc|:malloc" "$bench" --orchestrations "$rounds"

echo
count "an orchestration, every one logged" "whole|orchestration::counted\
;the event's line|Orchestrator<T>::log_auction\
;allocations: malloc|:malloc" "$bench" --orchestrations "$rounds" --events 1

bench=$(built codec)
for head in least usual; do
    echo
    count "a turn of the codecs, $head head" "whole|codec::counted\
;h2: 22 calls out|codec::Http2::send\
;h2: 22 answers in|codec::Http2::receive\
;  header blocks|ClientConnection<T>::on_block\
;    strings, not yet known|hpack::string\
;h1: head out|codec::Http1::send\
;h1: answer in, by length|codec::receive_by_length\
;h1: answer in, chunked|codec::receive_chunked\
;copies: memcpy|__memcpy_\
;allocations: malloc|:malloc" "$bench" --turns "$rounds" --head "$head"
done
