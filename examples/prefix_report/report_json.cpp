// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "report.hpp"

namespace prefix_report {

namespace {

using Json = nlohmann::ordered_json;

Json stats_json(const prefixshare::ForestStats& s) {
  return {{"sequences", s.sequences},
          {"nodes", s.nodes},
          {"roots", s.roots},
          {"depth", s.depth},
          {"max_path", s.max_path},
          {"logical_tokens", s.logical_tokens},
          {"unique_tokens", s.unique_tokens},
          {"sharing_ratio", s.sharing_ratio()}};
}

Json model_json(const Model& m) {
  return {{"name", m.name}, {"hq", m.Hq}, {"hkv", m.Hkv}, {"d", m.D}, {"layers", m.layers}};
}

Json counters_json(const prefixshare::Counters& c) {
  return {{"pairs", c.pairs},
          {"flops_forward", c.flops_forward},
          {"flops_backward", c.flops_backward},
          {"kv_rows", c.kv_rows},
          {"kv_bytes", c.kv_bytes},
          {"q_bytes", c.q_bytes},
          {"partial_bytes", c.partial_bytes}};
}

Json way_json(const Way& way, const std::vector<Pass>& passes) {
  Json list = Json::array();
  for (const Pass& pass : passes) {
    list.push_back({{"pass", pass.name},
                    {"seconds", pass.seconds},
                    {"flops", pass.flops},
                    {"bound_seconds", pass.bound_seconds},
                    {"fraction_of_bound", pass.bound_seconds / pass.seconds}});
  }
  return {{"plan_seconds", way.plan_seconds}, {"counters", counters_json(way.counters)}, {"passes", list}};
}

Json checks_json(const std::vector<Check>& checks) {
  Json list = Json::array();
  for (const Check& c : checks) {
    list.push_back({{"what", c.what}, {"values", c.values}, {"error", c.error}, {"bound", c.bound}, {"ok", c.ok()}});
  }
  return list;
}

Json sample_json(const Sample& sample) {
  Json json = stats_json(sample.stats);
  json["whole"] = sample.is_whole();
  json["cut_by_memory"] = sample.cut_by_memory;
  json["cut_by_time"] = sample.cut_by_time;
  return json;
}

const char* format_name(Format format) {
  return format == Format::trace ? "trace" : format == Format::gsm8k ? "gsm8k" : "completions";
}

}  // namespace

std::string to_json(const Report& r) {
  const JobResult& result = r.result;
  Json json;
  json["input"] = {{"file", r.options.input}, {"format", format_name(r.traffic.format)}, {"groups", r.traffic.groups}};
  if (r.traffic.is_trace()) json["input"]["blocks"] = r.traffic.blocks;
  json["forest"] = stats_json(r.stats);
  json["independent_count"] = {
      {"logical_tokens", r.independent.logical}, {"unique_tokens", r.independent.unique}, {"ok", r.counts_agree()}};
  json["model"] = model_json(r.options.model);
  json["dtype"] = to_string(r.options.dtype);
  if (r.whole_shared) {
    json["all_by_count"] = {{"unshared", counters_json(*r.whole_unshared)}, {"shared", counters_json(*r.whole_shared)}};
  }
  json["sample"] = sample_json(r.sample);
  json["run"] = {{"step", r.options.train ? "train" : "decode"},
                 {"model", model_json(r.options.run)},
                 {"implementation", result.implementation},
                 {"threads", r.options.threads},
                 {"repeats", result.repeats},
                 {"warm", result.warm}};
  json["unshared"] = way_json(r.sample.step.unshared, result.unshared);
  json["shared"] = way_json(r.sample.step.shared, result.shared);
  json["speed_up"] = result.seconds(result.unshared) / result.seconds(result.shared);
  json["ceilings"] = {{"bytes_per_second", result.ceilings.bytes_per_second},
                      {"flops_per_second", result.ceilings.flops_per_second}};
  json["checks"] = {{"against_reference", checks_json(result.against_reference)},
                    {"against_unshared", checks_json(result.against_unshared)}};
  json["ok"] = r.passes();
  return json.dump(2) + "\n";
}

}  // namespace prefix_report
