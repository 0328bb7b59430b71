#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/gpu/run with a kit that only says how it was called and ends as it is told.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kit=$work/build/gpu/tests/gpu/gpu_kit
failed=0

mkdir -p "$work/tests/gpu" "$work/tests/cuda" "${kit%/*}" "$work/bin"
cp "$here/run" "$work/tests/gpu/"
cp "$here/../cuda/nvcc.sh" "$work/tests/cuda/"
echo c0ffee >"$work/build/gpu/commit"
cat >"$kit" <<'TEXT'
#!/usr/bin/env bash
echo "kit $*" | sed "s,$ROOT,ROOT,g"
exit "$(cat "$ROOT/code.$1" 2>/dev/null || echo 0)"
TEXT
cat >"$work/bin/compute-sanitizer" <<'TEXT'
#!/bin/sh
[ "$2" != "$FAULTY" ] || { echo "a race" && exit 9; }
TEXT
chmod +x "$kit" "$work/bin/compute-sanitizer"
export ROOT=$work FAULTY=none

# run CODE [argument...]: leaves what it prints in $output; the exit code must be CODE.
run() {
  local want=$1 code=0
  shift
  output=$("$work/tests/gpu/run" "$@" 2>&1) || code=$?
  ((code == want)) || { echo "run $*: exit code $code, want $want" && failed=1; }
}
has() { [[ $output == *"$1"* ]] || { printf 'no "%s" in:\n%s\n' "$1" "$output" && failed=1; }; }
# ended STAGE HOW: its line of the summary.
ended() {
  grep -qE "^$1 +[0-9]+ s  $2$" <<<"$output" || { printf '%s did not end as "%s":\n%s\n' "$1" "$2" "$output" && failed=1; }
}
has_not() { [[ $output != *"$1"* ]] || { printf '"%s" in:\n%s\n' "$1" "$output" && failed=1; }; }

run 0 --out "$work/results" conformance golden
has "kit conformance --out ROOT/results --commit c0ffee --workloads ROOT/tests/gpu/workloads.txt"
has "kit golden --out ROOT/results"
ended golden passed
[[ -d $work/results ]] || { echo "no folder for results" && failed=1; }
run 0 --resume --quick --out "$work/results" bench
has "kit bench --resume --quick --out"

echo 75 >"$work/code.constants"
run 75 constants golden
ended constants "unfinished, go on with --resume"
has "kit golden"
echo 1 >"$work/code.conformance"
run 1 constants conformance golden
ended conformance failed
has "kit golden"
echo 124 >"$work/code.golden"
run 1 golden
ended golden "did not end, and was killed"
echo 77 >"$work/code.conformance"
run 77 conformance bench
has_not "kit bench"

run 2 paint
has "There is no stage paint."
run 2 --paint
run 0 --help
has "tests/gpu/run [--out FOLDER]"

run 0 --out "$work/s" sanitizer
has "compute-sanitizer is not installed"
export PATH=$work/bin:$PATH
run 0 --out "$work/s" sanitizer
has '"case": "racecheck", "outcome": "passed"'
FAULTY=racecheck
run 1 --out "$work/s" sanitizer
has '"case": "memcheck", "outcome": "passed"'
has "a race"
has '"case": "racecheck", "outcome": "failed"'
[[ $(wc -l <"$work/s/sanitizer.jsonl") == 3 ]] || { echo "sanitizer.jsonl is of another run too" && failed=1; }
exit $failed
