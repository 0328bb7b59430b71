// SPDX-License-Identifier: Apache-2.0
// Parameters of kernels: what they say of a call, what calls they refuse, and that they stay while plans change.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/make_params.hpp"
#include "support/device.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;
using cuda::AttendGradParams;
using cuda::AttendParams;
using cuda::make_params;

namespace {

/// 16-bit heads, two pools of shuffled pages, everything that a call may have.
ProblemOptions full_options() {
  ProblemOptions options;
  options.kind.Hq = 8;
  options.kind.Hkv = 2;
  options.kind.D = options.kind.Dv = 64;
  options.kind.q_dtype = options.kind.kv_dtype = DType::bf16;
  options.page_size = 16;
  options.pools = 2;
  options.sinks = options.bias = options.rope = options.backward = true;
  options.softcap = 30;
  options.k_scale = ScaleGranularity::head;
  options.v_scale = ScaleGranularity::tensor;
  options.rope_dim = 32;
  options.rope_offset = 8;
  options.mscale = 1.5;
  options.pairing = RopePairing::interleaved;
  return options;
}
PlanOptions both_directions(Mode mode = Mode::fast) {
  PlanOptions options;
  options.backward = true;
  options.sharing = Sharing::always;
  options.mode = mode;
  return options;
}
Topology group_of(std::int32_t prefix, std::int32_t members) {
  return prefixshare::testing::prefix_group(prefix, std::vector<std::int32_t>(static_cast<std::size_t>(members), 20),
                                            false);
}

AttendCall forward_of(const DeviceCall& call) { return {call.plan.view(), call.args}; }
AttendGradCall backward_of(DeviceCall& call) {
  call.grad.fwd = call.args;
  return {call.plan.view(), call.grad};
}

void check_unsupported(const Status& s, const std::string& argument, const std::string& field, std::int64_t got,
                       std::int64_t want) {
  INFO(to_string(s));
  CHECK(s.code == StatusCode::unsupported);
  CHECK(std::string(s.argument) == argument);
  CHECK(std::string(s.field) == field);
  CHECK(s.got == got);
  CHECK(s.want == want);
}

template <class T>
bool same_bytes(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace

TEST_CASE("kernel parameters: the page of a token is its quotient by the page size", "[params]") {
  constexpr std::int32_t kLast = std::numeric_limits<std::int32_t>::max();
  Random random(3);
  std::vector<std::int32_t> sizes = {kLast, kLast - 1};
  for (std::int32_t size = 1; size <= 300; ++size) sizes.push_back(size);
  for (int bit = 9; bit < 31; ++bit) {
    for (const std::int32_t by : {-1, 0, 1}) sizes.push_back((1 << bit) + by);
    sizes.push_back(random.between(1, 1 << bit));
  }
  for (const std::int32_t size : sizes) {
    const cuda::PageSize pages(size);
    std::int32_t wrong = 0;
    const auto look = [&](std::int32_t token) { wrong += pages.page(token) != token / size; };
    for (int i = 0; i < 200; ++i) {
      const std::int32_t first = random.between(0, kLast / size) * size;  // of a page
      look(first);
      look(std::max(first, 1) - 1);
      look(random.between(0, kLast));
    }
    look(0);
    look(kLast);
    INFO("page size " << size);
    CHECK(wrong == 0);
  }
}

TEST_CASE("kernel parameters: those of a forward", "[params]") {
  Problem p;
  require_ok(make_problem(group_of(300, 7), full_options(), &p));
  DeviceCall call(device_context(), p, both_directions());
  call.args.scale = 0.25;
  AttendParams params;
  std::memset(static_cast<void*>(&params), 0xff, sizeof params);
  require_ok(make_params(forward_of(call), cuda::kAnyAlignment, &params));
  const Attend& a = call.args;
  CHECK(params.plan.data == call.device_plan.data);
  CHECK(params.plan.header().rows == 7);
  CHECK(params.q == a.q.data);
  CHECK((params.q_stride[0] == a.q.stride[0] && params.q_stride[1] == a.q.stride[1]));
  CHECK(params.o == a.o.data);
  CHECK(params.o_stride[0] == a.o.stride[0]);
  CHECK(params.lse == a.lse.data);
  CHECK((params.lse_stride[0] == a.lse.stride[0] && params.lse_stride[1] == a.lse.stride[1]));
  CHECK(params.sinks == a.sinks.data());
  CHECK(params.lengths == nullptr);
  CHECK(params.scale == 0.25f);
  CHECK(params.softcap == 30.0f);
  CHECK((params.Hq == 8 && params.Hkv == 2 && params.D == 64 && params.Dv == 64 && params.window == -1));
  CHECK(params.q_rotated == 1);
  CHECK((params.q_dtype == DType::bf16 && params.kv_dtype == DType::bf16 && params.o_dtype == DType::bf16));
  for (std::size_t i = 0; i < 2; ++i) {
    const cuda::PoolParams& pool = params.pools[i];
    const KvPool& want = call.pools[i];
    CHECK((pool.k == want.k.data && pool.v == want.v.data && pool.bias == want.bias.data));
    CHECK(std::equal(pool.k_stride, pool.k_stride + 3, want.k.stride));
    CHECK(std::equal(pool.v_stride, pool.v_stride + 3, want.v.stride));
    CHECK(std::equal(pool.bias_stride, pool.bias_stride + 3, want.bias.stride));
    CHECK((pool.k_scale.data == want.k_scale.data && pool.v_scale.data == want.v_scale.data));
    CHECK(pool.k_scale.granularity == static_cast<std::int32_t>(ScaleGranularity::head));
    CHECK(pool.page_size.size == 16);
  }
  CHECK(params.pools[2].k == nullptr);
  CHECK((params.rope.pairs == 16 && params.rope.offset == 8 && params.rope.interleaved == 1));
  CHECK(params.rope.mscale == 1.5f);
  for (std::size_t i = 0; i < 16; ++i) {
    CHECK(std::abs(params.rope.turns[i] * 6.283185307179586 - p.inv_freq[i]) <= 4e-16 * p.inv_freq[i]);
  }
  CHECK(params.fold == nullptr);
  call.args.scale = 0;
  call.args.rope = nullptr;
  call.args.sinks = {};
  call.args.lse = {};
  require_ok(make_params(forward_of(call), cuda::kCopyAlignment, &params));
  CHECK(params.scale == 0.125f);
  CHECK(params.rope.pairs == 0);
  CHECK((params.sinks == nullptr && params.lse == nullptr));
}

TEST_CASE("kernel parameters: parts of the workspace lie apart, aligned, and within it", "[params][workspace]") {
  for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
    Problem p;
    require_ok(make_problem(group_of(1300, 7), full_options(), &p));
    DeviceCall call(device_context(), p, both_directions(mode));
    std::int64_t bytes = 0;
    require_ok(forward_workspace(call.plan.header.kind, call.limits(), &bytes));
    for (std::int64_t more = 0; more < 3000; more += 52) {  // workspaces of larger limits
      call.args.workspace.bytes = std::min(bytes + more, call.workspace.bytes + more);
      AttendParams params;
      require_ok(make_params(forward_of(call), cuda::kAnyAlignment, &params));
      const LayerKind& kind = call.plan.header.kind;
      const char* const begin = static_cast<const char*>(call.args.workspace.data);
      const char* const end = begin + call.args.workspace.bytes;
      const auto* const counters_end =
          reinterpret_cast<const char*>(params.group_counters + call.plan.groups.size() * std::size_t{2});
      const auto* const o = reinterpret_cast<const char*>(params.partial_o);
      const auto* const lse = reinterpret_cast<const char*>(params.partial_lse);
      const std::int64_t rows = call.plan.header.partial_rows;
      REQUIRE(rows > 0);
      CHECK(reinterpret_cast<const char*>(params.queue) == begin);
      const char* last = counters_end;
      if (mode == Mode::batch_invariant) {
        const auto* const fold = reinterpret_cast<const char*>(params.fold);
        CHECK(fold >= last);
        CHECK(reinterpret_cast<std::uintptr_t>(fold) % 16 == 0);
        last = fold + call.device_plan.blocks * cuda::kWideRows * (kind.Dv + 1) * std::int64_t{4};
      }
      CHECK(o >= last);
      CHECK(lse >= o + rows * kind.Hq * kind.Dv * 4);
      CHECK(lse + rows * kind.Hq * 4 <= end);
      CHECK(reinterpret_cast<std::uintptr_t>(o) % 16 == 0);
    }
  }
}

TEST_CASE("kernel parameters: a graph's stay whatever plan is uploaded", "[params]") {
  Problem small, large;
  ProblemOptions options = full_options();
  require_ok(make_problem(group_of(100, 3), options, &small));
  require_ok(make_problem(group_of(900, 30), options, &large));
  DeviceCall call(device_context(), large, both_directions());
  DeviceCall other(call.context, small, both_directions());
  REQUIRE(call.plan.header.partial_rows != other.plan.header.partial_rows);
  AttendParams of_large, of_small;
  AttendGradParams back_large, back_small;
  require_ok(make_params(forward_of(call), cuda::kCopyAlignment, &of_large));
  require_ok(make_params(backward_of(call), cuda::kCopyAlignment, &back_large));
  AttendCall forward = forward_of(call);  // the same memory, another plan
  AttendGradCall backward = backward_of(call);
  forward.plan = backward.plan = other.plan.view();
  require_ok(make_params(forward, cuda::kCopyAlignment, &of_small));
  require_ok(make_params(backward, cuda::kCopyAlignment, &back_small));
  CHECK(same_bytes(of_large, of_small));
  CHECK(same_bytes(back_large, back_small));
}

TEST_CASE("kernel parameters: those of a backward", "[params]") {
  Problem p;
  require_ok(make_problem(group_of(300, 7), full_options(), &p));
  DeviceCall call(device_context(), p, both_directions());
  call.grad.accumulate = true;
  AttendGradParams params;
  require_ok(make_params(backward_of(call), cuda::kCopyAlignment, &params));
  const AttendGrad& g = call.grad;
  CHECK((params.fwd.q == g.fwd.q.data && params.fwd.o == g.fwd.o.data && params.fwd.lse == g.fwd.lse.data));
  CHECK((params.fwd.queue == nullptr && params.fwd.partial_o == nullptr));
  CHECK((params.dout == g.dout.data && params.dq == g.dq.data && params.dlse == g.dlse.data));
  CHECK((params.dout_stride[0] == g.dout.stride[0] && params.dq_stride[1] == g.dq.stride[1]));
  CHECK((params.dout_dtype == g.dout.dtype && params.dq_dtype == g.dq.dtype));
  CHECK(params.dlse_stride[0] == g.dlse.stride[0]);
  CHECK(params.dsinks == g.dsinks.data());
  CHECK(params.accumulate == 1);
  CHECK(reinterpret_cast<const char*>(params.row_dot) ==
        static_cast<const char*>(g.workspace.data) + g.workspace.counter_bytes);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK((params.grads[i].dk == call.grads[i].dk.data && params.grads[i].dv == call.grads[i].dv.data));
    CHECK(std::equal(params.grads[i].dk_stride, params.grads[i].dk_stride + 3, call.grads[i].dk.stride));
    CHECK((params.grads[i].dk_dtype == call.grads[i].dk.dtype && params.grads[i].dv_dtype == call.grads[i].dv.dtype));
  }
  CHECK(params.grads[2].dk == nullptr);
}

TEST_CASE("kernel parameters: rows must begin at 16 bytes where kernels copy 16 at a time", "[params]") {
  Problem p;
  require_ok(make_problem(group_of(60, 3), full_options(), &p));
  DeviceCall call(device_context(), p, both_directions());
  AttendGradParams grad;
  AttendParams params;
  const auto off = [&](auto* view, const char* argument, bool forward, bool backward) {
    const auto good = *view;
    const auto check = [&](const char* field, std::int64_t got, std::int64_t want) {
      INFO(argument << "." << field);
      const Status f = make_params(forward_of(call), cuda::kCopyAlignment, &params);
      const Status b = make_params(backward_of(call), cuda::kCopyAlignment, &grad);
      if (forward) check_unsupported(f, argument, field, got, want);
      if (backward) check_unsupported(b, argument, field, got, want);
      CHECK(f.ok() != forward);
      CHECK(b.ok() != backward);
      CHECK(make_params(forward_of(call), cuda::kAnyAlignment, &params).ok());
      CHECK(make_params(backward_of(call), cuda::kAnyAlignment, &grad).ok());
      *view = good;
    };
    view->data = static_cast<char*>(good.data) + 8;
    check("alignment", 8, 0);
    const std::int64_t elements = 16 / size_of(good.dtype);
    view->stride[1] = good.stride[1] + 2;
    check("stride[1]", good.stride[1] + 2, elements);
    view->stride[0] = good.stride[0] + 1;
    check("stride[0]", good.stride[0] + 1, elements);
  };
  off(&call.args.q, "q", true, true);
  off(&call.args.o, "o", true, true);
  off(&call.pools[1].k, "kv.k", true, true);
  off(&call.pools[1].v, "kv.v", true, true);
  off(&call.grad.dout, "dout", false, true);
  off(&call.grad.dq, "dq", false, true);
  off(&call.grads[0].dk, "dkv.dk", false, true);
  off(&call.grads[0].dv, "dkv.dv", false, true);
  call.args.o = {};  // only lse is wanted
  require_ok(make_params(forward_of(call), cuda::kCopyAlignment, &params));
  CHECK(params.o == nullptr);
}

TEST_CASE("kernel parameters: strides of lone pages, rows and heads do not matter", "[params]") {
  ProblemOptions options;
  options.kind.D = options.kind.Dv = 64;
  options.kind.q_dtype = options.kind.kv_dtype = DType::f16;
  Problem p;
  require_ok(make_problem(group_of(60, 1), options, &p));
  DeviceCall call(device_context(), p);
  AttendParams params;
  for (int d = 0; d < 2; ++d) call.args.q.stride[d] = call.args.o.stride[d] = 3;  // one row, one head
  call.pools[0].k.stride[0] = call.pools[0].v.stride[2] = 5;                      // one page, one head
  require_ok(make_params(forward_of(call), cuda::kCopyAlignment, &params));
}

TEST_CASE("kernel parameters: what no kernel takes is refused by name", "[params]") {
  ProblemOptions options = full_options();
  options.pools = 5;
  options.backward = false;
  Problem p;
  require_ok(make_problem(group_of(300, 7), options, &p));
  AttendParams params;
  {
    DeviceCall call(device_context(), p);
    check_unsupported(make_params(forward_of(call), cuda::kAnyAlignment, &params), "kv", "size", 5, cuda::kMaxPools);
  }
  options.pools = 1;
  require_ok(make_problem(group_of(300, 7), options, &p));
  DeviceCall call(device_context(), p);
  std::vector<double> bias(300 * 8);
  call.pools[0].bias = make_view(bias.data(), {1, 300, 8}, {0, 8, 1});
  check_unsupported(make_params(forward_of(call), cuda::kAnyAlignment, &params), "kv.bias", "dtype",
                    static_cast<int>(DType::f64), static_cast<int>(DType::f32));
  call.pools[0].bias = {};
  const std::vector<double> inv_freq(129, 1);
  RopeTable table;
  table.inv_freq = inv_freq;
  table.dim = 258;
  call.args.rope = &table;
  check_unsupported(make_params(forward_of(call), cuda::kAnyAlignment, &params), "rope", "dim / 2", 129,
                    cuda::kMaxRopePairs);
}

TEST_CASE("accepts: which layer kinds the kernels of attention take", "[params]") {
  using cuda::accepts_mma;
  using cuda::accepts_simt;
  const auto kind_of = [](std::int32_t D, std::int32_t Dv, DType q, DType kv) {
    LayerKind kind;
    kind.D = D;
    kind.Dv = Dv;
    kind.q_dtype = q;
    kind.kv_dtype = kv;
    return kind;
  };
  constexpr DType f16 = DType::f16, bf16 = DType::bf16, f32 = DType::f32, f64 = DType::f64;
  for (const auto& [D, Dv] : {std::pair{64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}}) {
    for (const DType t : {f16, bf16}) CHECK(accepts_mma("tree_attention", kind_of(D, Dv, t, t)).ok());
    for (const DType q : {f16, bf16, f32}) {
      for (const DType kv : {f16, bf16, f32}) CHECK(accepts_simt("tree_attention", kind_of(D, Dv, q, kv)).ok());
    }
  }
  const auto text = [](const Status& s) {
    CHECK(s.code == StatusCode::unsupported);
    return to_string(s);
  };
  const std::string op = "tree_attention: implementation.";
  CHECK(text(accepts_mma("tree_attention", kind_of(64, 64, f32, f32))) ==
        op + "q_dtype got f32, want one of f16 (unsupported)");
  CHECK(text(accepts_mma("tree_attention", kind_of(64, 64, bf16, f16))) ==
        op + "kv_dtype got f16, want == bf16 (unsupported)");
  CHECK(text(accepts_mma("tree_attention", kind_of(80, 80, bf16, bf16))) ==
        op + "D got 80, want one of 64, 96, 128, 192 and 256 (unsupported)");
  CHECK(text(accepts_mma("tree_attention", kind_of(192, 192, bf16, bf16))) ==
        op + "Dv got 192, want == 128 (unsupported)");
  CHECK(text(accepts_mma("tree_attention", kind_of(128, 64, bf16, bf16))) ==
        op + "Dv got 64, want == 128 (unsupported)");
  CHECK(cuda::accepts_mma_backward("tree_attention", kind_of(192, 128, f16, f16)).ok());
  CHECK(text(cuda::accepts_mma_backward("tree_attention", kind_of(256, 256, f16, f16))) ==
        op + "D got 256, want <= 192 (unsupported)");
  CHECK(text(cuda::accepts_mma_backward("tree_attention", kind_of(64, 64, f32, f32))) ==
        op + "q_dtype got f32, want one of f16 (unsupported)");
  CHECK(text(accepts_simt("tree_attention", kind_of(64, 64, f64, f32))) ==
        op + "arithmetic dtype got f64, want == f32 (unsupported)");
  CHECK(text(accepts_simt("tree_attention", kind_of(257, 64, f32, f32))) ==
        op + "D got 257, want <= 256 (unsupported)");
  CHECK(text(accepts_simt("tree_attention", kind_of(64, 320, f32, f32))) ==
        op + "Dv got 320, want <= 256 (unsupported)");
  CHECK(accepts_simt("tree_attention", kind_of(1, 3, f32, bf16)).ok());
}
