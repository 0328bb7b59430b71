// SPDX-License-Identifier: Apache-2.0
#include "support/suite.hpp"

#include <regex>
#include <stdexcept>

#include "support/options.hpp"

namespace prefixshare::bench {

using testing::Task;
using testing::Workload;

namespace {

using Types = std::vector<DType>;
constexpr const char* kAll = ".*";
constexpr const char* kNone = "";

/// A line of the suite. Names are extended regular expressions that match wholly. Lengths are divided by `scale`, in a
/// quick run by `quick_scale`; the first type is the quick one.
struct Line {
  const char* op;
  const char* workloads;
  const char* quick;  ///< of the workloads, those that are part of --quick
  Types types;        ///< empty: the workload's own
  Caches caches = Caches::warm;
  std::int32_t scale = 1;
  std::int32_t quick_scale = 8;
  bool team_only = false;
};

std::vector<Line> lines() {
  const DType f32 = DType::f32, f16 = DType::f16, bf16 = DType::bf16;
  return {
      {"tree_attention", "C1", kAll, {bf16, f32, f16}},
      {"tree_attention", "C1", kAll, {bf16, f32, f16}, Caches::flushed},
      {"tree_attention", "C1", kNone, {bf16}, Caches::rotated},
      {"tree_attention", "C2/.*", kAll, {f32}},
      {"tree_attention", "C3(/head-major)?", kAll, {bf16, f16}, Caches::flushed},
      {"tree_attention", "C3", kAll, {bf16}, Caches::rotated},
      {"tree_attention", "C4", kAll, {f32, bf16}},
      {"tree_attention", "C5", kAll, {bf16}},
      {"tree_attention", "C7/.*", ".*(batch:1|prefix:(8|63))", {bf16}},
      {"tree_attention", "sweep/.*", ".*(prefix:16384|batch:64|depth:3|D:64|page:16)", {bf16}},
      {"tree_attention", "grid/.*", ".*prefix:(64|1024|16384)/batch:(1|8|64)/.*", {bf16}, Caches::warm, 1, 1, true},
      {"tree_attention", "cpu/W[1-7]b?", ".*(W5|W7)", {bf16}, Caches::warm, 1, 4},
      {"tree_attention", "verify/(chain-5|beam-4x6|binary-30|wide-63|deep-250)", ".*binary-30", {bf16}},
      {"tree_attention", "pools/.*", kAll, {bf16}},
      {"tree_attention_backward", "train/512x8x64", kAll, {f32, bf16}, Caches::warm, 2, 8},
      {"tree_attention_backward", "train/1024x8x1024", kNone, {f32, bf16}, Caches::warm, 16, 16},
      {"tree_attention_backward", "cpu/W8b?", ".*W8", {bf16}, Caches::warm, 1, 4},
      {"shared_prefix_attention", "C1", kAll, {bf16, f32}},
      {"shared_prefix_attention", "C4", kNone, {bf16}},
      {"shared_prefix_attention_backward", "cpu/W8", kAll, {bf16}, Caches::warm, 1, 4},
      {"merge_states", "C6/merge", kAll, {}},
      {"merge_states", "cpu/W9b?", kNone, {}},
      {"merge_states_backward", "C6/merge", kNone, {}},
      {"merge_states_backward", "cpu/W9", kAll, {}},
      {"rope_apply", "cpu/W10", kAll, {bf16, f32}},
      {"rope_shift", "C6/rope_shift", kAll, {}},
      {"rope_shift", "cpu/W10", kNone, {bf16, f32}},
      {"rope_rebase", "C6/rope_shift", kAll, {}},
      {"rope_rebase", "cpu/W10", kNone, {bf16, f32}},
      {"kv_append", "C1", kNone, {bf16, f32}},
      {"kv_append", "C4|C5", ".*4", {bf16}},
      {"pack_segment", "C1", kAll, {bf16}},
      {"pack_segment", "C2/prompt:1024/shared:1024", kNone, {f32}},
      {"plan", "fasttree/1,4,16,64,256,1024[|]256,8,256,64,32,256", kAll, {bf16}, Caches::warm, 4, 4},
      {"plan", "fasttree/1,2,4,8,16,32,64,128,1024[|]16,16,16,16,16,16,16,16,16", kNone, {bf16}, Caches::warm, 4, 4},
      {"plan", "(fasttree/1,1024[|]2048,32|pat/256[|]4096)", kNone, {bf16}, Caches::warm, 4, 4},
      {"plan", "verify/deep-250", kAll, {bf16}, Caches::warm, 1, 1},
      {"assignment",
       "(fasttree|pat)/[^:]*",
       ".*(/1,4,16,64,256,1024[|]256,8.*|/1,10[|]4000.*|/256[|]1024)",
       {bf16},
       Caches::warm,
       4,
       16,
       true},
  };
}

Problem make_problem(const Workload& workload, DType dtype, const Line& line) {
  Problem p;
  p.workload = &workload;
  p.kind = workload.kind;
  p.kind.q_dtype = p.kind.kv_dtype = dtype;
  p.caches = line.caches;
  p.team_only = line.team_only;
  return p;
}

/// One prefix and sequences below it, in one contiguous pool: what shared_prefix_attention takes.
bool is_group(const Workload& w) {
  if (!w.draft.empty() || w.own_pools > 0) return false;
  const testing::Topology t = testing::workload_topology(w);
  bool group = t.nodes.size() > 1 && t.nodes[0].parent < 0;
  for (std::size_t n = 1; n < t.nodes.size(); ++n) group = group && t.nodes[n].parent == 0;
  for (const Sequence& s : t.sequences) group = group && (w.task == Task::training || s.node > 0);
  return group;
}

}  // namespace

std::string Problem::name() const {
  std::string text = workload->name;
  if (caches == Caches::flushed) text += "/flushed";
  if (caches == Caches::rotated) text += "/rotated";
  if (scale > 1) text += "/scale:" + std::to_string(scale);
  text += std::string("/") + to_string(kind.kv_dtype);
  if (kind.q_dtype != kind.kv_dtype) text += std::string("-") + to_string(kind.q_dtype);
  return text;
}

bool fits(const std::string& op, const Workload& w) {
  const bool attention = w.task == Task::forward || w.task == Task::training;
  if (op == "tree_attention" || op == "plan") return attention;
  if (op == "kv_append" || op == "pack_segment") return attention && w.own_pools == 0;
  if (op == "shared_prefix_attention") return attention && is_group(w);
  if (op == "shared_prefix_attention_backward") return w.task == Task::training && is_group(w);
  if (op == "tree_attention_backward") return w.task == Task::training;
  if (op == "merge_states" || op == "merge_states_backward") return w.task == Task::merge;
  if (op == "rope_apply" || op == "rope_shift" || op == "rope_rebase") return w.task == Task::shift;
  return false;  // assignment is the suite's alone
}

std::vector<Problem> suite_of(const std::string& op, const Workloads& workloads, bool quick) {
  std::vector<Problem> problems;
  for (const Line& line : lines()) {
    if (op != line.op) continue;
    const std::regex all(line.workloads, std::regex::extended), few(line.quick, std::regex::extended);
    const std::size_t before = problems.size();
    for (const Workload& w : workloads.list) {
      if (!std::regex_match(w.name, all)) continue;
      Types types = line.types;
      if (types.empty()) types = {w.kind.kv_dtype};
      for (const DType dtype : types) {
        problems.push_back(make_problem(w, dtype, line));
        if (line.types.empty()) problems.back().kind = w.kind;
        problems.back().scale = quick ? line.quick_scale : line.scale;
        problems.back().quick = dtype == types.front() && std::regex_match(w.name, few);
      }
    }
    if (problems.size() == before)
      throw std::logic_error(std::string("the suite names no workload: ") + line.workloads);
  }
  return problems;
}

std::vector<Problem> chosen_for(const std::string& op, const std::vector<const Workload*>& chosen, std::int32_t scale,
                                const std::string& type) {
  std::vector<Problem> problems;
  for (const Workload* w : chosen) {
    if (!fits(op, *w)) continue;
    Problem p;
    p.workload = w;
    p.kind = w->kind;
    if (!type.empty()) p.kind.q_dtype = p.kind.kv_dtype = dtype_of(type);
    p.scale = scale;
    problems.push_back(p);
  }
  return problems;
}

}  // namespace prefixshare::bench
