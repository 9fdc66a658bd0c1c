#!/usr/bin/env bash
# Instructions per orchestration, in all and per stage, counted by valgrind: unlike nanoseconds they are the same on a
# busy machine and on an idle one. Prints a table; the numbers are per orchestration and include what is called. What
# valgrind does not see is the kernel, and the vDSO's clock, which it replaces by a system call.
#
#   benches/callgrind.sh [ORCHESTRATIONS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
orchestrations=${1:-500}

bench=$(cargo bench --locked --bench orchestration --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/orchestration-[^"]*\)".*/\1/p' | tail -n 1)
[ -n "$bench" ] || { echo "the bench does not build: cargo bench --bench orchestration --no-run" >&2; exit 1; }
out=$(mktemp)
trap 'rm -f "$out"' EXIT
valgrind --tool=callgrind --callgrind-out-file="$out" --collect-atstart=no --toggle-collect='orchestration::counted*' \
    "$bench" --orchestrations "$orchestrations" 2>/dev/null

# The label of a row, and the function whose count it is. callgrind_annotate has a row for each file that was inlined
# into a function; the largest is that of the whole.
callgrind_annotate --auto=no --inclusive=yes --threshold=99.99 "$out" | awk -v n="$orchestrations" '
    BEGIN {
        rows = split("whole|orchestration::counted" \
            ";parse|Parser::parse_request" \
            ";  simd-json: find structure|find_structural_bits_avx2" \
            ";fan-out: answers taken, offers read|PollFn<F> as" \
            ";  offers: read_offers|::read_offers" \
            ";    parse an answer|Parser::parse_response" \
            ";      pass its long strings|strings::close_anywhere" \
            ";      is it UTF-8|validate_utf8_basic" \
            ";    price and currency|decimal::parse_micros" \
            ";    look up a currency|Currency::from_bytes" \
            ";auction: one imp|auction::sell" \
            ";histograms|Histogram<T>::record_n_inner" \
            ";copies: memcpy|__memcpy_" \
            ";allocations: malloc|:malloc", row, ";")
    }
    /^ *[0-9,]+ \(/ {
        ir = $1
        gsub(",", "", ir)
        ir += 0
        for (i = 1; i <= rows; i++) {
            split(row[i], part, "|")
            at = index($0, part[2])
            rest = substr($0, at + length(part[2]))
            if (at && rest !~ /^[^ ]*::/ && ir > count[i]) count[i] = ir
        }
    }
    END {
        printf "%-40s %12s %7s\n", "", "instructions", "share"
        for (i = 1; i <= rows; i++) {
            split(row[i], part, "|")
            printf "%-40s %12d %6.1f%%\n", part[1], count[i] / n, 100 * count[i] / count[1]
        }
    }'
