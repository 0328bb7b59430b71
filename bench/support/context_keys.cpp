// SPDX-License-Identifier: Apache-2.0
#include "support/context_keys.hpp"

#include <cctype>
#include <cstdio>
#include <string>

#include "bench_build.hpp"
#include "bench_commit.hpp"
#include "prefixshare/version.hpp"
#include "support/machine.hpp"

namespace prefixshare::bench {
namespace {

using benchmark::AddCustomContext;

/// As kernels/costs calls the machine; else vendor-family-model.
std::string machine_type(const Context& context) {
  if (std::string(context.machine) != "default") return context.machine;
  const CpuId id;
  if (id.vendor.empty()) return "unknown";
  std::string name = id.vendor + "-" + std::to_string(id.family) + "-" + std::to_string(id.model);
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

void add_build() {
  AddCustomContext("prefixshare", std::to_string(PREFIXSHARE_VERSION_MAJOR) + "." +
                                      std::to_string(PREFIXSHARE_VERSION_MINOR) + "." +
                                      std::to_string(PREFIXSHARE_VERSION_PATCH));
  AddCustomContext("commit", kCommit);
  AddCustomContext("compiler", kCompiler);
  AddCustomContext("flags", kFlags);
  AddCustomContext("build_type", kBuildType);
}

/// "ceilings/threads:2/memory" and so on, per second: bytes, FLOPs, exponentials. What a machine lacks is left out.
void add_ceilings(const Team& team, const Ceilings& c) {
  const auto add = [&](const std::string& what, double rate) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", rate);
    if (rate > 0) AddCustomContext(join({"ceilings", team.name, what}), text);
  };
  add("memory", c.memory_read());
  add("cache", c.cache_read);
  add("l2", c.l2_read);
  add("memcpy", c.copy);
  add("stream_copy", c.stream_copy);
  add("f32", c.flops(DType::f32));
  if (c.flops(DType::bf16) > c.flops(DType::f32)) add("bf16", c.flops(DType::bf16));
  add("exp", c.exponentials());
  add("busy", c.busy);
}

}  // namespace

void add_context_keys(Session* session) {
  AddCustomContext("machine", machine_type(session->context));
  AddCustomContext("cpu", cpu_name());
  AddCustomContext("threads", std::to_string(session->options.threads));
  AddCustomContext("quick", session->options.quick ? "yes" : "no");
  add_build();
  for (const Team& team : session->teams) add_ceilings(team, session->ceilings(team));
}

}  // namespace prefixshare::bench
