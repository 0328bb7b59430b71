# SPDX-License-Identifier: Apache-2.0
# For scripts that source it: which nvcc to use.

# nvcc_release <nvcc>: such as 13.0; nothing if it does not run.
nvcc_release() { "$1" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p'; }

# find_nvcc [path...]: prints the first that is new enough, of $CUDACXX, PATH, the usual place and these paths.
find_nvcc() {
  local nvcc release
  for nvcc in "${CUDACXX:-}" "$(command -v nvcc)" /usr/local/cuda/bin/nvcc "$@"; do
    release=$(nvcc_release "${nvcc:-false}") || continue
    [[ -n $release && $(printf '12.8\n%s\n' "$release" | sort -V | head -n 1) == 12.8 ]] && echo "$nvcc" && return
  done
  return 1
}
