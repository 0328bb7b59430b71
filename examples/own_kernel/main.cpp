// SPDX-License-Identifier: Apache-2.0
// Whether a kernel of one's own conforms, and how long it takes beside the library's. Exit code 1 if it does not
// conform.
#include <cstdint>
#include <cstdio>
#include <prefixshare/testing/catalogue.hpp>
#include <prefixshare/testing/conformance.hpp>
#include <prefixshare/testing/workload_times.hpp>
#include <prefixshare/thread_pool.hpp>
#include <string>
#include <thread>
#include <vector>

#include "kernel.hpp"

namespace ps = prefixshare;

int main() {
  ps::ThreadPool pool(static_cast<std::int32_t>(std::thread::hardware_concurrency()));
  ps::Context context;
  ps::throw_if_error(ps::create_context(&context));
  ps::throw_if_error(add_row_kernel(&context));
  context.executor = pool.executor();

  const ps::testing::ConformanceReport report = ps::testing::run_conformance(context, "cpu:rows");
  std::printf("%s\n", to_string(report).c_str());
  if (!report.ok()) return 1;

  ps::testing::WorkloadTimesOptions options;
  options.dtype = ps::DType::f32;
  options.scale = 4;
  std::vector<const ps::testing::Workload*> workloads;
  for (const char* name : {"cpu/W3b", "cpu/W5", "verify/chain-5"})
    workloads.push_back(ps::testing::find_workload(name));
  std::printf("%s", to_string(ps::testing::time_workloads(context, workloads, options)).c_str());
  return 0;
}
