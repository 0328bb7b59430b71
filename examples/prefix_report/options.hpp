// SPDX-License-Identifier: Apache-2.0
// What the user asked for: the command line, checked.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "prefixshare/dtype.hpp"
#include "prefixshare/plan.hpp"

namespace prefix_report {

/// What the user gave is wrong: one line that says where, exit code 2.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Format { detect, completions, gsm8k, trace };

/// Dimensions of a model's attention.
struct Model {
  std::string name;
  std::int32_t Hq = 0;
  std::int32_t Hkv = 0;
  std::int32_t D = 0;
  std::int32_t layers = 0;
};

/// What to read.
struct Source {
  std::string input;  ///< path
  Format format = Format::detect;
  std::int64_t groups = -1;    ///< prompts or questions; -1: all
  std::int64_t requests = -1;  ///< of a trace; -1: all
  std::int64_t few_shot = 8;   ///< worked questions in front of every GSM8K question
};

struct Options : Source {
  bool train = false;
  Model model;  ///< of the whole model
  Model run;    ///< of the layer that is run: fewer heads when training
  prefixshare::DType dtype = prefixshare::DType::bf16;
  double kv_gib = 4;
  std::int32_t repeats = 5;
  double max_seconds = 60;
  std::int32_t threads = 1;
  bool json = false;
  std::string html;  ///< file for the page; empty: none

  prefixshare::LayerKind layer() const;
};

/// The options, or the exit code when there is nothing to run (--help). Throws InputError.
struct ParsedOptions {
  Options options;
  std::optional<int> exit_code;
};
ParsedOptions parse_options(int argc, char** argv);

}  // namespace prefix_report
