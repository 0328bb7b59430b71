// SPDX-License-Identifier: Apache-2.0
// The planner's constants: those of CostModel for each implementation of attention on the
// device, from plans that differ in one thing. A "thread" of the model is a thread block here: every plan gives each
// block the same work, and keys come from memory, so that they cost what they cost while all blocks read.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu/bench_input.hpp"
#include "gpu/constants.hpp"
#include "gpu/harness/results.hpp"
#include "gpu/machine_name.hpp"
#include "gpu/stages.hpp"
#include "gpu/times.hpp"

namespace prefixshare::gpu {
namespace {

/// What comes out below nothing was too small to see.
double per(double ns, double count) { return std::max(0.0, ns / count); }

/// As bench/support/cost_fit.cpp has it for a thread of the host.
class DeviceCostFitter {
 public:
  DeviceCostFitter(const Target& target, const LayerKind& kind, bool quick)
      : target_(target), kind_(kind), quick_(quick) {}

  /// Keeps min_item and how the implementation works of `cost`.
  CostModel fit(CostModel cost) const {
    const std::int32_t group = kind_.group();
    const std::int32_t full = detail::tile_row_limit(kind_);
    const std::int32_t some = std::min(full, (std::max(cost.row_step, cost.few_rows + 1) + group - 1) / group);
    const auto padded = [&](std::int32_t rows) {
      return static_cast<double>(detail::ceil_div(std::int64_t{rows} * group, cost.row_step) * cost.row_step);
    };
    const double few_time = key_element(some), full_time = key_element(full);
    cost.mac = per(full_time - few_time, padded(full) - padded(some));
    cost.kv_element = std::max(0.0, few_time - cost.mac * padded(some));
    cost.few_kv_element = cost.few_mac = 0;
    if (const std::int32_t few = cost.few_rows / group; few > 0) {
      const double one = key_element(1), most = key_element(few);
      cost.few_mac = few > 1 ? per(most - one, group * (few - 1)) : 0;
      cost.few_kv_element = std::max(0.0, one - cost.few_mac * group);
    }
    cost.item = item(cost);
    cost.partial = partial(cost);
    return cost;
  }

 private:
  struct Timing {
    double ns = 0, partials = 0;  ///< of one block
  };

  /// `trees` times a tree, one for each block.
  Timing measure(std::int32_t nodes, std::int32_t leaves, std::int32_t tokens, std::int32_t own,
                 Sharing sharing) const {
    testing::Topology t;
    for (std::int32_t b = 0; b < target_.blocks * nodes; ++b) {
      const std::int32_t root = t.add_node(-1, tokens);
      for (std::int32_t i = 0; i < leaves; ++i) t.add_sequence(own > 0 ? t.add_node(root, own) : root, 1);
    }
    PlanOptions options;
    options.sharing = sharing;
    const Forest forest = place(t, 16);
    const PlannedCall call(target_, forest, kind_, options);
    const LayerInput input(target_, forest, kind_, false, 1);
    const Times times = times_of([&](Stream s) { throw_if_error(call.forward(input.attend(), s)); });
    const double blocks = target_.blocks, state_element = 2.0 * static_cast<double>(size_of(kind_.acc_dtype()));
    return {1e9 * times.median(), static_cast<double>(count(call.plan).partial_bytes) / state_element / blocks};
  }

  /// Seconds of a call among others.
  Times times_of(const std::function<void(Stream)>& call) const {
    constexpr int kCalls = 10;
    const std::function<double()> run = target_.machine->timed([&](Stream s) {
      for (int n = 0; n < kCalls; ++n) call(s);
    });
    std::vector<double> times;
    for (int n = 0; n < (quick_ ? 5 : 20); ++n) times.push_back(run() / kCalls);
    return Times(std::move(times));
  }

  /// An element of a key or value against one tile of `rows` rows.
  double key_element(std::int32_t rows) const {
    constexpr std::int32_t kShort = 256, kLong = 1280;
    const auto time = [&](std::int32_t keys) { return measure(1, rows, keys, 0, Sharing::always).ns; };
    return per(time(kLong) - time(kShort), (kLong - kShort) * static_cast<double>(detail::kv_elements(kind_)));
  }

  /// The same rows, each in a tile of its own or in few full ones, over as many keys as a page has.
  double item(CostModel cost) const {
    constexpr std::int32_t kRows = 64, kKeys = 16;
    const Timing many = measure(kRows, 1, kKeys, 0, Sharing::never), few = measure(1, kRows, kKeys, 0, Sharing::always);
    const auto more = [&](double item) {  // that the first takes by the model
      PlanOptions options;
      options.cost = cost;
      options.cost.item = item;
      const detail::TileCost tile(kind_, options);
      return kRows * tile.tiles(1, kKeys) - tile.tiles(kRows, kKeys);
    };
    return per(many.ns - few.ns - more(0), more(1) - more(0));
  }

  /// The same rows, with two partial states each and with none.
  double partial(const CostModel& cost) const {
    constexpr std::int32_t kRows = 256;
    const Timing split = measure(1, kRows, 1, 1, Sharing::always), whole = measure(1, kRows, 1, 1, Sharing::never);
    PlanOptions options;
    options.cost = cost;
    const detail::TileCost tile(kind_, options);
    const double predicted = tile.tiles(kRows, 1) + kRows * (tile.tiles(1, 1) - tile.tiles(1, 2));
    return per(split.ns - whole.ns - predicted, split.partials - whole.partials);
  }

  const Target& target_;
  LayerKind kind_;
  bool quick_;
};

Result fit(const MakeTarget make, const std::string& implementation, DType type, bool quick) {
  Target target = target_of(make);
  throw_if_error(target.context.tree_attention.force(implementation.c_str()));
  LayerKind kind;
  kind.Hq = 32, kind.Hkv = 8;
  kind.D = kind.Dv = 128;
  kind.q_dtype = kind.kv_dtype = type;
  const CostModel known = detail::find(target.context.tree_attention, implementation.c_str())->cost;
  const CostModel c = DeviceCostFitter(target, kind, quick).fit(known);
  Result result;
  result.figures.add("implementation", implementation).add("storage", to_string(type));
  result.figures.add("item_ns", c.item).add("kv_element_ns", c.kv_element).add("mac_ns", c.mac);
  result.figures.add("partial_ns", c.partial).add("few_kv_element_ns", c.few_kv_element);
  result.figures.add("few_mac_ns", c.few_mac)
      .add("min_item_ns", c.min_item)
      .add("row_step", c.row_step)
      .add("few_rows", c.few_rows);
  return result;
}

}  // namespace

void write_costs(const std::string& folder, const std::vector<Record>& lines) {
  Record device;
  Record::parse(read_records(folder + "/constants.jsonl").at(0).text("device"), &device);
  const std::string name = device.text("name"), machine = machine_name(name);
  std::ofstream file(folder + "/" + machine + ".json");
  file << "{\n  \"machine\": \"" << machine << "\",\n  \"devices\": [\"" << name << "\"],\n  \"ceilings\": [";
  const char* comma = "";
  for (const Record& line : lines) {
    if (!line.has("rate") && !line.has("us")) continue;
    Record ceiling;
    for (const char* key : {"case", "rate", "unit", "us"}) ceiling.copy(key, line);
    file << comma << "\n    " << ceiling.json();
    comma = ",";
  }
  file << "\n  ],\n  \"cost_models\": [";
  comma = "";
  for (const Record& line : lines) {
    if (!line.has("item_ns")) continue;
    Record cost;
    for (const char* key : {"implementation", "storage", "item_ns", "kv_element_ns", "mac_ns", "partial_ns",
                            "few_kv_element_ns", "few_mac_ns", "min_item_ns", "row_step", "few_rows"}) {
      cost.copy(key, line);
    }
    file << comma << "\n    " << cost.json();
    comma = ",";
  }
  file << "\n  ]\n}\n";
  std::printf("%s/%s.json\n", folder.c_str(), machine.c_str());
}

void add_cost_constants(MakeTarget make, const std::vector<std::string>& names, bool quick, std::vector<Case>* cases) {
  for (const std::string& name : names) {
    for (const DType type : {DType::bf16, DType::f16}) {
      cases->push_back({"cost/" + name + " " + to_string(type), [=] { return fit(make, name, type, quick); }, 60});
    }
  }
}

}  // namespace prefixshare::gpu
