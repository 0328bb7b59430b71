// SPDX-License-Identifier: Apache-2.0
// A step of an engine with a paged cache: sequences, the pages that hold them, and their query rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "prefixshare/testing/problem.hpp"

namespace prefixshare::tests {

/// Sequences of a step and the pages that hold them: some begin with pages of an earlier one.
struct Batch {
  std::int32_t page_size = 1;
  std::int32_t num_pages = 0;
  std::vector<std::vector<std::int32_t>> pages;
  std::vector<std::int32_t> kv_len;
  std::vector<std::int32_t> q_len;

  std::int64_t sequences() const { return static_cast<std::int64_t>(kv_len.size()); }
  std::int64_t longest() const {
    std::size_t most = 0;
    for (const auto& row : pages) most = std::max(most, row.size());
    return static_cast<std::int64_t>(most);
  }
  /// Row-major table with `pad` columns more than needed, which hold garbage.
  template <class Id>
  std::vector<Id> table(std::int64_t pad, Id garbage) const {
    std::vector<Id> ids;
    for (const auto& row : pages) {
      ids.insert(ids.end(), row.begin(), row.end());
      ids.insert(ids.end(), static_cast<std::size_t>(longest() + pad) - row.size(), garbage);
    }
    return ids;
  }
};

/// A context alone, a decode step, drafts to verify or a chunk of a prompt: at most `length` rows.
inline std::int32_t random_rows(testing::Random* random, std::int32_t length) {
  const std::int32_t low[] = {0, 1, 2, 9}, high[] = {0, 1, 8, 64};
  const std::int32_t kind = random->between(0, 3);
  return std::min(random->between(low[kind], high[kind]), length);
}

/// Shuffled pages. A sequence that begins with an earlier one's may fill the last of them to another length.
inline Batch random_batch(testing::Random* random, std::int32_t page_size, std::int32_t sequences,
                          std::int32_t max_tokens) {
  Batch b;
  b.page_size = page_size;
  b.num_pages = sequences * (max_tokens / page_size + 1) + 2;
  std::vector<std::int32_t> free;
  for (std::int32_t p = 0; p < b.num_pages; ++p) free.push_back(p);
  random->shuffle(&free);
  for (std::int32_t s = 0; s < sequences; ++s) {
    const std::int32_t length = random->between(0, max_tokens);
    const std::size_t used = static_cast<std::size_t>((length + page_size - 1) / page_size);
    std::vector<std::int32_t> row;
    if (s > 0) row = b.pages[random->next() % b.pages.size()];
    row.resize(random->next() % (std::min(used, row.size()) + 1));
    for (; row.size() < used; free.pop_back()) row.push_back(free.back());
    b.pages.push_back(row);
    b.kv_len.push_back(length);
    b.q_len.push_back(random_rows(random, length));
  }
  return b;
}

}  // namespace prefixshare::tests
