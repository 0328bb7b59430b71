// SPDX-License-Identifier: Apache-2.0
// Other engines' tables as block tables.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "prefixshare/detail/engine_caches_impl.hpp"
#include "prefixshare/detail/forest_builders_impl.hpp"
#include "prefixshare/engine_layouts.hpp"

namespace prefixshare {
inline namespace v0_1 {

namespace detail {

/// One engine's tables in the making: lengths first, then the pages row by row.
class TableMaker {
 public:
  TableMaker(const char* op, std::int32_t page_size, std::int64_t num_pages) noexcept
      : op_(op), page_size_(page_size), num_pages_(num_pages) {}

  Status invalid(const char* argument, std::int64_t index, const char* field, std::int64_t got, const char* relation,
                 std::int64_t want) const noexcept {
    return refuse(StatusCode::invalid_argument, op_, argument, index, field, got, relation, want);
  }

  /// Element `index` of `argument`, which must be in [0, end).
  Status in_range(const char* argument, std::int64_t index, std::int64_t value, std::int64_t end) const noexcept {
    if (value < 0) return invalid(argument, index, "", value, ">=", 0);
    return value < end ? Status{} : invalid(argument, index, "", value, "<", end);
  }

  /// A readable array of at least `size` elements; -1: a size that no array has.
  Status check_size(const char* argument, IndexSpan array, std::int64_t size) const noexcept {
    const std::int64_t least = size < 0 ? kInt64Max : size;
    if (array.size() < least) return invalid(argument, -1, "size", array.size(), ">=", least);
    return array.empty() ? Status{} : check_pointer(op_, argument, array.data());
  }

  /// Page size and pages of the pool, by the engine's names.
  Status check_pool(const char* page_size, const char* pages) const noexcept {
    if (Status s = check_at_least(op_, page_size, page_size_, 1)) return s;
    if (Status s = check_at_least(op_, pages, num_pages_, 0)) return s;
    if (num_pages_ <= kInt32Max) return {};
    return refuse(StatusCode::capacity_exceeded, op_, pages, -1, "pages", num_pages_, "<=", kInt32Max);
  }

  /// Tokens of each sequence, at most `most`: what a row of the engine's table holds.
  Status take_lengths(const char* argument, IndexSpan lengths, std::int64_t most) {
    if (Status s = check_size(argument, lengths, 0)) return s;
    if (lengths.size() > kMaxStrings) {
      return refuse(StatusCode::capacity_exceeded, op_, argument, -1, "size", lengths.size(), "<=", kMaxStrings);
    }
    for (std::int64_t s = 0; s < lengths.size(); ++s) {
      if (Status bad = in_range(argument, s, lengths[s], std::min(most, kInt32Max) + 1)) return bad;
      out_.kv_len.push_back(static_cast<std::int32_t>(lengths[s]));
      out_.row_stride = std::max(out_.row_stride, pages_of(s));
    }
    out_.q_len.assign(out_.kv_len.size(), 1);
    return {};
  }

  /// Query rows of each sequence; none given: one each.
  Status take_rows(const char* argument, IndexSpan rows) {
    if (rows.empty()) return {};
    if (rows.size() != sequences()) return invalid(argument, -1, "size", rows.size(), "==", sequences());
    if (Status s = check_size(argument, rows, sequences())) return s;
    for (std::int64_t s = 0; s < rows.size(); ++s) {
      if (Status bad = in_range(argument, s, rows[s], kInt32Max + 1)) return bad;
      out_.q_len.data()[s] = static_cast<std::int32_t>(rows[s]);
    }
    return {};
  }

  /// Calls page_of(sequence, page of its path, &page) for every page that a sequence uses, and gives the tables away.
  template <class PageOf>
  Status take_pages(PageOf page_of, EngineTables* tables) {
    out_.ids.assign(static_cast<std::size_t>(sequences() * out_.row_stride), 0);
    for (std::int64_t s = 0; s < sequences(); ++s) {
      for (std::int64_t p = 0; p < pages_of(s); ++p) {
        std::int64_t page = 0;
        if (Status bad = page_of(s, p, &page)) return bad;
        out_.ids.data()[s * out_.row_stride + p] = static_cast<std::int32_t>(page);
      }
    }
    out_.pool = {page_size_, static_cast<std::int32_t>(num_pages_)};
    *tables = std::move(out_);
    return {};
  }

  std::int64_t sequences() const noexcept { return static_cast<std::int64_t>(out_.kv_len.size()); }
  std::int32_t tokens(std::int64_t s) const noexcept { return out_.kv_len.data()[s]; }
  std::int64_t pages_of(std::int64_t s) const noexcept { return ceil_div(tokens(s), page_size_); }

 private:
  const char* op_;
  std::int32_t page_size_;
  std::int64_t num_pages_;
  EngineTables out_;
};

/// Tokens that a row of `pages` pages holds, as far as a path may be long.
inline std::int64_t row_tokens(std::int64_t pages, std::int32_t page_size) noexcept {
  return std::min(pages, kInt32Max) * page_size;
}

/// query_start_loc to lengths.
inline Status rows_of_starts(const char* op, IndexSpan starts, std::int64_t sequences,
                             std::vector<std::int64_t>* rows) {
  if (starts.empty()) return {};
  if (starts.size() != sequences + 1) {
    return refuse(StatusCode::invalid_argument, op, "query_start_loc", -1, "size", starts.size(), "==", sequences + 1);
  }
  if (Status s = check_pointer(op, "query_start_loc", starts.data())) return s;
  if (starts[0] < 0) return refuse(StatusCode::invalid_argument, op, "query_start_loc", 0, "", starts[0], ">=", 0);
  for (std::int64_t s = 1; s < starts.size(); ++s) {
    if (starts[s] < starts[s - 1]) {
      return refuse(StatusCode::invalid_argument, op, "query_start_loc", s, "", starts[s], ">=", starts[s - 1]);
    }
    rows->push_back(starts[s] - starts[s - 1]);
  }
  return {};
}

inline Status make_vllm_tables(const char* op, const VllmTables& in, EngineTables* tables) {
  TableMaker maker(op, in.block_size, in.num_blocks);
  std::vector<std::int64_t> rows;
  if (Status s = maker.check_pool("block_size", "num_blocks")) return s;
  if (Status s = check_at_least(op, "row_stride", in.row_stride, 0)) return s;
  if (Status s = maker.take_lengths("seq_lens", in.seq_lens, row_tokens(in.row_stride, in.block_size))) return s;
  if (Status s = rows_of_starts(op, in.query_start_loc, maker.sequences(), &rows)) return s;
  if (Status s = maker.take_rows("query_start_loc", rows)) return s;
  const std::int64_t size = checked_product(maker.sequences(), in.row_stride);
  if (Status s = maker.check_size("block_table", in.block_table, size)) return s;
  return maker.take_pages(
      [&](std::int64_t s, std::int64_t p, std::int64_t* page) {
        *page = in.block_table[s * in.row_stride + p];
        return maker.in_range("block_table", s * in.row_stride + p, *page, in.num_blocks);
      },
      tables);
}

/// The page of `count` tokens' slots from element `at` of req_to_token on: consecutive, from a multiple on.
inline Status page_of_slots(const char* op, const SglangTables& in, std::int64_t at, std::int64_t count,
                            std::int64_t* page) noexcept {
  const std::int64_t first = in.req_to_token[at];
  if (first % in.page_size != 0) {
    return no_view(op, "req_to_token", "page start", first, "multiple of", in.page_size, at);
  }
  for (std::int64_t t = 1; t < count; ++t) {
    if (in.req_to_token[at + t] == first + t) continue;
    return no_view(op, "req_to_token", "slot in page", in.req_to_token[at + t], "==", first + t, at + t);
  }
  *page = first / in.page_size;
  return {};
}

inline Status make_sglang_tables(const char* op, const SglangTables& in, EngineTables* tables) {
  if (Status s = check_at_least(op, "page_size", in.page_size, 1)) return s;
  if (Status s = check_at_least(op, "slots", in.slots, 0)) return s;
  const std::int64_t pages = in.slots / in.page_size;
  TableMaker maker(op, in.page_size, pages);
  if (Status s = maker.check_pool("page_size", "slots")) return s;
  if (Status s = maker.check_size("req_to_token", in.req_to_token, 0)) return s;
  if (Status s = check_at_least(op, "row_stride", in.row_stride, 0)) return s;
  if (Status s = maker.take_lengths("seq_lens", in.seq_lens, in.row_stride)) return s;
  if (Status s = maker.take_rows("q_len", in.q_len)) return s;
  if (Status s = maker.check_size("req_pool_indices", in.req_pool_indices, maker.sequences())) return s;
  const std::int64_t requests = in.row_stride > 0 ? in.req_to_token.size() / in.row_stride : 0;
  for (std::int64_t s = 0; s < maker.sequences(); ++s) {
    if (Status bad = maker.in_range("req_pool_indices", s, in.req_pool_indices[s], requests)) return bad;
  }
  return maker.take_pages(
      [&](std::int64_t s, std::int64_t p, std::int64_t* page) -> Status {
        const std::int64_t token = p * in.page_size, at = in.req_pool_indices[s] * in.row_stride + token;
        const std::int64_t count = std::min<std::int64_t>(in.page_size, maker.tokens(s) - token);
        if (Status bad = maker.in_range("req_to_token", at, in.req_to_token[at], pages * in.page_size)) return bad;
        return page_of_slots(op, in, at, count, page);
      },
      tables);
}

/// The block whose K and V lie at two offsets.
inline Status block_of_offsets(const char* op, const TrtllmTables& in, std::int64_t at, std::int64_t* block) noexcept {
  const std::int64_t k = in.block_offsets[at], v = in.block_offsets[at + in.max_blocks];
  const std::int64_t unit = 2 * std::int64_t{in.layers};
  if (k < 0) return no_view(op, "block_offsets", "secondary pool", k, ">=", 0, at);
  if (k % unit != 0) return refuse(StatusCode::invalid_argument, op, "block_offsets", at, "", k, "multiple of", unit);
  if (k / unit >= in.blocks) {
    return refuse(StatusCode::invalid_argument, op, "block_offsets", at, "block", k / unit, "<", in.blocks);
  }
  if (v != k + 1) return no_view(op, "block_offsets", "V of K's block", v, "==", k + 1, at + in.max_blocks);
  *block = k / unit;
  return {};
}

inline Status make_trtllm_tables(const char* op, const TrtllmTables& in, EngineTables* tables) {
  if (in.cache_indirection) return no_view(op, "cache_indirection", "", 1, "==", 0);
  TableMaker maker(op, in.tokens_per_block, in.blocks);
  if (Status s = maker.check_pool("tokens_per_block", "blocks")) return s;
  if (Status s = check_at_least(op, "layers", in.layers, 1)) return s;
  if (Status s = check_at_least(op, "max_blocks", in.max_blocks, 0)) return s;
  const std::int64_t most = row_tokens(in.max_blocks, in.tokens_per_block);
  if (Status s = maker.take_lengths("sequence_lengths", in.sequence_lengths, most)) return s;
  if (Status s = maker.take_rows("q_len", in.q_len)) return s;
  const std::int64_t size = checked_product(2 * maker.sequences(), in.max_blocks);
  if (Status s = maker.check_size("block_offsets", in.block_offsets, size)) return s;
  return maker.take_pages([&](std::int64_t s, std::int64_t p,
                              std::int64_t* page) { return block_of_offsets(op, in, 2 * s * in.max_blocks + p, page); },
                          tables);
}

/// Cells of each sequence of a step in the order of their positions.
class LlamaRows {
 public:
  LlamaRows(const char* op, const LlamaCells& in) : op_(op), in_(in) {}

  Status run() {
    if (Status s = number_sequences()) return s;
    if (Status s = collect()) return s;
    for (std::int64_t s = 0; s < in_.seq_ids.size(); ++s) {
      if (Status bad = sort(s)) return bad;
    }
    return {};
  }
  std::int64_t cell(std::int64_t sequence, std::int64_t i) const noexcept {
    return rows_.data()[sequence].data()[i].second;
  }
  std::vector<std::int64_t> lengths() const {
    std::vector<std::int64_t> lengths;
    for (const Row& row : rows_) lengths.push_back(static_cast<std::int64_t>(row.size()));
    return lengths;
  }

 private:
  using Row = std::vector<std::pair<std::int64_t, std::int64_t>>;  // position and cell

  /// The caller's sequence ids to rows.
  Status number_sequences() {
    const std::int64_t ids = std::int64_t{64} * in_.words;
    row_of_.assign(static_cast<std::size_t>(ids), -1);
    for (std::int64_t s = 0; s < in_.seq_ids.size(); ++s) {
      const std::int64_t id = in_.seq_ids[s];
      if (id < 0) return refuse(StatusCode::invalid_argument, op_, "seq_ids", s, "", id, ">=", 0);
      if (id >= ids) return refuse(StatusCode::invalid_argument, op_, "seq_ids", s, "", id, "<", ids);
      if (row_of_.data()[id] >= 0) return refuse(StatusCode::invalid_argument, op_, "seq_ids", s, "", id, "!=", id);
      row_of_.data()[id] = s;
    }
    rows_.resize(static_cast<std::size_t>(in_.seq_ids.size()));
    return {};
  }

  Status collect() {
    for (std::int64_t cell = 0; cell < in_.pos.size(); ++cell) {
      if (in_.pos[cell] < -1)
        return refuse(StatusCode::invalid_argument, op_, "pos", cell, "", in_.pos[cell], ">=", -1);
      if (in_.pos[cell] < 0) continue;
      for (std::int64_t w = 0; w < in_.words; ++w) {
        std::uint64_t word = in_.seqs[cell * in_.words + w];
        for (std::int64_t id = w * 64; word != 0; word >>= 1, ++id) {
          const std::int64_t row = (word & 1) != 0 ? row_of_.data()[id] : -1;
          if (row >= 0) rows_.data()[row].push_back({in_.pos[cell], cell});
        }
      }
    }
    return {};
  }

  /// Positions of one sequence, ascending, without gaps.
  Status sort(std::int64_t sequence) {
    Row& row = rows_.data()[sequence];
    std::sort(row.begin(), row.end());
    for (std::size_t i = 1; i < row.size(); ++i) {
      const std::int64_t next = row.data()[i - 1].first + 1;
      if (row.data()[i].first != next) {
        return no_view(op_, "pos", "next", row.data()[i].first, "==", next, row.data()[i].second);
      }
    }
    return {};
  }

  const char* op_;
  const LlamaCells& in_;
  std::vector<std::int64_t> row_of_;
  std::vector<Row> rows_;
};

inline Status make_llama_tables(const char* op, const LlamaCells& in, EngineTables* tables) {
  TableMaker maker(op, 1, in.pos.size());
  if (Status s = maker.check_pool("", "pos")) return s;
  if (Status s = maker.check_size("pos", in.pos, 0)) return s;
  if (Status s = maker.check_size("seq_ids", in.seq_ids, 0)) return s;
  if (Status s = check_at_least(op, "words", in.words, 1)) return s;
  if (Status s = check_span(op, "seqs", in.seqs, std::numeric_limits<std::int64_t>::max())) return s;
  if (in.seqs.size() != in.pos.size() * in.words) {
    return refuse(StatusCode::invalid_argument, op, "seqs", -1, "size", in.seqs.size(), "==", in.pos.size() * in.words);
  }
  LlamaRows rows(op, in);
  if (Status s = rows.run()) return s;
  if (Status s = maker.take_lengths("seq_ids", rows.lengths(), in.pos.size())) return s;
  if (Status s = maker.take_rows("q_len", in.q_len)) return s;
  return maker.take_pages(
      [&rows](std::int64_t s, std::int64_t p, std::int64_t* page) {
        *page = rows.cell(s, p);
        return Status{};
      },
      tables);
}

template <class Tables>
Status run_tables(const char* op, const Tables& in, EngineTables* tables,
                  Status (*make)(const char*, const Tables&, EngineTables*)) noexcept {
  if (Status s = check_pointer(op, "tables", tables)) return s;
  try {
    return make(op, in, tables);
  } catch (...) {  // only allocation throws here
    return out_of_memory(op, "tables");
  }
}

}  // namespace detail

inline Status vllm_tables(const VllmTables& in, EngineTables* tables) noexcept {
  return detail::run_tables("vllm_tables", in, tables, detail::make_vllm_tables);
}
inline Status sglang_tables(const SglangTables& in, EngineTables* tables) noexcept {
  return detail::run_tables("sglang_tables", in, tables, detail::make_sglang_tables);
}
inline Status trtllm_tables(const TrtllmTables& in, EngineTables* tables) noexcept {
  return detail::run_tables("trtllm_tables", in, tables, detail::make_trtllm_tables);
}
inline Status llama_tables(const LlamaCells& in, EngineTables* tables) noexcept {
  return detail::run_tables("llama_tables", in, tables, detail::make_llama_tables);
}

}  // namespace v0_1
}  // namespace prefixshare
