// SPDX-License-Identifier: Apache-2.0
// What this machine can test of cpu:amx-bf16 and cpu:avx512-bf16. What it cannot is skipped by name.
#pragma once

#include <string>

#include "support/attention.hpp"
#include "support/data.hpp"

namespace prefixshare::tests {

/// A context that forces `name`, which computes in f32.
inline NamedContext forced_context(const Context& base, const char* name) {
  NamedContext c;
  c.name = name;
  c.backward = base.tree_attention_backward.entries[0].name;
  c.widest = DType::f32;
  c.context = base;
  require_ok(force_implementation(&c.context, name));
  return c;
}

/// Why the library does not run an implementation here; ok where it does.
inline Status hardware_verdict(const char* name) {
  Context context;
  require_ok(create_context(&context));
  AttentionProblem problem;
  problem.kind.q_dtype = problem.kind.kv_dtype = DType::bf16;
  for (const Verdict& v : explain(context.tree_attention, problem)) {
    if (v.name == std::string(name)) return v.status;
  }
  FAIL(name << " is not registered");
  return {};
}
/// Whether it runs cpu:amx-bf16; says so where not.
inline bool has_hardware_tiles() {
  const Status why = hardware_verdict("cpu:amx-bf16");
  if (!why.ok()) skip("cpu:amx-bf16 in hardware", to_string(why));
  return why.ok();
}

/// Whether emulated tiles can run here; says so where not.
inline bool can_emulate_tiles() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16")) {
    return true;
  }
  skip("emulated tiles", "no AVX-512 with BF16 in this machine");
  return false;
}

}  // namespace prefixshare::tests
