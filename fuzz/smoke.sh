#!/usr/bin/env bash
# Every fuzzer for a while, on its committed corpus: fuzz/smoke.sh [--seconds S | --runs N]. 30 s of each if not told otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

(($# > 0)) || set -- --seconds 30
failed=()
for target in fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    ./run.sh "$name" "$@" || failed+=("$name")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
