// SPDX-License-Identifier: Apache-2.0
// Parts come with modes of their own: whatever rounding, flushing and traps the caller's thread has, the bits are the
// same, and the thread has its modes again afterwards.
#include <vector>

#include "cpu/float_control.hpp"
#include "support/attention.hpp"
#include "support/data.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

#if defined(__x86_64__)

namespace {

constexpr unsigned kFlushAndRoundUp = 0x1f80 | 0x8000 | 0x0040 | 0x4000;  // to zero, from zero, towards +inf
constexpr unsigned kRoundToZero = 0x1f80 | 0x6000;
constexpr unsigned kTraps = 0x1f80 & ~0x0f80u;  // invalid, subnormal, divide, overflow and underflow stop the program
constexpr unsigned kFlagsRaised = 0x1f80 | 0x003f;  // as other arithmetic left them

/// Runs f with MXCSR set to `modes`; what it was when f came back.
template <class F>
unsigned under(unsigned modes, F&& f) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(modes);
  f();
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  return after;
}

/// Small and large numbers, so that flushing and rounding show, and keys whose products are subnormal.
void make_subnormals(Problem* p) {
  Random random(5);
  for (std::int64_t i = 0; i < testing::count_of(p->kv[0].v); ++i) {
    p->pools[0].v.set(i, random.normal() * (i % 3 == 0 ? 0x1p-130 : 1));
  }
  for (std::int64_t i = 0; i < testing::count_of(p->kv[0].k); i += 3) p->pools[0].k.set(i, random.normal() * 0x1p-130);
}

/// The forward and the backward of a problem under the modes: MXCSR as it was, and the bits of the usual modes.
void run_under(const NamedContext& c, unsigned modes, const Plan& plan, const Outputs& usual, Problem* p) {
  INFO(c.name << ", MXCSR " << modes);
  require_ok(p->bind_workspace(plan, 2));
  p->poison_outputs();
  const Attend args = p->attend();
  const AttendGrad grad = p->attend_grad();
  for (std::int32_t i = 0; i < 4; ++i) {
    Status status;
    const unsigned after = under(modes, [&] {
      status = i < 2 ? tree_attention_part(c.context, plan, args, i, 2)
                     : tree_attention_backward_part(c.context, plan, grad, i - 2, 2);
    });
    require_ok(status);
    CHECK(after == modes);
  }
  CHECK(outputs_of(*p) == usual);
}

}  // namespace

TEST_CASE("float modes: a part gives the same bits whatever the thread's modes are, and leaves them", "[kernels]") {
  for (const NamedContext& c : attention_contexts()) {
    if (c.name.rfind("cpu:", 0) != 0) continue;  // the reference is not one of the library's parts
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const std::int32_t rows : {2, 40}) {
        INFO(to_string(type) << ", rows " << rows);
        ProblemOptions options;
        options.kind.Hq = 4;
        options.kind.Hkv = 2;
        options.kind.D = options.kind.Dv = 16;
        options.kind.q_dtype = options.kind.kv_dtype = type;
        options.softcap = 3;
        options.sinks = options.backward = options.wide_outputs = true;
        Problem p;
        require_ok(make_problem(testing::chain(std::vector<std::int32_t>{90}, rows), options, &p));
        make_subnormals(&p);
        PlanOptions plan_options;
        plan_options.backward = true;
        const Plan plan = proved_plan(c, p.forest, options.kind, plan_options);
        run_forward(c.context, plan, &p, 2);
        run_backward(c.context, plan, &p, 2);
        const Outputs usual = outputs_of(p);
        for (const unsigned modes : {kFlushAndRoundUp, kRoundToZero, kTraps, kFlagsRaised}) {
          run_under(c, modes, plan, usual, &p);
        }
      }
    }
  }
}

TEST_CASE("float modes: FloatControl keeps subnormals and rounds to nearest, then gives the modes back", "[kernels]") {
  volatile float tiny = 0x1p-130f, seven = 7, ten = 10;
  volatile float flushed = 1, up = 0, kept = 0, nearest = 0;
  const unsigned after = under(kFlushAndRoundUp, [&] {
    flushed = tiny * 0.5f;
    up = seven / ten;
    const cpu::FloatControl control;
    kept = tiny * 0.5f;
    nearest = seven / ten;
  });
  CHECK((after & ~0x3fu) == kFlushAndRoundUp);  // but for the flags that the division raised
  CHECK(flushed == 0);                          // the modes were in force
  CHECK(kept == 0x1p-131f);
  CHECK(nearest == 0.7f);
  CHECK(up > nearest);
}

#else

TEST_CASE("float modes: a part gives the same bits whatever the thread's modes are, and leaves them", "[kernels]") {
  skip("float modes", "the test knows them on x86-64 only");
}

#endif
