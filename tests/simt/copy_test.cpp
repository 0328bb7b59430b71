// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies: what they copy, when a thread and its block see it, and what they refuse.
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "prefixshare/cuda/ptx.cuh"
#include "simt/modes.hpp"
#include "support/catch.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

struct alignas(16) Source {
  unsigned char bytes[16 * 32 * 8];
  Source() { std::iota(bytes, bytes + sizeof bytes, static_cast<unsigned char>(1)); }
};

/// Lane l copies the first l bytes of its 16, as long as there are any.
PREFIXSHARE_GLOBAL void copy_some(const unsigned char* in, unsigned char* out) {
  unsigned char* const s = ptx::shared_memory();
  const int lane = ptx::lane(), bytes = lane <= 16 ? lane : 0;
  ptx::copy_async(s + 16 * lane, bytes > 0 ? in + 16 * lane : nullptr, bytes);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
  for (int i = 0; i < 16; ++i) out[16 * lane + i] = s[16 * lane + i];
}

/// A pipeline of three buffers: copies run two steps ahead, and each step reads what other threads copied.
PREFIXSHARE_GLOBAL void pipeline(const std::uint32_t* in, int steps, std::uint32_t* out) {
  constexpr int kBuffers = 3;
  auto* const s = reinterpret_cast<std::uint32_t*>(ptx::shared_memory());
  const int i = ptx::thread(), n = ptx::threads();
  const auto copy = [&](int step) {
    if (step < steps) ptx::copy_async(s + 4 * (step % kBuffers * n + i), in + 4 * (step * n + i));
    ptx::copy_async_commit();  // an empty group, too, so that the number of groups is that of steps
  };
  for (int step = 0; step < kBuffers - 1; ++step) copy(step);
  std::uint32_t sum = 0;
  for (int step = 0; step < steps; ++step) {
    ptx::copy_async_wait<kBuffers - 2>();
    ptx::sync_block();
    copy(step + kBuffers - 1);
    for (int j = 0; j < 4; ++j) sum += s[4 * (step % kBuffers * n + (i + 37) % n) + j];
  }
  ptx::copy_async_wait<0>();
  out[i] = sum;
}

/// What has not been committed is not waited for.
PREFIXSHARE_GLOBAL void forget_commit(const unsigned char* in) {
  ptx::copy_async(ptx::shared_memory() + 16 * ptx::lane(), in);
  ptx::copy_async_wait<0>();
}

PREFIXSHARE_GLOBAL void copy_from(const void* in, int offset, int bytes, bool from_shared) {
  if (ptx::thread() != 0) return;
  const void* const source = from_shared ? ptx::shared_memory() : in;
  ptx::copy_async(ptx::shared_memory() + offset, source, bytes);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
}

PREFIXSHARE_GLOBAL void copy_into_guard(const void* in, int offset) {
  simt::smem_guard(ptx::shared_memory() + 24, 8);
  copy_from(in, offset, 16, false);
}

PREFIXSHARE_GLOBAL void many_groups(const void* in, int groups) {
  for (int i = 0; i < groups; ++i) {
    ptx::copy_async(ptx::shared_memory() + 16 * ptx::lane(), in);
    ptx::copy_async_commit();
  }
  ptx::copy_async_wait<0>();
}

}  // namespace

TEST_CASE("copies: the bytes that are asked for, then zeros", "[simt]") {
  const Source source;
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    std::vector<unsigned char> out(16 * 32, 0xee);
    simt::launch(copy_some, {1, 32, 512}, options, source.bytes, out.data());
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::size_t lane = i / 16;
      CHECK(out[i] == (lane <= 16 && i % 16 < lane ? source.bytes[i] : 0));
    }
  }
}

TEST_CASE("copies: a pipeline that is right is right in every mode", "[simt]") {
  std::vector<std::uint32_t> memory(4 * 96 * 8 + 4);
  std::iota(memory.begin(), memory.end(), 1u);
  void* p = memory.data();
  std::size_t space = memory.size() * sizeof(std::uint32_t);
  const auto* const in = static_cast<const std::uint32_t*>(std::align(16, 4 * 4 * 96 * 8, p, space));
  for (const int steps : {1, 2, 3, 7, 8}) {
    for (const simt::Options& options : simt_modes()) {
      INFO(to_string(options));
      std::vector<std::uint32_t> out(96), expected(96, 0);
      for (int step = 0; step < steps; ++step) {
        for (int i = 0; i < 96; ++i) {
          const std::uint32_t* const four = in + 4 * (step * 96 + (i + 37) % 96);
          expected[static_cast<std::size_t>(i)] += four[0] + four[1] + four[2] + four[3];
        }
      }
      simt::launch(pipeline, {1, 96, 3 * 96 * 16}, options, in, steps, out.data());
      CHECK(out == expected);
    }
  }
}

TEST_CASE("copies: a group that was not committed has not been waited for", "[simt]") {
  const Source source;
  const std::string message = simt_error([&] { simt::launch(forget_commit, {1, 32, 512}, {}, source.bytes); });
  CHECK(message.find("exit by thread 0 of block 0: it has not waited for copy_async at ") == 0);
}

TEST_CASE("copies: addresses and sizes that cannot be", "[simt]") {
  const Source source;
  const auto error = [&](const void* in, int offset, int bytes, bool from_shared = false) {
    return simt_error([&] { simt::launch(copy_from, {1, 32, 64}, {}, in, offset, bytes, from_shared); });
  };
  const auto has = [](const std::string& message, const std::string& part) {
    INFO(message);
    CHECK(message.find("copy_async at ") == 0);
    CHECK(message.find("copy_test.cpp:") != std::string::npos);
    CHECK(message.find(part) != std::string::npos);
  };
  const unsigned char* const in = source.bytes;
  has(error(in, 0, 17), "17 bytes are not 0 to 16");
  has(error(in, 0, -1), "-1 bytes are not 0 to 16");
  has(error(in + 8, 0, 16), "the address in global memory is no multiple of 16");
  has(error(in, 8, 16), "the address in shared memory is no multiple of 16");
  has(error(in, 64, 16), "bytes 64 to 79 are outside of the block's 64 bytes of shared memory");
  has(error(in, 16, 16, true), "the source is shared memory");
  const auto guarded = [&](int offset) {
    return simt_error([&] { simt::launch(copy_into_guard, {1, 32, 64}, {}, in, offset); });
  };
  CHECK(guarded(0) == "");
  CHECK(guarded(32) == "");
  has(guarded(16), "the bytes in shared memory are guarded");
}

TEST_CASE("copies: as many groups in flight as the emulator has room for", "[simt]") {
  const Source source;
  const auto launch = [&](int groups) { simt::launch(many_groups, {1, 32, 512}, {}, source.bytes, groups); };
  CHECK(simt_error([&] { launch(64); }) == "");
  CHECK(simt_error([&] { launch(65); }).find("the emulator has room for 64 groups in flight") != std::string::npos);
}

#if defined(PREFIXSHARE_ASAN)

TEST_CASE("copies: memory that is not there, under AddressSanitizer", "[simt]") {
  const auto gone = std::make_unique<Source>();
  const auto message = [&](int before_end) {
    const unsigned char* const end = gone->bytes + sizeof gone->bytes;
    return simt_error([&] { simt::launch(copy_from, {1, 32, 64}, {}, end - before_end, 0, 16, false); });
  };
  CHECK(message(16) == "");
  CHECK(message(0).find("the 16 bytes in global memory may not be read") != std::string::npos);
}

#endif
