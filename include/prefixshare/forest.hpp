// SPDX-License-Identifier: Apache-2.0
// Forest: the topology of a batch. Which tokens each sequence's path names, where they are stored, who shares them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// Shape of a KV pool that calls bind: `num_pages` pages of `page_size` token slots. A contiguous cache is one page.
struct PoolShape {
  std::int32_t page_size = 1;
  std::int32_t num_pages = 0;
};

/// A physical run of cached tokens. Token t lies at slot (offset + t) % page_size of page
/// pages[first_page + (offset + t) / page_size] of its pool.
struct Segment {
  std::int32_t pool = 0;
  std::int32_t first_page = 0;  ///< into the forest's page list
  std::int32_t offset = 0;      ///< token slots to skip in the first page, [0, page_size)
  std::int32_t length = 0;      ///< tokens
};

/// A reference to tokens [begin, begin + length) of a segment, hung below a parent. Several nodes may name one segment.
struct Node {
  std::int32_t parent = -1;   ///< node index; -1 for a root
  std::int32_t segment = -1;  ///< may be -1 when length is 0
  std::int32_t begin = 0;
  std::int32_t length = 0;        ///< tokens; a capacity when length_slot >= 0
  std::int32_t delta = 0;         ///< RoPE position of a key on this path minus the position it was stored with
  std::int32_t length_slot = -1;  ///< index into a call's `actual_lengths`; leaves only; -1: `length` is actual
};

/// A path from a root to `node`, and its query rows. Row r has mask order `first_order + r` and sees the path's tokens
/// at positions <= that (and, with a window W, > that - W).
struct Sequence {
  std::int32_t node = -1;  ///< last node of the path; -1: the empty path
  std::int32_t q_len = 0;  ///< query rows, >= 0
  std::int32_t first_order = kLastTokens;

  static constexpr std::int32_t kLastTokens = INT32_MIN;  ///< the rows are the last q_len tokens of the path
};

/// What make_forest takes: arrays of the caller's, any order of nodes.
struct ForestInput {
  Span<const PoolShape> pools;
  Span<const std::int32_t> pages;
  Span<const Segment> segments;
  Span<const Node> nodes;
  Span<const Sequence> sequences;
};

/// The topology of a batch: nodes in depth-first order, so that the query rows below a node are one range.
/// Plain data: compare, copy and print it; change it by building a new one.
struct Forest {
  std::vector<PoolShape> pools;
  std::vector<std::int32_t> pages;  ///< page ids, indexed by Segment::first_page
  std::vector<Segment> segments;
  std::vector<Node> nodes;                  ///< depth-first preorder: a parent comes before its children
  std::vector<Sequence> sequences;          ///< in the caller's order; `node` is an index into `nodes`; orders resolved
  std::vector<std::int32_t> path_begin;     ///< per node: path position of its first token
  std::vector<std::int32_t> subtree_end;    ///< per node: one past its last descendant
  std::vector<std::int32_t> row_begin;      ///< per node: first row, in depth-first order, of its subtree
  std::vector<std::int32_t> own_row_end;    ///< per node: end of the rows whose sequence ends at the node itself
  std::vector<std::int32_t> row_end;        ///< per node: end of the rows of its subtree
  std::vector<std::int32_t> row_map;        ///< depth-first row -> caller's row
  std::vector<std::int32_t> row_sequence;   ///< depth-first row -> sequence
  std::vector<std::int32_t> row_order;      ///< depth-first row -> mask order
  std::vector<std::int32_t> node_of_input;  ///< input node index -> index into `nodes`
  std::uint64_t fingerprint = 0;            ///< hash of everything above; never 0 in a built forest

  std::int32_t rows() const noexcept { return static_cast<std::int32_t>(row_map.size()); }
  /// Path tokens up to and including node n; 0 for n == -1.
  std::int32_t path_end(std::int32_t n) const noexcept {
    return n < 0 ? 0 : path_begin.data()[n] + nodes.data()[n].length;
  }
  /// Mask order of a depth-first row.
  std::int32_t order(std::int32_t row) const noexcept { return row_order.data()[row]; }
};

/// Builds a forest from explicit nodes. Roots may be many; zero lengths, rows and sequences are legal; nodes may come
/// in any order. Rows are numbered by the caller: sequence 0's rows first, then sequence 1's, and so on.
/// Depth-first order: roots and children in input order; rows of empty paths first, then node by node, inside a node
/// sequence by sequence. Iterative: a chain of 10^5 nodes is fine. On error `*forest` is unchanged.
///
/// Errors: invalid_argument (null, index out of range, cycle, negative length, page id out of range, length_slot on an
/// inner node or not numbered 0 .. n - 1 with one node each), capacity_exceeded (a path, a mask order or the row count
/// passes int32), out_of_memory.
Status make_forest(const ForestInput& input, Forest* forest) noexcept;

/// An engine's block tables: row s of `ids` (stride `row_stride`) lists the pages of sequence s in order.
/// Equal ids at equal path positions are one node (identity of a page is its id); a page that two sequences fill to
/// different lengths splits at the shorter. kv_len includes this step's tokens; entries past ceil(kv_len / page_size)
/// are never read. Id is the integer type of the engine's tables; the ids themselves are page numbers, which an int32
/// holds.
template <class Id>
struct BasicBlockTables {
  Span<const Id> ids;
  std::int64_t row_stride = 0;
  Span<const std::int32_t> kv_len;  ///< [sequences] tokens, >= 0
  Span<const std::int32_t> q_len;   ///< [sequences] query rows, >= 0; empty: one each
  PoolShape pool;
};
using BlockTables = BasicBlockTables<std::int32_t>;
using BlockTables64 = BasicBlockTables<std::int64_t>;

/// Children are in order of first appearance by sequence. Linear in the ids, apart from a sort of the sequences.
/// On error `*forest` is unchanged.
///
/// Errors: invalid_argument (null, negative length, id outside [0, num_pages), row longer than row_stride or than ids),
/// capacity_exceeded (more than INT32_MAX rows), out_of_memory.
Status forest_from_block_tables(const BlockTables& tables, Forest* forest) noexcept;
Status forest_from_block_tables(const BlockTables64& tables, Forest* forest) noexcept;

/// Token ids of each sequence, CSR: sequence s owns tokens [offsets[s], offsets[s + 1]). Sequences with a common
/// beginning share it token by token (a radix tree). Storage: one contiguous pool with each distinct token once, in
/// depth-first order, so that node n's tokens are slots [nodes[n].begin, nodes[n].begin + length).
struct TokenSequences {
  Span<const std::int32_t> tokens;
  Span<const std::int64_t> offsets;  ///< [sequences + 1], ascending, offsets[0] == 0
  Span<const std::int32_t> q_len;    ///< [sequences]; empty: one each
};
/// Children are in order of first appearance by sequence. Linear in the tokens, apart from a sort of the sequences.
/// On error `*forest` is unchanged.
///
/// Errors: invalid_argument (null, offsets not ascending or past the tokens, negative q_len), capacity_exceeded (more
/// than INT32_MAX distinct tokens, tokens of a sequence, or rows), out_of_memory.
Status forest_from_tokens(const TokenSequences& input, Forest* forest) noexcept;

/// A tree as a parent array (a draft tree, a search tree). Node i has lengths[i] tokens and q_len[i] query rows: its
/// own sequence, whose rows are the path's last tokens. Storage: one contiguous pool in input order.
struct ParentArray {
  Span<const std::int32_t> parents;  ///< [nodes]; -1 for a root; any order
  Span<const std::int32_t> lengths;  ///< [nodes]; empty: 1 each
  Span<const std::int32_t> q_len;    ///< [nodes]; empty: the node's length
};
/// On error `*forest` is unchanged.
///
/// Errors: invalid_argument (null, parent out of range, cycle, negative length), capacity_exceeded (more than INT32_MAX
/// tokens or rows), out_of_memory.
Status forest_from_parents(const ParentArray& input, Forest* forest) noexcept;

/// Accounting of a forest.
struct ForestStats {
  std::int64_t sequences = 0;
  std::int64_t nodes = 0;
  std::int64_t roots = 0;
  std::int64_t depth = 0;           ///< nodes on the deepest path of a sequence
  std::int64_t rows = 0;            ///< query rows
  std::int64_t max_path = 0;        ///< tokens of the longest path of a sequence
  std::int64_t logical_tokens = 0;  ///< sum of path lengths over sequences
  std::int64_t unique_tokens = 0;   ///< distinct physical (pool, page, slot) on the paths of sequences

  /// Logical over unique tokens; 1 when there is none.
  double sharing_ratio() const noexcept {
    return unique_tokens ? static_cast<double>(logical_tokens) / static_cast<double>(unique_tokens) : 1.0;
  }
};
/// On error `*stats` is unchanged. Errors: invalid_argument (null), out_of_memory.
Status forest_stats(const Forest& forest, ForestStats* stats) noexcept;

/// Per node: sequences whose path includes it. `counts` is resized to the number of nodes.
/// On error `*counts` is unchanged. Errors: invalid_argument (null), out_of_memory.
Status reference_counts(const Forest& forest, std::vector<std::int32_t>* counts) noexcept;

/// A physical page of a pool.
struct PageId {
  std::int32_t pool = 0;
  std::int32_t page = 0;
};
/// What nobody would read any more.
struct FreedStorage {
  std::int64_t tokens = 0;    ///< distinct slots
  std::vector<PageId> pages;  ///< of which no slot is read any more, ascending by pool and page
};
/// What dropping the sequences s with keep[s] == 0 would free: slots that they read and no kept sequence does, and the
/// pages of which they read a slot and the kept ones none. A length slot counts with its capacity. O(N log N) in the
/// pages that nodes name. On error `*freed` is unchanged.
///
/// keep: [sequences]. Errors: invalid_argument (null, another size), out_of_memory.
Status would_free(const Forest& forest, Span<const std::uint8_t> keep, FreedStorage* freed) noexcept;

/// Old index -> new index; -1 for what is gone.
struct ForestMap {
  std::vector<std::int32_t> nodes;         ///< index into Forest::nodes
  std::vector<std::int32_t> segments;      ///< index into Forest::segments
  std::vector<std::int32_t> sequences;     ///< the caller's
  std::vector<std::int32_t> rows;          ///< the caller's query rows
  std::vector<std::int32_t> length_slots;  ///< index into a call's `actual_lengths`
};
/// The forest of the kept sequences (keep[s] != 0) in their order, with the nodes on their paths, the segments that
/// these name and the pages of those; pools stay. What stays keeps its order, so that rows, segments and length slots
/// close ranks, and nodes are not merged: a node that is left with an only child stays a node. Decode in
/// batch_invariant mode has the bits of any other forest of the same sequences on the same cache. `node_of_input` of
/// the result is the identity. `*pruned` may be `forest` itself. Linear. On error nothing is changed.
///
/// keep: [sequences]. Errors: invalid_argument (null, another size), out_of_memory.
Status prune_forest(const Forest& forest, Span<const std::uint8_t> keep, Forest* pruned,
                    ForestMap* map = nullptr) noexcept;

/// The same sequences in the least memory: of each pool one contiguous page with the tokens that paths name, each once,
/// in depth-first order of first use, and one segment that covers it (segment p is pool p's). Nodes that no path
/// includes are left out as by prune_forest with every sequence kept, which also gives their map. Nodes that overlap in
/// a segment keep their tokens together; a length slot keeps its capacity.
/// slots[pool][page * page_size + slot] is the token's slot in the new pool, or -1: what KvAppend::slots takes to move
/// K and V into other memory, with the old pool viewed as tokens. `*compacted` may be `forest` itself.
/// O(N log N) in nodes and pages, and linear in the slots of the pools. On error nothing is changed.
///
/// Errors: invalid_argument (null, segments of nodes in use that lie on the same slots), capacity_exceeded (more than
/// INT32_MAX tokens in a pool), out_of_memory.
Status compact_forest(const Forest& forest, Forest* compacted, std::vector<std::vector<std::int64_t>>* slots) noexcept;

/// A few lines of text: the accounting, then the tree, at most `max_nodes` nodes of it.
std::string to_string(const Forest& forest, int max_nodes = 40);

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/forest_builders_impl.hpp"
#include "prefixshare/detail/forest_impl.hpp"
#include "prefixshare/detail/forest_prune_impl.hpp"
#include "prefixshare/detail/forest_stats_impl.hpp"
