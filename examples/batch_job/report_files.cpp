// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "report.hpp"

namespace batch_job {

namespace {

using Json = nlohmann::ordered_json;

Json choice_json(const Report& r, const Choice& c) {
  return {{"groups", c.groups},
          {"processed_tokens", c.processed},
          {"saving", r.saving(c.processed)},
          {"seconds", c.seconds}};
}

Json way_json(const Report& r, const Way& way) {
  const Summary s = summarise(way.iterations);
  return {{"name", way.name},
          {"processed_tokens", way.processed},
          {"saving", r.saving(way.processed)},
          {"iterations", s.iterations},
          {"mean_tokens", s.tokens},
          {"mean_batch", s.batch},
          {"peak_batch", s.peak_batch},
          {"mean_kv", s.kv},
          {"peak_kv", s.peak_kv}};
}

Json reading_json(const Reading& reading) {
  const prefixshare::Counters& c = reading.counters;
  return {{"kv_tokens", reading.kv_tokens},
          {"pairs", c.pairs},
          {"kv_rows", c.kv_rows},
          {"kv_bytes", c.kv_bytes},
          {"partial_bytes", c.partial_bytes}};
}

}  // namespace

std::string to_json(const Report& r) {
  Json json;
  json["input"] = r.what;
  json["requests"] = r.requests;
  json["logical_tokens"] = r.tokens.logical;
  json["unique_tokens"] = r.trie.unique_tokens;
  json["independent_count"] = {
      {"logical_tokens", r.tokens.logical}, {"unique_tokens", r.tokens.unique}, {"ok", r.counts_agree()}};
  if (r.blocks > 0) json["whole_block_tokens"] = r.blocks * prefix_report::kTraceBlock;
  json["decode_tokens"] = r.decode_tokens;
  json["ideal"] = {{"processed_tokens", r.trie.unique_tokens}, {"saving", r.saving(r.trie.unique_tokens)}};
  json["greedy"] = choice_json(r, r.greedy);
  json["exact"] = choice_json(r, r.exact);
  json["reconstructed"] = r.reconstructed;
  json["limits"] = {{"kv_budget", r.options.limits.kv_budget},
                    {"token_budget", r.options.limits.token_budget},
                    {"request_limit", r.options.limits.request_limit}};
  for (const Way& way : r.ways) json["ways"].push_back(way_json(r, way));
  if (r.step) {
    json["step"] = {{"iteration", r.step->iteration},
                    {"requests", r.step->running.requests.size()},
                    {"unshared", reading_json(r.step->readings.unshared)},
                    {"groups", reading_json(r.step->readings.groups)},
                    {"levels", reading_json(r.step->readings.levels)}};
  }
  json["ok"] = r.passes();
  return json.dump(2) + "\n";
}

std::string to_csv(const Report& r) {
  std::string text = "way,iteration,batch,prefill,decode,kv\n";
  for (const Way& way : r.ways) {
    std::int64_t number = 0;
    for (const Iteration& i : way.iterations) {
      text += "\"" + way.name + "\"";
      for (const std::int64_t value : {++number, i.batch, i.prefill, i.decode, i.kv})
        text += "," + std::to_string(value);
      text += "\n";
    }
  }
  return text;
}

}  // namespace batch_job
