// SPDX-License-Identifier: Apache-2.0
// draft_tree_from_parents for batches on CUDA devices: its launches.
#include "cuda/launch.hpp"
#include "cuda/operators.hpp"
#include "prefixshare/cuda/draft_tree.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

Status draft_tree_from_parents(const DraftTreeBatch& args, std::int32_t, std::int32_t) noexcept {
  return launch_draft_tree_from_parents(args, Launch("draft_tree_from_parents", args.stream));
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
