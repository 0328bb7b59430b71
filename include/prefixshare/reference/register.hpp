// SPDX-License-Identifier: Apache-2.0
// Registers the reference as the last implementation of every operator, the way any other implementation is added.
#pragma once

#include "prefixshare/context.hpp"
#include "prefixshare/reference/draft_tree.hpp"
#include "prefixshare/reference/kv_append.hpp"
#include "prefixshare/reference/merge_states.hpp"
#include "prefixshare/reference/rope.hpp"
#include "prefixshare/reference/rope_rebase.hpp"
#include "prefixshare/reference/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace reference {

inline constexpr const char* kName = "reference:eigen";

/// The reference is total: it declines nothing.
template <class Problem, class Call>
Status add_behind(ImplementationList<Problem, Call>* list,
                  Status (*part)(const Call&, std::int32_t, std::int32_t) noexcept) noexcept {
  Implementation<Problem, Call> entry;
  entry.name = kName;
  entry.part = part;
  return list->add(entry, false);
}

/// Adds "reference:eigen" at the end of every list of the context: it runs where it is forced.
/// Errors: those of ImplementationList::add; lists before the failing one keep the new entry.
inline Status add_to(Context* context) noexcept {
  if (Status s = add_behind(&context->tree_attention, &tree_attention_part)) return s;
  if (Status s = add_behind(&context->tree_attention_backward, &tree_attention_backward_part)) return s;
  if (Status s = add_behind(&context->merge_states, &merge_states_part)) return s;
  if (Status s = add_behind(&context->merge_states_backward, &merge_states_backward_part)) return s;
  if (Status s = add_behind(&context->rope_apply, &rope_apply_part)) return s;
  if (Status s = add_behind(&context->rope_shift, &rope_shift_part)) return s;
  if (Status s = add_behind(&context->rope_rebase, &rope_rebase_part)) return s;
  if (Status s = add_behind(&context->kv_append, &kv_append_part)) return s;
  return add_behind(&context->draft_tree_from_parents, &draft_tree_from_parents_part);
}

}  // namespace reference
}  // namespace v0_1
}  // namespace prefixshare
