#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_symbols.sh <library> <include folder>: the library neither prints, stops the program nor reads the environment; a
# shared one shows exactly the functions that the headers mark with PREFIXSHARE_API.
set -eu
library=$1
include=$2

case $library in
*.a) table= ;;
*) table=-D ;;
esac

banned='stdout|stderr|_*v?f?printf(_chk)?|f?puts|f?putc|putchar|fwrite|write|abort|_?[Ee]xit|quick_exit'
banned="$banned|__assert_fail|(secure_)?getenv|std::(cout|cerr|clog)|std::__glibcxx_assert_fail.*"
# Symbol names with the version ("@GLIBC_2.34") cut off.
if nm $table -C --undefined-only "$library" | sed -n 's/^ *[Uuvw] //p' | sed 's/@.*//' | grep -xE "$banned"; then
  echo "$library: refers to the functions above"
  exit 1
fi

[ -n "$table" ] || exit 0
shown=$(nm -DC --defined-only "$library" | sed 's/^[0-9a-f]* . //' | sort -u)
if printf '%s\n' "$shown" | grep -v '^prefixshare::'; then
  echo "$library: shows the symbols above"
  exit 1
fi
shown=$(printf '%s\n' "$shown" | sed 's/(.*//; s/.*:://' | sort -u)
marked=$(grep -rhE '^ *PREFIXSHARE_API .*\(' "$include" | sed -E 's/\(.*//; s/.*[ *&]//' | sort -u)
if [ "$shown" != "$marked" ]; then
  printf '%s shows\n%s\nthe headers mark\n%s\n' "$library" "$shown" "$marked"
  exit 1
fi
