#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# budget.sh on records of two kernels, as they are and with planted faults: it must find each.
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CUDACXX=$work/nvcc
failed=0

# nvcc RELEASE: a compiler that says only which it is.
nvcc() {
  printf '#!/bin/sh\necho "Cuda compilation tools, release %s, V%s.88"\n' "$1" "$1" >"$CUDACXX"
  chmod +x "$CUDACXX"
}

# record FOLDER [SED COMMAND]: what compiling two kernels for sm_80 leaves; the command plants a fault.
record() {
  rm -rf "$1" && mkdir -p "$1/a.cu.o.ptx"
  sed -e "${2:-}" >"$1/a.cu.o.ptx/a.ptx" <<'TEXT'
.target sm_80
.visible .entry _ZN11prefixshare4v0_14cuda5mergeIfLi2EEEvi(
	.param .u32 p
)
.maxntid 128, 1, 1
{
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r2}, {%f1};
@%p1	ex2.approx.ftz.f32 %f2, %f1;
	bar.sync 0;
}
.visible .entry _ZN11prefixshare4v0_14cuda4turnEv(
)
{
	bar.sync 0;
}
TEXT
  sed -e "${2:-}" >"$1/a.cu.o.ptxas" <<'TEXT'
ptxas info    : Compiling entry function '_ZN11prefixshare4v0_14cuda4turnEv' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 1 barriers
ptxas info    : Compiling entry function '_ZN11prefixshare4v0_14cuda5mergeIfLi2EEEvi' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 512 bytes smem, 376 bytes cmem[0]
TEXT
  sed -e "${2:-}" >"$1/launches" <<'TEXT'
dynamic _ZN11prefixshare4v0_14cuda4turnEv 0
dynamic _ZN11prefixshare4v0_14cuda5mergeIfLi2EEEvi 65536
TEXT
}

# expect STATUS LAST_LINE WHAT: how the check of the record ends.
expect() {
  local status=0 last
  last=$("$scripts/budget.sh" check "$work/table" "$work/now" "$work/now/launches" 2>&1 | tail -n 1) || status=1
  [[ $status == "$1" && $last == "$2" ]] && return
  echo "$3: got '$last' and status $status, want '$2' and $1"
  failed=1
}

nvcc 13.0
record "$work/first"
"$scripts/budget.sh" make "$work/first" "$work/first/launches" >"$work/table"
line='sm_80 128 168 512 65536 1 1 0 0 0 1 0 0 0 1 0 merge<float, 2>'
tr -s ' ' <"$work/table" | grep -qxF "$line" || { echo "the table has no line '$line'" && failed=1; }

record "$work/now" && expect 0 "3 passed, 0 failed" "the same again"
record "$work/now" 's/Used 168/Used 170/' && expect 1 "2 passed, 1 failed" "more registers"
record "$work/now" 's/512 bytes smem/1024 bytes smem/' && expect 1 "2 passed, 1 failed" "more shared memory"
record "$work/now" 's/65536/98304/' && expect 1 "2 passed, 1 failed" "another launch"
record "$work/now" '/mma.sync/d' && expect 1 "2 passed, 1 failed" "an instruction less"
record "$work/now" 's/4turn/5turns/' && expect 1 "2 passed, 2 failed" "another kernel's name"
record "$work/now" 's/^    0 bytes stack/    8 bytes stack/' && expect 1 "2 passed, 1 failed" "local memory"
record "$work/now" 's/0 bytes spill loads/4 bytes spill loads/' && expect 1 "2 passed, 1 failed" "a spill"
record "$work/now" '2s/^/ptxas info : (C7510) Potential Performance Loss: wgmma is serialised\n/' &&
  expect 1 "2 passed, 1 failed" "a note that something was serialised"
record "$work/now" '/dynamic.*merge/d' && expect 1 "1 passed, 2 failed" "a kernel that nothing launches"
nvcc 13.1
record "$work/now" 's/Used 168/Used 170/' && expect 0 "1 passed, 0 failed" "another nvcc compares no table"
record "$work/now" 's/0 bytes spill loads/4 bytes spill loads/' && expect 1 "0 passed, 1 failed" "but it must not spill"
rm -rf "$work/now" && mkdir "$work/now" && touch "$work/now/launches"
expect 1 "budget.sh: no kernel was compiled below $work/now" "nothing was compiled"
exit $failed
