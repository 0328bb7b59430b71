// SPDX-License-Identifier: Apache-2.0
// The operators on CUDA devices, and the device itself. Calls are validated, their memory is on the device of their
// stream, and they are of a kind that the implementation accepts; a call is part 0 of 1.
#pragma once

#include <cstdint>

#include "prefixshare/device_runtime.hpp"
#include "prefixshare/draft_tree.hpp"
#include "prefixshare/kv_append.hpp"
#include "prefixshare/merge_states.hpp"
#include "prefixshare/rope.hpp"
#include "prefixshare/rope_rebase.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

// ---- device.cu

/// Whether the current device can run this build's kernels. backend_unavailable with the runtime's error if there is
/// none or the build has no code for it, unsupported if it is older than compute capability 8.0.
Status check_device(const char* op) noexcept;
/// What the runtime calls the current device, where check_device is content; else nothing.
const char* device_name() noexcept;
/// What DeviceRuntime says of these.
Status device_state(Stream stream, DeviceState* state) noexcept;
Status device_owner(const void* data, std::int32_t* ordinal) noexcept;
Status copy_to_device(void* to, const void* from, std::int64_t bytes, Stream stream) noexcept;
Status clear_on_device(void* data, std::int64_t bytes, Stream stream) noexcept;

// ---- An operator a file

Status tree_attention_mma(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept;
Status tree_attention_simt(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept;
Status tree_attention_backward_mma(const AttendGradCall& call, std::int32_t part, std::int32_t parts) noexcept;
Status tree_attention_backward_simt(const AttendGradCall& call, std::int32_t part, std::int32_t parts) noexcept;

Status merge_states(const MergeStates& args, std::int32_t part, std::int32_t parts) noexcept;
Status merge_states_backward(const MergeStatesGrad& args, std::int32_t part, std::int32_t parts) noexcept;
Status rope_apply(const RopeApply& args, std::int32_t part, std::int32_t parts) noexcept;
Status rope_shift(const RopeShift& args, std::int32_t part, std::int32_t parts) noexcept;
Status rope_rebase(const RopeRebase& args, std::int32_t part, std::int32_t parts) noexcept;
Status kv_append(const KvAppend& args, std::int32_t part, std::int32_t parts) noexcept;
Status draft_tree_from_parents(const DraftTreeBatch& args, std::int32_t part, std::int32_t parts) noexcept;

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
