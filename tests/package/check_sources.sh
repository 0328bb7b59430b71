#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_sources.sh <project folder>: rules of the sources that a search can check. Prints each line that breaks one.
set -u
cd "$1" || exit 2
failed=0

# rule <text> <lines>: fails if there are lines.
rule() {
  [ -z "$2" ] && return
  printf '%s:\n%s\n' "$1" "$2"
  failed=1
}

sources=$(find include kernels examples tests bench cmake \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o \
  -name '*.cu' -o -name '*.cmake' -o -name '*.sh' -o -name '*.py' -o -name CMakeLists.txt \))
code=$(find include kernels -name '*.[hc]pp' -o -name '*.cuh' -o -name '*.cu')
kernels=$(find include kernels -name '*.cuh' ! -name ptx.cuh -o -name '*.cu')
public=include/prefixshare/*.hpp

rule "not ASCII" "$(LC_ALL=C grep -nH '[^ -~[:space:]]' $sources)"
rule "no licence line" "$(grep -L 'SPDX-License-Identifier: Apache-2.0' $sources)"
rule "a top-level header needs more than C++" "$(grep -nHE '^ *# *include *[<"](Eigen|cuda|.*intrin\.h|arm_)' $public)"
rule "a header includes a kernel" "$(grep -nHE '^ *# *include .*\.cuh[>"]' $(find include -name '*.hpp'))"
rule "a kernel header includes CUDA" \
  "$(find include -name '*.cuh' -exec grep -nHE '^ *# *include *[<"](cuda|cub|cooperative_groups|mma|nv/)' {} +)"
rule "a kernel reaches the machine past ptx.cuh" "$(grep -nHE \
  '\<(asm|threadIdx|blockIdx|blockDim|gridDim|atomic[A-Z]\w*|__(shared|constant|ldg|ldcg|shfl|sync|ballot|any|all|threadfence)\w*)\>' \
  $kernels /dev/null)"
cub=$(grep -lE '^ *# *include *<cub/' $code)
[ "$(echo "$cub" | wc -l)" -le 1 ] || rule "CUB in more than one file" "$cub"
rule "a top-level header depends on the configuration" "$(grep -nHE '^ *# *(if|ifdef|ifndef)\>' $public)"
rule "the library includes what prints or aborts" "$(grep -nHE '# *include <(iostream|cassert|assert\.h)>' $code)"
rule "the library prints, stops or reads the environment" \
  "$(grep -nHE '(^|[^_[:alnum:]])(f?printf|f?puts|abort|exit|assert|getenv) *\(' $code)"
rule "a test name has a semicolon, where CMake cuts it in two" "$(grep -nHE 'TEST_CASE\("[^"]*;' $(find tests -name '*.cpp'))"
exit $failed
