#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What compiled kernels take, and the table of what they may take.
#   budget.sh make FOLDER [LAUNCHES]          prints the table of the kernels that were compiled below FOLDER
#   budget.sh check TABLE FOLDER [LAUNCHES]   compares; last line: N passed, N failed
# FOLDER holds what record_compile.sh kept. LAUNCHES has lines "dynamic <kernel> <bytes>": the dynamic shared memory that
# launches ask for. Kernels that spill or have local memory fail whatever the table says. CUDACXX names the nvcc.
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)
columns="threads registers shared dynamic barriers mma.sync ldmatrix cp.async.cg cp.async.wait ex2.approx griddep
  atom. membar. bar. shfl."
instructions=${columns#*barriers }

release() { "${CUDACXX:-nvcc}" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p'; }

# Names as C++ writes them, without parameters and without the namespaces that all kernels share.
readable() { c++filt -p | sed -e 's/prefixshare::v0_[0-9]*:://g' -e 's/(anonymous namespace):://g' -e 's/\bcuda:://g'; }

# measure FOLDER [LAUNCHES]: lines of the table, and of faults, one blank between columns.
measure() {
  local ptx records
  mapfile -t ptx < <(find "$1" -name '*.ptx' -type f)
  mapfile -t records < <(find "$1" -name '*.ptxas')
  ((${#records[@]})) || { echo "budget.sh: no kernel was compiled below $1" >&2 && return 1; }
  awk -v instructions="$instructions" -f "$scripts/budget.awk" "${ptx[@]}" "${2:-/dev/null}" "${records[@]}" | readable
}

# Columns of one width; the kernel's name comes last and may have blanks.
align() {
  awk -v columns="$columns" '
    BEGIN { count = split(columns, heading, " ") }
    {
      name = $0
      line = sprintf("%-7s", $1)
      sub(/^[^ ]+ /, "", name)
      for (i = 1; i <= count; ++i) {
        line = line sprintf(" %" (length(heading[i]) > 6 ? length(heading[i]) : 6) "s", $(i + 1))
        sub(/^[^ ]+ /, "", name)
      }
      print line "  " name
    }'
}

make() {
  echo "# What each kernel takes, compiled by nvcc $(release). Made by tests/cuda/budget.sh; ./run cuda checks it."
  echo "# shared, dynamic: bytes of shared memory, static and as launched. From mma.sync on: instructions in the PTX."
  # shellcheck disable=SC2086 # words of their own
  echo "#arch" $columns kernel | align
  measure "$@" | grep -v '^fault ' | LC_ALL=C sort -t' ' -k17 -k1,1 | align
}

# compare TABLE: of the measured lines on stdin, what differs from the table for the architectures that were compiled.
compare() {
  awk '
    function key(name, i) {
      name = $0
      for (i = 1; i <= 16; ++i) sub(/^[^ ]+ /, "", name)
      return $1 " " name
    }
    /^#/ { next }
    { gsub(/ +/, " ") }
    FILENAME != "-" { budget[key()] = $0; next }
    { seen[key()] = 1; compiled[$1] = 1 }
    budget[key()] == $0 { ++passed; next }
    { print "budget: " (key() in budget ? budget[key()] : "none"); print "now:    " $0; ++failed }
    END {
      for (k in budget) {
        split(k, word, " ")
        if (word[1] in compiled && !(k in seen)) { print "budget: " budget[k]; print "now:    gone"; ++failed }
      }
      print passed + 0, failed + 0
    }' "$1" -
}

check() {
  local table=$1 lines faults differences passed failed made_with
  lines=$(measure "${@:2}")
  faults=$(sed -n 's/^fault /fault:  /p' <<<"$lines")
  made_with=$(sed -n 's/^# .* nvcc \([0-9]*\.[0-9]*\)\..*/\1/p' "$table")
  if [[ $made_with == "$(release)" ]]; then
    differences=$(grep -v '^fault ' <<<"$lines" | compare "$table")
    read -r passed failed < <(tail -n 1 <<<"$differences")
    sed '$d' <<<"$differences"
  else
    echo "The table is of nvcc $made_with and this is $(release), whose code differs: not compared."
    passed=0 failed=0
  fi
  [[ -z $faults ]] && ((++passed))
  [[ -z $faults ]] || { echo "$faults" && ((++failed)); }
  echo "$passed passed, $failed failed"
  ((failed == 0))
}

command=${1:?make or check}
shift
"$command" "$@"
