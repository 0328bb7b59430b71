#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# record_launches.sh KIT LAUNCHES: runs the cases of the GPU kit with the runtime that only notes launches, which go to
# the file LAUNCHES. Fails if a case ends otherwise than by its answer, which nobody computes: by a crash, a hang, a
# refusal of the library or of the runtime.
set -euo pipefail
kit=$1
export PREFIXSHARE_LAUNCHES=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$PREFIXSHARE_LAUNCHES"

# run STAGE [option...]: its cases fail, which is no fault here.
run() { "$kit" "$1" --out "$work" --quick "${@:2}" >"$work/output" 2>&1 || [[ $? == 1 ]]; }

# Lines of cases that did not come as far as their answer.
not_there() {
  grep -hE '"outcome": "(crashed|timed out)"|"text": "[^"]*(cuda[A-Z][A-Za-z]*: |\((invalid_argument|unsupported|device_error|workspace_too_small|stale_plan|capacity_exceeded|backend_unavailable)\)|no implementation)' \
    "$work"/*.jsonl
}

run small
run golden
run constants
if not_there; then
  echo "These cases of the kit did not come to an end of their own."
  exit 1
fi
if grep '^fault ' "$PREFIXSHARE_LAUNCHES"; then exit 1; fi
echo "$(grep -c '^dynamic ' "$PREFIXSHARE_LAUNCHES") launches of $(cut -d' ' -f2 "$PREFIXSHARE_LAUNCHES" | sort -u | wc -l) kernels"
