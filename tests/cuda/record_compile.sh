#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# record_compile.sh <nvcc> <argument>...: compiles as told. Beside the object it keeps what budget.sh reads: in
# <object>.ptxas what ptxas says of each kernel, in <object>.ptx/ the PTX of each architecture.
set -u
object="" previous=""
for argument; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
rm -rf "$object.ptx" && mkdir -p "$object.ptx" || exit 1
"$@" -Xptxas -v --keep --keep-dir "$object.ptx" 2>"$object.ptxas"
status=$?
find "$object.ptx" -type f ! -name '*.ptx' -delete
grep -av -e '^ptxas info' -e 'bytes stack frame' "$object.ptxas" >&2
exit $status
