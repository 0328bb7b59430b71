// SPDX-License-Identifier: Apache-2.0
// Stage golden: what instructions answer on this device, as a file for tests/simt/golden.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <vector>

#include "gpu/device.hpp"
#include "gpu/golden.hpp"
#include "gpu/launch.cuh"
#include "gpu/stages.hpp"

namespace prefixshare::gpu {
namespace {

using Words = std::vector<std::uint32_t>;

Words run_on_device(void (*kernel)(const std::uint32_t*, std::uint32_t*), int blocks, int shared, const Words& in,
                    std::size_t count) {
  DeviceBuffer from(static_cast<std::int64_t>(4 * in.size())), to(static_cast<std::int64_t>(4 * count));
  from.write(in.data(), from.bytes());
  launch(kernel, {blocks, 32, shared}, from.as<std::uint32_t>(), to.as<std::uint32_t>());
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  Words out(count);
  to.read(out.data(), to.bytes());
  return out;
}

Result record(const std::string& path) {
  const golden::Dump dump = golden::record(device_name(), run_on_device);
  std::ofstream file(path);
  golden::write(dump, &file);
  file.close();
  golden::Dump again;
  std::ifstream written(path);
  if (!golden::read(&written, &again)) return Result::failure("cannot write " + path);
  return {Outcome::passed, "", Record().add("file", path)};
}

}  // namespace

Stage golden_stage(const StageOptions& options) {
  const std::string path = options.folder + "/device.txt";
  return {"golden", {{"golden/record", [path] { return record(path); }}}, {"case", "file"}, nullptr};
}

}  // namespace prefixshare::gpu
