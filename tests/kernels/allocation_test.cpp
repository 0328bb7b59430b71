// SPDX-License-Identifier: Apache-2.0
// A call of attention allocates nothing, on any implementation: neither by new nor by malloc.
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "support/attention.hpp"
#include "support/data.hpp"

#if defined(__has_feature)
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif
// Sanitizers bring an allocator of their own.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !HAS_FEATURE(address_sanitizer) && !HAS_FEATURE(thread_sanitizer)
#define COUNTS_ALLOCATIONS 1
#else
#define COUNTS_ALLOCATIONS 0
#endif

using namespace prefixshare;
using namespace prefixshare::tests;

#if COUNTS_ALLOCATIONS

namespace {
std::int64_t allocations = 0;
}

// The C library's own, counted. operator new comes here, too. One thread allocates in this program.
extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* memory, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);

void* malloc(std::size_t bytes) noexcept {
  ++allocations;
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) noexcept {
  ++allocations;
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, std::size_t bytes) noexcept {
  ++allocations;
  return __libc_realloc(memory, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  ++allocations;
  return __libc_memalign(alignment, bytes);
}
}

namespace {

template <class F>
std::int64_t allocations_in(F&& f) {
  const std::int64_t before = allocations;
  f();
  return allocations - before;
}

ForwardCase case_of(DType type, std::int32_t D, const Topology& topology, Mode mode) {
  ForwardCase c;
  c.topology = topology;
  c.options.kind.Hq = 4;
  c.options.kind.Hkv = 2;
  c.options.kind.D = c.options.kind.Dv = D;
  c.options.kind.q_dtype = c.options.kind.kv_dtype = type;
  c.options.sinks = c.options.bias = c.options.rope = c.options.backward = true;
  c.options.q_rotated = false;
  c.options.softcap = 3;
  c.options.k_scale = c.options.v_scale = ScaleGranularity::token;
  c.options.page_size = 5;
  c.plan.mode = mode;
  c.plan.cost = eager_cost();
  c.plan.backward = true;
  return c;
}

void count_calls(const NamedContext& c, const ForwardCase& f) {
  Problem p;
  require_ok(make_problem(f.topology, f.options, &p));
  if (!c.takes(p.options.kind)) return;
  const Plan plan = proved_plan(c, p.forest, p.options.kind, f.plan);
  require_ok(p.bind_workspace(plan, 1));
  const Attend args = p.attend();
  const AttendGrad grad = p.attend_grad();
  Status forward, backward;
  CHECK(allocations_in([&] { forward = tree_attention(c.context, plan, args); }) == 0);
  require_ok(forward);
  CHECK(allocations_in([&] { backward = tree_attention_backward(c.context, plan, grad); }) == 0);
  require_ok(backward);
}

}  // namespace

TEST_CASE("allocation: what this test counts with counts", "[kernels]") {
  void* volatile memory = nullptr;  // else a compiler may leave the pair out
  CHECK(allocations_in([&] { std::free(memory = std::malloc(3)); }) == 1);
  CHECK(allocations_in([&] { ::operator delete(memory = ::operator new(3)); }) == 1);
  std::vector<std::int32_t> grows;
  CHECK(allocations_in([&] { grows.resize(100); }) == 1);
}

TEST_CASE("allocation: a call of attention allocates nothing", "[kernels]") {
  const Topology topologies[] = {testing::chain(std::vector<std::int32_t>{90}, 2),
                                 testing::chain(std::vector<std::int32_t>{90}, 40),
                                 testing::prefix_group(700, std::vector<std::int32_t>(12, 3), false)};
  for (const NamedContext& c : attention_contexts(DType::bf16)) {
    if (c.name.rfind("cpu:", 0) != 0) continue;  // the reference allocates, and says so
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      for (const std::int32_t D : {16, 20}) {
        for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
          for (const Topology& topology : topologies) {
            INFO(c.name << ", " << to_string(type) << ", D " << D);
            count_calls(c, case_of(type, D, topology, mode));
          }
        }
      }
    }
  }
}

#else

TEST_CASE("allocation: a call of attention allocates nothing", "[kernels]") {
  skip("allocation", "allocations are counted with glibc and without sanitizers only");
}

#endif
