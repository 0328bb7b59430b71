// SPDX-License-Identifier: Apache-2.0
#include "report/ceilings_of_runs.hpp"

#include <set>

namespace prefixshare::report {

namespace {

struct Resource {
  const char* key;
  const char* name;
  const char* unit;
  Ceiling::Kind kind;
};
constexpr Resource kResources[] = {
    {"memory", "memory", "B/s", Ceiling::Kind::memory},
    {"cache", "last-level cache", "B/s", Ceiling::Kind::memory},
    {"l2", "L2", "B/s", Ceiling::Kind::memory},
    {"memcpy", "memcpy", "B/s", Ceiling::Kind::other},
    {"stream_copy", "copy past caches", "B/s", Ceiling::Kind::other},
    {"f32", "f32 products", "FLOP/s", Ceiling::Kind::products},
    {"bf16", "bf16 products", "FLOP/s", Ceiling::Kind::products},
    {"exp", "exponentials", "/s", Ceiling::Kind::other},
};

}  // namespace

std::vector<Ceiling> ceilings_of(const Machine& machine, std::int32_t threads) {
  std::vector<Ceiling> list;
  for (auto run = machine.runs.rbegin(); run != machine.runs.rend() && list.empty(); ++run) {
    const auto team = run->ceilings.find(threads);
    if (run->is_peer() || team == run->ceilings.end()) continue;
    for (const Resource& r : kResources) {
      const auto rate = team->second.find(r.key);
      if (rate != team->second.end()) list.push_back({r.name, rate->second, r.unit, r.kind});
    }
  }
  return list;
}

std::vector<std::int32_t> teams_with_ceilings(const Machine& machine) {
  std::set<std::int32_t> teams;
  for (const Run& run : machine.runs) {
    for (const auto& [threads, rates] : run.ceilings) {
      if (!ceilings_of(machine, threads).empty()) teams.insert(threads);
    }
  }
  return {teams.begin(), teams.end()};
}

}  // namespace prefixshare::report
