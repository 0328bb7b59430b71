// SPDX-License-Identifier: Apache-2.0
// The seam between kernels and the machine: every instruction that is not C++ has its name here. Under nvcc it is
// inline PTX or an intrinsic, sm_80 and newer; with PREFIXSHARE_SIMT defined it is a call into the tests' emulator.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "prefixshare/detail/macros.hpp"
#include "prefixshare/dtype.hpp"

#if defined(PREFIXSHARE_SIMT)
#include "simt/simt.hpp"
#elif !defined(__CUDACC__)
#error "kernels are compiled by nvcc, or with PREFIXSHARE_SIMT for the emulator"
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "kernels need sm_80 or newer"
#endif

// What C++ has no words for. PREFIXSHARE_EITHER(emulated, device) is a private helper of this file.
#if defined(PREFIXSHARE_SIMT)
#define PREFIXSHARE_GLOBAL
#define PREFIXSHARE_DEVICE inline
#define PREFIXSHARE_BOUNDS(threads, blocks)
#define PREFIXSHARE_GRID_CONSTANT
#define PREFIXSHARE_EITHER(emulated, device) emulated
#else
#define PREFIXSHARE_GLOBAL __global__
#define PREFIXSHARE_DEVICE __device__ __forceinline__
#define PREFIXSHARE_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define PREFIXSHARE_GRID_CONSTANT __grid_constant__
#define PREFIXSHARE_EITHER(emulated, device) device
#endif

namespace prefixshare {
inline namespace v0_1 {
namespace ptx {

/// Who calls: file and line in the emulator, whose reports name them; nothing on the device. A helper of kernels may
/// take one as its own last argument and hand it on, so that reports name the helper's caller.
#if defined(PREFIXSHARE_SIMT)
using Here = simt::Here;
#else
struct Here {
  static constexpr PREFIXSHARE_HD Here current() { return {}; }
};
#endif

struct alignas(16) Float4 {
  float x, y, z, w;
};
/// 16 bytes that are moved as they are.
struct alignas(16) Words4 {
  std::uint32_t x, y, z, w;
};

// ---- Where a thread is. Kernels are one-dimensional.

PREFIXSHARE_DEVICE int thread() { return PREFIXSHARE_EITHER(simt::thread(), static_cast<int>(threadIdx.x)); }
PREFIXSHARE_DEVICE int threads() { return PREFIXSHARE_EITHER(simt::threads(), static_cast<int>(blockDim.x)); }
PREFIXSHARE_DEVICE int block() { return PREFIXSHARE_EITHER(simt::block(), static_cast<int>(blockIdx.x)); }
PREFIXSHARE_DEVICE int blocks() { return PREFIXSHARE_EITHER(simt::blocks(), static_cast<int>(gridDim.x)); }
PREFIXSHARE_DEVICE int lane() { return thread() % 32; }
PREFIXSHARE_DEVICE int warp() { return thread() / 32; }

/// The launch's dynamic shared memory. The device aligns it to 1024 bytes, the emulator on request to 128 only.
PREFIXSHARE_DEVICE unsigned char* shared_memory() {
#if defined(PREFIXSHARE_SIMT)
  return simt::shared_memory();
#else
  extern __shared__ __align__(1024) unsigned char prefixshare_shared_memory[];
  return prefixshare_shared_memory;
#endif
}

#if !defined(PREFIXSHARE_SIMT)
/// The address that instructions on shared memory take.
PREFIXSHARE_DEVICE std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}
#endif

/// `x`, of which the compiler does not know that it never changes. What depends on it is computed where it is written:
/// numbers that follow from a thread's own would otherwise be kept in registers for the whole kernel, too many of them.
PREFIXSHARE_DEVICE int opaque(int x) {
  PREFIXSHARE_EITHER(void(), asm volatile("" : "+r"(x)));
  return x;
}

// ---- Waiting for each other. What was written before is visible after.

PREFIXSHARE_DEVICE void sync_block([[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::sync_block(here), __syncthreads());
}
PREFIXSHARE_DEVICE void sync_warp([[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::sync_warp(here), __syncwarp());
}
/// Among `threads` threads, whole warps, that name the same barrier of 1 to 15.
PREFIXSHARE_DEVICE void sync_named(int barrier, int threads, [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::sync_named(barrier, threads, here),
                     asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads)
                                  : "memory"));
}
/// sync_block that tells every thread whether any of them said true.
PREFIXSHARE_DEVICE bool any_block(bool value, [[maybe_unused]] Here here = Here::current()) {
  return PREFIXSHARE_EITHER(simt::any_block(value, here), __syncthreads_or(value) != 0);
}
/// sync_block that tells every thread how many of them said true.
PREFIXSHARE_DEVICE int count_block(bool value, [[maybe_unused]] Here here = Here::current()) {
  return PREFIXSHARE_EITHER(simt::count_block(value, here), __syncthreads_count(value));
}

// ---- Within a warp. All 32 lanes take part; memory is not ordered.

/// `value` of the lane `lane` (modulo 32), of 4 or 8 bytes.
template <class T>
PREFIXSHARE_DEVICE T shuffle(T value, int lane, [[maybe_unused]] Here here = Here::current()) {
  static_assert((sizeof(T) == 4 || sizeof(T) == 8) && std::is_trivially_copyable_v<T>);
#if defined(PREFIXSHARE_SIMT)
  simt::shuffle(&value, sizeof value, lane, here);
  return value;
#else
  using Bits = std::conditional_t<sizeof(T) == 4, unsigned, unsigned long long>;
  return detail::bit_cast<T>(__shfl_sync(0xffffffffu, detail::bit_cast<Bits>(value), lane));
#endif
}
/// `value` of the lane whose number differs in the bits of `mask`.
template <class T>
PREFIXSHARE_DEVICE T shuffle_xor(T value, int mask, [[maybe_unused]] Here here = Here::current()) {
  static_assert((sizeof(T) == 4 || sizeof(T) == 8) && std::is_trivially_copyable_v<T>);
#if defined(PREFIXSHARE_SIMT)
  simt::shuffle(&value, sizeof value, lane() ^ mask, here);
  return value;
#else
  using Bits = std::conditional_t<sizeof(T) == 4, unsigned, unsigned long long>;
  return detail::bit_cast<T>(__shfl_xor_sync(0xffffffffu, detail::bit_cast<Bits>(value), mask));
#endif
}
/// Bit i is what lane i said.
PREFIXSHARE_DEVICE std::uint32_t ballot(bool value, [[maybe_unused]] Here here = Here::current()) {
  return PREFIXSHARE_EITHER(simt::ballot(value, here), __ballot_sync(0xffffffffu, value));
}

// ---- Asynchronous copies

/// 16 bytes to shared memory: the first `bytes` of them are read, the rest is zero. Both addresses are multiples of 16;
/// with bytes = 0 nothing is read, and src may lie anywhere.
PREFIXSHARE_DEVICE void copy_async(void* shared, const void* global, int bytes = 16,
                                   [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::copy_async(shared, global, bytes, here),
                     asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                                  "l"(__cvta_generic_to_global(global)), "r"(bytes)
                                  : "memory"));
}
/// Makes a group of the thread's copies since the last commit.
PREFIXSHARE_DEVICE void copy_async_commit([[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::copy_async_commit(here), asm volatile("cp.async.commit_group;" ::: "memory"));
}
/// Waits until all of the thread's groups but the last `Pending` have arrived, visible to this thread.
template <int Pending>
PREFIXSHARE_DEVICE void copy_async_wait([[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::copy_async_wait(Pending, here), asm volatile("cp.async.wait_group %0;" ::"n"(Pending)
                                                                        : "memory"));
}

// ---- Barriers in shared memory, at which some arrive and others wait. A phase is over once as many have arrived as
// the barrier expects; the next one then begins.

/// 8 bytes of shared memory at a multiple of 8.
using Barrier = std::uint64_t;

#if !defined(PREFIXSHARE_SIMT)
PREFIXSHARE_DEVICE bool barrier_passed(Barrier* b, int parity) {
  std::uint32_t passed;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900  // waits for a while
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(passed)
               : "r"(shared_address(b)), "r"(parity)
               : "memory");
#else
  asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(passed)
               : "r"(shared_address(b)), "r"(parity)
               : "memory");
#endif
  return passed != 0;
}
/// Without NDEBUG it gives up after some seconds: a kernel that hangs would tell nothing.
PREFIXSHARE_DEVICE void wait_for_barrier(Barrier* b, int parity) {
#if defined(NDEBUG)
  while (!barrier_passed(b, parity)) continue;
#else
  const long long begin = clock64();
  while (!barrier_passed(b, parity)) {
    if (clock64() - begin > (1ll << 33)) __trap();
  }
#endif
}
#endif

/// By one thread; others may use it after a sync_block.
PREFIXSHARE_DEVICE void barrier_init(Barrier* b, int arrivals, [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::barrier_init(b, arrivals, here),
                     asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals)
                                  : "memory"));
}
/// Arrives. What the thread wrote before is visible to whoever waits for the phase.
PREFIXSHARE_DEVICE void barrier_arrive(Barrier* b, [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(
      simt::barrier_arrive(b, here),
      asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(shared_address(b))
                   : "memory"));
}
/// Arrives when all copies that this thread started have; they need no other wait.
PREFIXSHARE_DEVICE void copy_async_arrive(Barrier* b, [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::copy_async_arrive(b, here),
                     asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(b))
                                  : "memory"));
}
/// Waits until the phase of this parity, 0 for the first one, is over: until the present one is of the other parity.
PREFIXSHARE_DEVICE void barrier_wait(Barrier* b, int parity, [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::barrier_wait(b, parity, here), wait_for_barrier(b, parity));
}

// ---- Matrices of 8 x 8 16-bit elements. Of each, lane l gets the elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4
// (the first one in the low half), or of column l / 4 if transposed. Lane 8 m + i names row i of matrix m: 16 bytes in
// shared memory.

PREFIXSHARE_DEVICE void load_matrix_x4(std::uint32_t (&r)[4], const void* row,
                                       [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::load_matrix(r, 4, false, row, here),
                     asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                                  : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                                  : "r"(shared_address(row))
                                  : "memory"));
}
PREFIXSHARE_DEVICE void load_matrix_x4_transposed(std::uint32_t (&r)[4], const void* row,
                                                  [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::load_matrix(r, 4, true, row, here),
                     asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                                  : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                                  : "r"(shared_address(row))
                                  : "memory"));
}
/// The rows are those of lanes 0 to 15.
PREFIXSHARE_DEVICE void load_matrix_x2(std::uint32_t (&r)[2], const void* row,
                                       [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::load_matrix(r, 2, false, row, here),
                     asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                                  : "=r"(r[0]), "=r"(r[1])
                                  : "r"(shared_address(row))
                                  : "memory"));
}
PREFIXSHARE_DEVICE void load_matrix_x2_transposed(std::uint32_t (&r)[2], const void* row,
                                                  [[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::load_matrix(r, 2, true, row, here),
                     asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                                  : "=r"(r[0]), "=r"(r[1])
                                  : "r"(shared_address(row))
                                  : "memory"));
}

/// d += a b for a [16, 16], b [16, 8] of T (BFloat16 or Float16) and d [16, 8] of f32. With g = lane / 4, t = lane % 4,
/// and h = 0, 1 for the low and the high half of a register: a[i] holds row g + 8 (i % 2), columns 2 t + h + 8 (i / 2);
/// b[i] rows 2 t + h + 8 i of column g; d[i] row g + 8 (i / 2), column 2 t + i % 2.
template <class T>
PREFIXSHARE_DEVICE void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                     [[maybe_unused]] Here here = Here::current()) {
  static_assert(std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>);
#if defined(PREFIXSHARE_SIMT)
  simt::multiply_add(d, a, b, dtype_of<T>, here);
#else
  if constexpr (std::is_same_v<T, BFloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

// ---- Numbers

#if !defined(PREFIXSHARE_SIMT)
PREFIXSHARE_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PREFIXSHARE_DEVICE float log2_approximate(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// The bits of `high` and `low`, in that order of the instruction's operands.
template <class T>
PREFIXSHARE_DEVICE std::uint32_t convert_pair(float high, float low) {
  std::uint32_t bits;
  if constexpr (std::is_same_v<T, BFloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  }
  return bits;
}
PREFIXSHARE_DEVICE float float_of_half(std::uint16_t bits) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
  return y;
}
#endif

/// Good to 2 ulp; exp2(0) is 1, exp2(-infinity) is 0. Subnormals are zero.
PREFIXSHARE_DEVICE float exp2(float x) { return PREFIXSHARE_EITHER(simt::exp2(x), exp2_approximate(x)); }
/// Good to 2^-22 (absolute for x in [0.5, 2], else relative); log2(0) is -infinity.
PREFIXSHARE_DEVICE float log2(float x) { return PREFIXSHARE_EITHER(simt::log2(x), log2_approximate(x)); }
/// 1 / x, correctly rounded.
PREFIXSHARE_DEVICE float reciprocal(float x) { return PREFIXSHARE_EITHER(1.0f / x, __frcp_rn(x)); }
/// Sine and cosine of pi x.
PREFIXSHARE_DEVICE void sincospi(float x, float* sin, float* cos) {
  PREFIXSHARE_EITHER(simt::sincospi(x, sin, cos), ::sincospif(x, sin, cos));
}

/// Two values rounded to T (BFloat16 or Float16), to nearest even. Every NaN becomes the same one.
template <class T>
PREFIXSHARE_DEVICE std::uint32_t pack(float low, float high) {
  static_assert(std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>);
  return PREFIXSHARE_EITHER(simt::pack<T>(low, high), convert_pair<T>(high, low));
}
template <class T>
PREFIXSHARE_DEVICE std::uint16_t from_float(float x) {
  return static_cast<std::uint16_t>(pack<T>(x, 0.0f) & 0xffffu);
}
/// Exact.
template <class T>
PREFIXSHARE_DEVICE float to_float(std::uint16_t bits) {
  static_assert(std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>);
  if constexpr (std::is_same_v<T, BFloat16>) {
    return detail::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  } else {
    return PREFIXSHARE_EITHER(prefixshare::to_float(Float16{bits}), float_of_half(bits));
  }
}

// ---- Memory

/// What is read once: it is the first to make room in the caches.
PREFIXSHARE_DEVICE Words4 load_once(const Words4* p) {
#if defined(PREFIXSHARE_SIMT)
  return *p;
#else
  const uint4 v = __ldcs(reinterpret_cast<const uint4*>(p));
  return {v.x, v.y, v.z, v.w};
#endif
}

// ---- Memory that blocks share

/// Orders what this thread wrote before for everybody who sees what it writes after.
PREFIXSHARE_DEVICE void fence() { PREFIXSHARE_EITHER(simt::interleave(), __threadfence()); }
/// Counts one up and wraps to 0 after `last`; returns the count before. Releases what came before and acquires what
/// others released in the same counter.
PREFIXSHARE_DEVICE int arrive(int* counter, int last) {
#if defined(PREFIXSHARE_SIMT)
  return simt::arrive(counter, last);
#else
  __threadfence();
  const unsigned before = atomicInc(reinterpret_cast<unsigned*>(counter), static_cast<unsigned>(last));
  __threadfence();
  return static_cast<int>(before);
#endif
}
/// Counts one up and wraps to 0 after `last`; returns the count before. Orders nothing.
PREFIXSHARE_DEVICE int take_number(int* counter, int last) {
#if defined(PREFIXSHARE_SIMT)
  return simt::arrive(counter, last);
#else
  return static_cast<int>(atomicInc(reinterpret_cast<unsigned*>(counter), static_cast<unsigned>(last)));
#endif
}
/// What others arrived at so far; acquires as `arrive` does. For loops that poll, with spin_pause.
PREFIXSHARE_DEVICE int load_acquire(const int* counter) {
#if defined(PREFIXSHARE_SIMT)
  return simt::load_acquire(counter);
#else
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(counter)) : "memory");
  return value;
#endif
}
/// From the cache that all blocks share, so that what they wrote before an `arrive` that this one acquired is seen.
PREFIXSHARE_DEVICE float load_cached(const float* p) { return PREFIXSHARE_EITHER(*p, __ldcg(p)); }
PREFIXSHARE_DEVICE Float4 load_cached(const Float4* p) {
#if defined(PREFIXSHARE_SIMT)
  return *p;
#else
  const float4 v = __ldcg(reinterpret_cast<const float4*>(p));
  return {v.x, v.y, v.z, v.w};
#endif
}
/// Once in each turn of a loop that polls: lets others go on.
PREFIXSHARE_DEVICE void spin_pause([[maybe_unused]] Here here = Here::current()) {
  PREFIXSHARE_EITHER(simt::spin_pause(here), __nanosleep(32));
}

// ---- The launch

#if !defined(PREFIXSHARE_SIMT)
PREFIXSHARE_DEVICE void wait_for_prerequisites() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
PREFIXSHARE_DEVICE void release_dependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif

/// Waits until the launch before this one is done and its writes are visible. Nothing before sm_90, where launches do
/// not overlap.
PREFIXSHARE_DEVICE void prerequisite_wait() { PREFIXSHARE_EITHER(void(), wait_for_prerequisites()); }
/// Lets the launch after this one begin. Nothing before sm_90.
PREFIXSHARE_DEVICE void launch_dependents() { PREFIXSHARE_EITHER(void(), release_dependents()); }
/// Ends the launch with an error.
PREFIXSHARE_DEVICE void trap_if(bool condition, [[maybe_unused]] Here here = Here::current()) {
  if (condition) PREFIXSHARE_EITHER(simt::trap(here), __trap());
}

}  // namespace ptx
}  // namespace v0_1
}  // namespace prefixshare

#undef PREFIXSHARE_EITHER
