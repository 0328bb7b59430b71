// SPDX-License-Identifier: Apache-2.0
// The traffic: token sequences of text, or block ids of a trace; read from a file, counted, made a forest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "options.hpp"
#include "prefixshare/forest.hpp"

namespace prefix_report {

/// Sequences in CSR form. Text: tokens are bytes. A trace: tokens are ids of 512-token blocks, and `lengths` says how
/// many tokens each request has.
struct Traffic {
  Format format = Format::detect;
  std::int64_t groups = 0;        ///< prompts, questions or requests that were read
  std::int64_t blocks = 0;        ///< distinct blocks of a trace
  std::int64_t header_bytes = 0;  ///< of the worked questions
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> offsets = {0};
  std::vector<std::int32_t> lengths;  ///< traces only
  /// Per sequence: tokens that a model wrote. Of a text its last ones; of a trace those behind the prompt, -1 if the
  /// file does not say.
  std::vector<std::int32_t> outputs;

  std::int32_t sequences() const { return static_cast<std::int32_t>(offsets.size()) - 1; }
  bool is_trace() const { return format == Format::trace; }
};

inline constexpr std::int32_t kTraceBlock = 512;  ///< tokens of a trace's block

/// Reads what `source` asks for. Throws InputError with file and line.
Traffic read_traffic(const Source& source);

/// The named sequences only, in their order.
Traffic subset(const Traffic& traffic, const std::vector<std::int32_t>& sequences);

/// The forest of the traffic, one query row per sequence that has a token.
prefixshare::Forest build_forest(const Traffic& traffic);

/// Tokens counted without a forest: the sum of lengths, and the union of all (prefix, token) as a set.
struct TokenCount {
  std::int64_t logical = 0;
  std::int64_t unique = 0;
};
TokenCount count_tokens(const Traffic& traffic);

}  // namespace prefix_report
