// SPDX-License-Identifier: Apache-2.0
// shared_prefix_attention: groups of sequences with one common prefix each, packed. A wrapper over tree_attention with
// a two-level forest; no kernels of its own.
#pragma once

#include <cstdint>

#include "prefixshare/plan.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// Groups in CSR form. Group g has a prefix of prefix_len[g] tokens and the suffixes
/// suffix_len[suffix_begin[g] .. suffix_begin[g + 1]). Packed token order, of K/V rows: for each group its prefix, then
/// its suffixes one after the other ([P; R_1; ...; R_G], no padding).
/// Query rows in the same packed order: every token (training), or with q_suffix_last > 0 only the last
/// min(q_suffix_last, suffix) tokens of each suffix (decode).
struct PrefixGroups {
  Span<const std::int32_t> prefix_len;    ///< [groups] >= 0
  Span<const std::int32_t> suffix_begin;  ///< [groups + 1], ascending from 0
  Span<const std::int32_t> suffix_len;    ///< [suffixes] >= 0
  std::int32_t q_suffix_last = 0;         ///< 0: every token of prefixes and suffixes is a query row
};

/// The forest of `groups`: a root per prefix, a leaf per suffix, one contiguous pool. Errors: invalid_argument,
/// capacity_exceeded, out_of_memory.
Status forest_from_groups(const PrefixGroups& groups, Forest* forest) noexcept;

/// Packed operands: q [rows, Hq, D], k [tokens, Hkv, D], v [tokens, Hkv, Dv], o [rows, Hq, Dv], lse [rows, Hq].
/// Everything else as Attend. Causal: prefix rows see the prefix, suffix rows the whole prefix and their own suffix.
struct SharedPrefixAttend {
  TensorView<3> q;
  TensorView<3> k;
  TensorView<3> v;
  TensorView<3> o;
  TensorView<2> lse;
  double scale = 0;
  double softcap = 0;
  Span<const float> sinks;
  Workspace workspace;
  const DevicePlan* device_plan = nullptr;
  Stream stream = {};
};
struct SharedPrefixAttendGrad {
  SharedPrefixAttend fwd;
  TensorView<3> dout;
  TensorView<2> dlse;
  TensorView<3> dq;
  TensorView<3> dk;  ///< plain sums over the members of a group
  TensorView<3> dv;
  Span<float> dsinks;
  bool accumulate = false;
  Workspace workspace;
};

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/shared_prefix_impl.hpp"
