// SPDX-License-Identifier: Apache-2.0
#include "traffic.hpp"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "prefixshare/status.hpp"

namespace prefix_report {

namespace {

using prefixshare::Forest;

/// One query row per sequence, none for an empty one.
std::vector<std::int32_t> decode_rows(const std::vector<std::int32_t>& lengths) {
  std::vector<std::int32_t> rows(lengths.size());
  std::transform(lengths.begin(), lengths.end(), rows.begin(), [](std::int32_t n) { return n > 0 ? 1 : 0; });
  return rows;
}

Forest forest_of_text(const Traffic& traffic) {
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(traffic.sequences()));
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    lengths[s] = static_cast<std::int32_t>(traffic.offsets[s + 1] - traffic.offsets[s]);
  }
  const std::vector<std::int32_t> rows = decode_rows(lengths);
  Forest forest;
  throw_if_error(forest_from_tokens({traffic.tokens, traffic.offsets, rows}, &forest));
  return forest;
}

/// Block ids become page ids 0, 1, ... in order of appearance, so that the pool has no unused page.
Forest forest_of_trace(const Traffic& traffic) {
  const std::size_t sequences = static_cast<std::size_t>(traffic.sequences());
  std::int64_t longest = 0;
  for (std::size_t s = 0; s < sequences; ++s) longest = std::max(longest, traffic.offsets[s + 1] - traffic.offsets[s]);
  std::unordered_map<std::int32_t, std::int32_t> page_of_block;
  std::vector<std::int32_t> table(sequences * static_cast<std::size_t>(longest), -1);
  for (std::size_t s = 0; s < sequences; ++s) {
    std::int32_t* row = table.data() + s * static_cast<std::size_t>(longest);
    for (std::int64_t i = traffic.offsets[s]; i < traffic.offsets[s + 1]; ++i) {
      const std::int32_t fresh = static_cast<std::int32_t>(page_of_block.size());
      *row++ = page_of_block.emplace(traffic.tokens[static_cast<std::size_t>(i)], fresh).first->second;
    }
  }
  const std::vector<std::int32_t> rows = decode_rows(traffic.lengths);
  Forest forest;
  throw_if_error(forest_from_block_tables(
      {table, longest, traffic.lengths, rows, {kTraceBlock, static_cast<std::int32_t>(page_of_block.size())}},
      &forest));
  return forest;
}

/// splitmix64: spreads a prefix's hash and one more token over 64 bits.
std::uint64_t extend(std::uint64_t prefix, std::int32_t token) {
  std::uint64_t x = prefix + 0x9e3779b97f4a7c15u * (static_cast<std::uint64_t>(token) + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

Traffic subset(const Traffic& traffic, const std::vector<std::int32_t>& sequences) {
  Traffic part;
  part.format = traffic.format;
  part.groups = traffic.groups;
  part.header_bytes = traffic.header_bytes;
  for (std::int32_t sequence : sequences) {
    const std::size_t s = static_cast<std::size_t>(sequence);
    part.tokens.insert(part.tokens.end(), traffic.tokens.begin() + traffic.offsets[s],
                       traffic.tokens.begin() + traffic.offsets[s + 1]);
    part.offsets.push_back(static_cast<std::int64_t>(part.tokens.size()));
    if (traffic.is_trace()) part.lengths.push_back(traffic.lengths[s]);
    part.outputs.push_back(traffic.outputs[s]);
  }
  return part;
}

Forest build_forest(const Traffic& traffic) {
  return traffic.is_trace() ? forest_of_trace(traffic) : forest_of_text(traffic);
}

TokenCount count_tokens(const Traffic& traffic) {
  TokenCount count;
  std::unordered_set<std::uint64_t> prefixes;
  std::unordered_map<std::int32_t, std::int64_t> filled;  // tokens of each block that some request uses
  for (std::size_t s = 0; s < static_cast<std::size_t>(traffic.sequences()); ++s) {
    std::int64_t left = traffic.is_trace() ? traffic.lengths[s] : traffic.offsets[s + 1] - traffic.offsets[s];
    count.logical += left;
    std::uint64_t prefix = 0;
    for (std::int64_t i = traffic.offsets[s]; i < traffic.offsets[s + 1]; ++i) {
      const std::int32_t token = traffic.tokens[static_cast<std::size_t>(i)];
      if (traffic.is_trace()) {
        std::int64_t& tokens = filled[token];
        tokens = std::max(tokens, std::min<std::int64_t>(left, kTraceBlock));
        left -= kTraceBlock;
      } else {
        prefixes.insert(prefix = extend(prefix, token));
      }
    }
  }
  count.unique = static_cast<std::int64_t>(prefixes.size());
  for (const auto& block : filled) count.unique += block.second;
  return count;
}

}  // namespace prefix_report
