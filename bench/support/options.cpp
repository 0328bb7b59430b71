// SPDX-License-Identifier: Apache-2.0
#include "support/options.hpp"

#include <cstdlib>
#include <thread>

namespace prefixshare::bench {

const char* const kHelp =
    R"(prefixshare_bench [options]   benchmarks; exit code 0 done, 1 a case was wrong or refused, 2 wrong options
  --list              the workloads, and files of real input that are missing; --list --json: with all their numbers
  --workload=REGEX    instead of the suite: these workloads (or the one of this name) on every operator that they fit
  --scale=N           their lengths divided by N
  --type=TYPE         in f32, f16, bf16 or f64 instead of their own types
  --kernel=FILE       also the kernels of this shared library, which has a PREFIXSHARE_KERNEL_MODULE
  --quick             a part of the suite, at an eighth of the lengths, without waiting for an idle machine
  --threads=N         threads of the larger team; default: all cores
  --benchmark_filter=REGEX, --benchmark_list_tests, --benchmark_repetitions=N, --benchmark_out=FILE (JSON) and others:
                      Google Benchmark's
)";

namespace {

std::int32_t number(const std::string& option, const char* text) {
  constexpr long kMost = 1 << 12;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (end == text || *end != '\0' || value < 1 || value > kMost) {
    throw OptionError(option + ": '" + text + "' is no number from 1 to " + std::to_string(kMost));
  }
  return static_cast<std::int32_t>(value);
}

/// Reads one argument after the other.
class Parser {
 public:
  explicit Parser(const std::vector<char*>& arguments) : arguments_(arguments) {}

  Options run() {
    options_.threads = static_cast<std::int32_t>(std::max(1U, std::thread::hardware_concurrency()));
    options_.rest.push_back(arguments_[0]);
    for (at_ = 1; at_ < arguments_.size(); ++at_) read(arguments_[at_]);
    if (options_.json && !options_.list) throw OptionError("--json goes with --list; results: --benchmark_out=FILE");
    if (scaled_ && options_.workload.empty()) throw OptionError("--scale goes with --workload");
    if (!options_.type.empty() && options_.workload.empty()) throw OptionError("--type goes with --workload");
    return options_;
  }

 private:
  void read(const std::string& argument) {
    const std::size_t equal = argument.find('=');
    const std::string name = argument.substr(0, equal);
    if (bool* flag = flag_of(name)) {
      if (equal != std::string::npos) throw OptionError(name + " takes no value");
      *flag = true;
    } else if (name == "--workload") {
      options_.workload = text(name, equal, "a name or a regular expression");
    } else if (name == "--type") {
      options_.type = text(name, equal, "a type");
      dtype_of(options_.type);
    } else if (name == "--kernel") {
      options_.kernels.push_back(text(name, equal, "a file"));
    } else if (name == "--threads") {
      options_.threads = number(name, value(name, equal));
    } else if (name == "--scale") {
      options_.scale = number(name, value(name, equal));
      scaled_ = true;
    } else if (name.rfind("--benchmark_", 0) == 0 || name == "--v" || name == "--color_print") {
      options_.rest.push_back(arguments_[at_]);
    } else {
      throw OptionError("unknown option '" + argument + "'; --help lists them");
    }
  }
  bool* flag_of(const std::string& name) {
    return name == "--help"    ? &options_.help
           : name == "--list"  ? &options_.list
           : name == "--json"  ? &options_.json
           : name == "--quick" ? &options_.quick
                               : nullptr;
  }
  /// What stands behind the sign, or the next argument.
  const char* value(const std::string& name, std::size_t equal) {
    if (equal != std::string::npos) return arguments_[at_] + equal + 1;
    if (at_ + 1 == arguments_.size()) throw OptionError(name + " needs a value");
    return arguments_[++at_];
  }

  /// The same, which must be something.
  std::string text(const std::string& name, std::size_t equal, const char* what) {
    std::string said = value(name, equal);
    if (said.empty()) throw OptionError(name + " needs " + what);
    return said;
  }

  const std::vector<char*>& arguments_;
  Options options_;
  std::size_t at_ = 0;
  bool scaled_ = false;
};

}  // namespace

DType dtype_of(const std::string& name) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64}) {
    if (name == to_string(dtype)) return dtype;
  }
  throw OptionError("--type: '" + name + "' is none of f32, f16, bf16, f64");
}

Options parse_options(const std::vector<char*>& arguments) { return Parser(arguments).run(); }

}  // namespace prefixshare::bench
