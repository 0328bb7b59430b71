// SPDX-License-Identifier: Apache-2.0
// A search: grow, select, prune, decode, depth by depth.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "decode.hpp"
#include "options.hpp"
#include "search_tree.hpp"

namespace tree_search {

/// rebase keeps every leaf to which REBASE deals a continuation. ets first selects among them.
enum class Policy { rebase, ets };

/// What one depth left.
struct Depth {
  Accounting kept;
  std::int64_t freed_tokens = 0;
  Decode decode;
  double gap = 0;  ///< of the selection: 0 where it is proven to be the best
};

struct Search {
  std::vector<Depth> depths;
  std::int64_t peak_pages = 0;

  double mean_tokens() const;
  double seconds() const;
};

/// Which leaves a policy keeps, and how many continuations each then gets (0: dropped).
struct Choice {
  std::vector<std::int32_t> counts;
  double gap = 0;
};
Choice choose_leaves(const Options& options, Policy policy, const SearchTree& tree);

Search run_search(const Options& options, Policy policy, const Decoder& decoder);

/// The table.
std::string to_text(const Options& options, const Search& rebase, const Search& ets);
/// Whether every step agrees with the reference.
bool passes(const Search& search);

}  // namespace tree_search
