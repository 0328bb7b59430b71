// SPDX-License-Identifier: Apache-2.0
// An emulator that runs kernels on the host: every CUDA thread is a fiber, and what CUDA leaves undefined is an error
// that names the kernel's line. Kernels reach it through prefixshare/cuda/ptx.cuh only; tests call `launch`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "prefixshare/dtype.hpp"

namespace simt {

// ---- For tests

struct Grid {
  int blocks = 1;
  int threads = 32;  ///< of a block: whole warps
  int shared_bytes = 0;
};

/// Which thread goes on where several could.
enum class Order {
  forward,  ///< the lowest lane, and one warp as long as it can
  reverse,  ///< the highest lane of the highest warp
  random,
  pct,  ///< warps have priorities, which change rarely: one gets far ahead of the others
};
/// When an asynchronous copy happens: at its issue, at the wait for it, or some time between.
enum class Async { eager, lazy, random };

struct Options {
  Order order = Order::forward;
  Async async = Async::eager;
  int resident = 1;              ///< blocks that run at the same time
  std::uint64_t seed = 1;        ///< of all that is random
  bool misalign = false;         ///< shared memory begins 128 bytes after a multiple of 1024
  bool shuffle_blocks = false;   ///< blocks begin in random order, else one by one from 0
  std::int64_t polls = 1000000;  ///< calls of spin_pause in which no thread ends: then it is a livelock
};

/// What is wrong with the kernel, and where. The message begins with the finding and names file:line of all concerned.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Counts of the last launch of this thread. A matrix is loaded in one phase if its rows lie in different banks.
struct Statistics {
  std::int64_t matrices = 0;   ///< 8 x 8 matrices that load_matrix loaded
  std::int64_t conflicts = 0;  ///< phases that they took beyond one each
};
Statistics statistics();

namespace detail {
void run(const Grid& grid, const Options& options, void (*entry)(void*), void* argument);
}  // namespace detail

/// Runs a kernel to its end. Memory of the host is global memory. Throws Error.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Grid& grid, const Options& options, Arguments&&... arguments) {
  const std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
  const auto call = [&] { std::apply(kernel, parameters); };
  using Call = decltype(call);
  detail::run(
      grid, options, [](void* p) { (*static_cast<Call*>(p))(); }, const_cast<void*>(static_cast<const void*>(&call)));
}

// ---- For kernels, through ptx.cuh, where these are described

struct Here {
  const char* file;
  int line;
  static constexpr Here current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

int thread();
int threads();
int block();
int blocks();
unsigned char* shared_memory();

/// Bytes of shared memory that nobody may touch until the block ends, such as a gap between two buffers. Any thread may
/// say so, several times. Writes are found at the end of the block, under AddressSanitizer every access where it
/// happens.
void smem_guard(void* p, std::size_t bytes, Here here = Here::current());

void sync_block(Here here);
void sync_named(int barrier, int threads, Here here);
bool any_block(bool value, Here here);
int count_block(bool value, Here here);

void sync_warp(Here here);
void shuffle(void* value, std::size_t bytes, int lane, Here here);
std::uint32_t ballot(bool value, Here here);
void load_matrix(std::uint32_t* r, int matrices, bool transposed, const void* row, Here here);
void multiply_add(float* d, const std::uint32_t* a, const std::uint32_t* b, prefixshare::DType type, Here here);

void copy_async(void* shared, const void* global, int bytes, Here here);
void copy_async_commit(Here here);
void copy_async_wait(int pending, Here here);

void barrier_init(std::uint64_t* barrier, int arrivals, Here here);
void barrier_arrive(std::uint64_t* barrier, Here here);
void copy_async_arrive(std::uint64_t* barrier, Here here);
void barrier_wait(std::uint64_t* barrier, int parity, Here here);

void spin_pause(Here here);
[[noreturn]] void trap(Here here);
/// Another thread may go on here, in all orders but forward.
void interleave();

float exp2(float x);
float log2(float x);
void sincospi(float x, float* sin, float* cos);

/// Inline, so that ThreadSanitizer sees the kernel's line. One thread of the host runs all fibers.
inline int arrive(int* counter, int last) {
  interleave();
  const int before = __atomic_load_n(counter, __ATOMIC_RELAXED);
  const bool wraps = static_cast<unsigned>(before) >= static_cast<unsigned>(last);
  __atomic_exchange_n(counter, wraps ? 0 : before + 1, __ATOMIC_ACQ_REL);
  return before;
}
inline int load_acquire(const int* counter) {
  interleave();
  return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

/// As the conversion instructions, whose NaN has all bits set but the sign.
template <class T>
std::uint16_t round_to(float x) {
  if (x != x) return 0x7fff;
  return prefixshare::store_as<T>(x).bits;
}
template <class T>
std::uint32_t pack(float low, float high) {
  return static_cast<std::uint32_t>(round_to<T>(high)) << 16 | round_to<T>(low);
}

}  // namespace simt
