// SPDX-License-Identifier: Apache-2.0
// pack_segment: attention over packed segments, and what it refuses.
#include "prefixshare/pack_segment.hpp"

#include <cstring>
#include <string>
#include <vector>

#include "support/attention.hpp"
#include "support/packed.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

ProblemOptions packed_options(DType type, std::int32_t page_size) {
  ProblemOptions options;
  options.kind.Hq = 4;
  options.kind.Hkv = 2;
  options.kind.D = 32;
  options.kind.Dv = 20;
  options.kind.q_dtype = options.kind.kv_dtype = type;
  options.page_size = page_size;
  return options;
}

bool has_format(const NamedContext& c) {
  for (std::int32_t i = 0; i < c.context.pack_segment.count; ++i) {
    if (c.name == c.context.pack_segment.entries[i].name) return true;
  }
  return false;
}

PackSegment arguments(const Problem& p, std::int32_t segment, std::int32_t tokens, PackedMemory* memory) {
  PackSegment args;
  args.segment = segment;
  args.tokens = tokens;
  args.pool = p.kv[static_cast<std::size_t>(p.forest.segments[static_cast<std::size_t>(segment)].pool)];
  args.out = memory->data();
  args.bytes = memory->bytes();
  return args;
}

}  // namespace

TEST_CASE("pack_segment: attention over a packed prefix agrees with the oracle and reads the copy", "[pack]") {
  for (const NamedContext& c : attention_contexts()) {
    if (!has_format(c)) continue;
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const std::int32_t page_size : {0, 16}) {
        for (const std::int32_t tokens : {0, 1, 130, 301}) {
          for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
            INFO(c.name << ' ' << to_string(type) << " page " << page_size << " tokens " << tokens);
            ProblemOptions options = packed_options(type, page_size);
            options.k_scale = options.v_scale = ScaleGranularity::token;
            Problem p;
            require_ok(make_problem(testing::prefix_group(301, std::vector<std::int32_t>(30, 3), false), options, &p));
            const testing::Answer answer = testing::answer_forward(p.forest, options.kind, p.attend());
            PlanOptions plan_options;
            plan_options.mode = mode;
            plan_options.cost = eager_cost();
            const Plan plan = proved_plan(c, p.forest, options.kind, plan_options);
            PackedMemory memory(options.kind, tokens);
            require_ok(pack_segment(c.context, plan, arguments(p, 0, tokens, &memory)));
            const PackedSegment packed{0, tokens, memory.data()};
            p.kv[0].packed = {&packed, 1};
            run_forward(c.context, plan, &p, 2);
            check_comparison(check_forward(answer, p.attend()));

            // What is packed is read from the copy: a pool that has forgotten it changes nothing but the rest.
            if (tokens != 301 || plan.header.mode == Mode::batch_invariant) continue;
            const Outputs before = outputs_of(p);
            const Segment& prefix = p.forest.segments[0];
            const detail::TokenPlace first = detail::place_of(plan.view(), prefix, 0);
            const std::int64_t token = first.page * p.forest.pools[0].page_size + first.slot;
            p.pools[0].k.set(token * options.kind.Hkv * options.kind.D, 1e3);
            run_forward(c.context, plan, &p, 2);
            CHECK(outputs_of(p) == before);
          }
        }
      }
    }
  }
}

TEST_CASE("pack_segment: the copy has the same bits in any number of parts", "[pack]") {
  for (const NamedContext& c : attention_contexts()) {
    if (!has_format(c)) continue;
    const ProblemOptions options = packed_options(DType::bf16, 5);
    Problem p;
    require_ok(make_problem(testing::prefix_group(77, std::vector<std::int32_t>{3, 4}, false), options, &p));
    const Plan plan = proved_plan(c, p.forest, options.kind, {});
    PackedMemory one(options.kind, 77), many(options.kind, 77);
    require_ok(pack_segment(c.context, plan, arguments(p, 0, 77, &one)));
    const auto* entry = detail::find(c.context.pack_segment, c.name.c_str());
    for (const std::int32_t part : {2, 0, 1}) {
      require_ok(entry->part({plan.view(), arguments(p, 0, 77, &many)}, part, 3));
    }
    CHECK(std::memcmp(one.data(), many.data(), static_cast<std::size_t>(one.bytes())) == 0);
  }
}

TEST_CASE("pack_segment: what is wrong is named, and nothing is written", "[pack]") {
  for (const NamedContext& c : attention_contexts()) {
    const ProblemOptions options = packed_options(DType::f32, 0);
    Problem p;
    require_ok(make_problem(testing::prefix_group(40, std::vector<std::int32_t>{3, 4}, false), options, &p));
    const Plan plan = proved_plan(c, p.forest, options.kind, {});
    PackedMemory memory(options.kind, 40);
    const PackSegment good = arguments(p, 0, 40, &memory);
    if (!has_format(c)) {
      CHECK(pack_segment(c.context, plan, good).code == StatusCode::unsupported);
      continue;
    }
    const auto refuses = [&](const PackSegment& args, const std::string& argument, StatusCode code) {
      const Status s = pack_segment(c.context, plan, args);
      INFO(to_string(s));
      CHECK(s.code == code);
      CHECK(std::string(s.op) == "pack_segment");
      CHECK(s.argument == argument);
      CHECK(static_cast<const unsigned char*>(memory.data())[0] == 0xff);
    };
    PackSegment bad = good;
    bad.segment = 99;
    refuses(bad, "segment", StatusCode::invalid_argument);
    bad = good;
    bad.tokens = 41;
    refuses(bad, "tokens", StatusCode::invalid_argument);
    bad = good;
    bad.out = static_cast<char*>(good.out) + 4;
    refuses(bad, "out", StatusCode::invalid_argument);
    bad = good;
    bad.bytes = good.bytes - 1;
    refuses(bad, "bytes", StatusCode::workspace_too_small);
    bad = good;
    bad.pool.k = {};
    refuses(bad, "pool.k", StatusCode::invalid_argument);
    bad = good;
    bad.out = bad.pool.k.data;
    if (reinterpret_cast<std::uintptr_t>(bad.out) % kPackedAlignment == 0) {
      refuses(bad, "out", StatusCode::invalid_argument);
    }
  }
}

TEST_CASE("pack_segment: a call refuses a copy that is not this layer's, segment's or implementation's", "[pack]") {
  for (const NamedContext& c : attention_contexts()) {
    if (!has_format(c)) continue;
    const ProblemOptions options = packed_options(DType::f32, 0);
    Problem p;
    require_ok(make_problem(testing::prefix_group(40, std::vector<std::int32_t>{3, 4}, false), options, &p));
    const Plan plan = proved_plan(c, p.forest, options.kind, {});
    PackedMemory memory(options.kind, 40);
    require_ok(pack_segment(c.context, plan, arguments(p, 0, 40, &memory)));
    require_ok(p.bind_workspace(plan, 1));
    p.poison_outputs();
    const auto refuses = [&](std::vector<PackedSegment> packed) {
      p.kv[0].packed = packed;
      const Status s = tree_attention(c.context, plan, p.attend());
      INFO(to_string(s));
      CHECK(s.code == StatusCode::invalid_argument);
      CHECK(std::string(s.argument) == "kv.packed");
      CHECK(p.o.poisoned(0, testing::count_of(p.o.view())));
    };
    refuses({{-1, 40, memory.data()}});
    refuses({{99, 40, memory.data()}});
    refuses({{0, 41, memory.data()}});
    refuses({{0, -1, memory.data()}});
    refuses({{0, 40, nullptr}});
    refuses({{0, 40, memory.data()}, {0, 40, memory.data()}});
    PackedMemory other(options.kind, 40);  // of nobody
    refuses({{0, 40, other.data()}});
    p.kv[0].packed = {};
  }
}
