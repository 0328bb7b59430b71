// SPDX-License-Identifier: Apache-2.0
// Workloads of real input, which is not part of the tree: windows of a service's trace, groups of sampled answers,
// draft trees of published models.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/testing/catalogue_models.hpp"
#include "prefixshare/testing/json_text.hpp"
#include "prefixshare/testing/workload.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// What a folder of real input gives.
struct DataWorkloads {
  std::vector<Workload> list;
  std::vector<std::string> missing;  ///< "workloads: why they are not in the list", a file each
};

/// The workloads of traces/mooncake_conversation.jsonl, gsm8k/example_model_solutions.jsonl and trees/draft_trees.json
/// in a folder. A file that is not there, or not as it should be, is named in `missing`; an empty folder has none.
///
///   mooncake/N          requests [64 N, 64 N + 64) in order of arrival, one decode step of their prompts
///   gsm8k/decode/N      questions [64 N, 64 N + 64) and their sampled solutions, a decode step of all of them
///   gsm8k/train/N       the same, every token a query, forward and backward. A token stands for four bytes of text
///   verify/MODEL        a draft tree below each of 8 contexts
DataWorkloads data_workloads(const std::string& folder);

namespace detail {

/// A node of a forest in the making.
struct TextNode {
  std::int32_t parent = -1;
  std::int32_t tokens = 0;
  std::int32_t sequences = 0;
};

/// The tree's text, by nodes.
inline std::string to_text(const std::vector<TextNode>& nodes) {
  std::string text;
  for (const TextNode& n : nodes) {
    text += (text.empty() ? "" : " ") + std::to_string(n.parent) + ":" + std::to_string(n.tokens) + ":" +
            std::to_string(n.sequences);
  }
  return text;
}

/// Requests of a trace as a forest of blocks: equal ids are one node, a chain of nodes without a fork is one.
class TraceWindow {
 public:
  /// Ids of the request's blocks, all full but the last.
  void add(const std::vector<std::int32_t>& ids, std::int32_t tokens) {
    std::int32_t at = -1;
    for (const std::int32_t id : ids) {
      const auto fresh = static_cast<std::int32_t>(nodes_.size());
      const auto [found, is_new] = node_of_.emplace(std::pair(at, id), fresh);
      const std::int32_t filled = std::clamp(tokens, 0, kBlock);
      if (is_new) nodes_.push_back({at, 0, 0}), children_.push_back(0);
      if (is_new && at >= 0) ++children_[static_cast<std::size_t>(at)];
      at = found->second;
      TextNode& n = nodes_[static_cast<std::size_t>(at)];
      n.tokens = std::max(n.tokens, filled);
      tokens -= filled;
    }
    if (at >= 0) ++nodes_[static_cast<std::size_t>(at)].sequences;
  }

  std::vector<TextNode> merged() const {
    std::vector<TextNode> out;
    std::vector<std::int32_t> place;
    for (const TextNode& n : nodes_) {
      const std::int32_t above = n.parent < 0 ? -1 : place[static_cast<std::size_t>(n.parent)];
      const bool goes_on = above >= 0 && children_[static_cast<std::size_t>(n.parent)] == 1 &&
                           nodes_[static_cast<std::size_t>(n.parent)].sequences == 0;
      if (goes_on) {
        out[static_cast<std::size_t>(above)].tokens += n.tokens;
        out[static_cast<std::size_t>(above)].sequences += n.sequences;
      } else {
        out.push_back({above, n.tokens, n.sequences});
      }
      place.push_back(goes_on ? above : static_cast<std::int32_t>(out.size()) - 1);
    }
    return out;
  }

 private:
  static constexpr std::int32_t kBlock = 512;
  std::map<std::pair<std::int32_t, std::int32_t>, std::int32_t> node_of_;
  std::vector<TextNode> nodes_;
  std::vector<std::int32_t> children_;
};

/// The lines of a file as JSON, one after the other.
class JsonLines {
 public:
  explicit JsonLines(const std::string& file) : file_(file), why_(file_ ? "" : "no such file") {}
  bool next(Json* out) {
    if (!std::getline(file_, line_)) return false;
    ++number_;
    if (parse_json(line_, out)) return true;
    refuse("no JSON");
    return false;
  }
  void refuse(const std::string& what) { why_ = "line " + std::to_string(number_) + ": " + what; }
  /// Why the file cannot be used; empty: it can.
  const std::string& why() const { return why_; }

 private:
  std::ifstream file_;
  std::string line_, why_;
  std::int64_t number_ = 0;
};

inline constexpr std::int32_t kWindow = 64;  ///< requests, or questions, of a workload

inline std::string read_trace(const std::string& path, std::vector<Workload>* list) {
  WorkloadAdder to(list, "Mooncake's conversation trace, FAST 2025");
  JsonLines lines(path);
  TraceWindow window;
  std::int32_t requests = 0;
  const auto close = [&] {
    Workload& w = to.add("mooncake/" + std::to_string((requests - 1) / kWindow),
                         "a decode step of 64 requests of a chat service, in order of arrival",
                         to_text(window.merged()), make_kind(32, 8, 128, DType::bf16));
    w.page_size = 16;
    window = TraceWindow();
  };
  for (Json request; lines.next(&request);) {
    const std::vector<std::int32_t> ids = request["hash_ids"].integers();
    const auto tokens = static_cast<std::int32_t>(request["input_length"].number);
    if (ids.empty() || tokens < 1) lines.refuse("no hash_ids or no input_length");
    if (!lines.why().empty()) break;
    window.add(ids, tokens);
    if (++requests % kWindow == 0) close();
  }
  if (requests % kWindow != 0) close();
  return lines.why();
}

/// Tokens of a text, about: there is no tokenizer here.
inline std::int32_t tokens_of(const std::string& text) { return static_cast<std::int32_t>((text.size() + 3) / 4); }

inline std::string read_solutions(const std::string& path, std::vector<Workload>* list) {
  WorkloadAdder to(list, "GSM8K's example model solutions");
  JsonLines lines(path);
  std::vector<std::string> texts(1);
  std::int32_t questions = 0;
  std::vector<TextNode> nodes;
  for (Json line; lines.next(&line); ++questions) {
    if (questions % kWindow == 0 && !nodes.empty()) texts.push_back(""), nodes.clear();
    const auto question = static_cast<std::int32_t>(nodes.size());
    nodes.push_back({-1, tokens_of(line["question"].text), 0});
    for (const auto& [model, answer] : line.members) {
      if (answer["solution"]) nodes.push_back({question, tokens_of(answer["solution"].text), 1});
    }
    if (static_cast<std::int32_t>(nodes.size()) == question + 1) lines.refuse("no solution");
    if (!lines.why().empty()) break;
    texts.back() = to_text(nodes);
  }
  if (questions == 0) return lines.why();
  const LayerKind kind = make_kind(32, 8, 128, DType::bf16);
  for (const bool training : {false, true}) {
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::string name = std::string("gsm8k/") + (training ? "train/" : "decode/") + std::to_string(i);
      const std::string about =
          std::string(training ? "a training step" : "a decode step") + " of 64 questions and their sampled solutions";
      Workload& w = to.add(name, about, texts[i], kind);
      w.task = training ? Task::training : Task::forward;
    }
  }
  return lines.why();
}

inline std::string read_draft_trees(const std::string& path, std::vector<Workload>* list) {
  JsonLines lines(path);
  Json trees;
  if (!lines.next(&trees)) return lines.why().empty() ? "the file is empty" : lines.why();
  for (const auto& [name, tree] : trees.members) {
    WorkloadAdder to(list, "draft tree: " + tree["source"].text);
    add_verification(name, tree["parent"].integers(), &to);
  }
  return "";
}

}  // namespace detail

inline DataWorkloads data_workloads(const std::string& folder) {
  DataWorkloads data;
  const auto read = [&](const char* workloads, const std::string& file, auto reader) {
    std::vector<Workload> list;
    const std::string why = folder.empty() ? "no folder of real input is set" : reader(folder + "/" + file, &list);
    if (why.empty()) data.list.insert(data.list.end(), list.begin(), list.end());
    if (!why.empty()) data.missing.push_back(std::string(workloads) + ": " + file + ": " + why);
  };
  read("mooncake/...", "traces/mooncake_conversation.jsonl", detail::read_trace);
  read("gsm8k/...", "gsm8k/example_model_solutions.jsonl", detail::read_solutions);
  read("verify/... of published models", "trees/draft_trees.json", detail::read_draft_trees);
  return data;
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
