// SPDX-License-Identifier: Apache-2.0
// pack_segment: a workload's first segment in each implementation's own format, beside memcpy of the same bytes.
#include <cstdint>
#include <string>

#include "prefixshare/pack_segment.hpp"
#include "prefixshare/testing/sampled_answer.hpp"
#include "support/attention_input.hpp"
#include "support/row_case.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

/// A packed copy is right if attention on it is.
class Pack {
 public:
  Pack(Session* session, const Problem& p, const Runner& runner)
      : context_(session->context_for(runner)),
        input_(forest_of(*p.workload, p.scale), p.kind, p.workload->head_major),
        planned_(context_, input_, Sharing::automatic) {
    args_.segment = 0;
    args_.tokens = input_.forest().segments[0].length;
    args_.pool = input_.attend().kv[0];
    packed_ = Buffer(packed_segment_bytes(p.kind, args_.tokens));
    args_.out = packed_.data();
    args_.bytes = packed_.bytes();
  }

  Status call(const Context& context) const { return pack_segment(context, planned_.plan, args_); }
  testing::Comparison check() const {
    const PackedSegment packed{args_.segment, args_.tokens, args_.out};
    Attend a = input_.attend();
    a.workspace = planned_.workspace;
    KvPool pool = a.kv[0];
    pool.packed = {&packed, 1};
    a.kv = {&pool, 1};
    throw_if_error(tree_attention(context_, planned_.plan, a));
    return testing::check_forward(testing::sampled_answer(input_.forest(), input_.kind(), a), a);
  }
  std::int64_t bytes() const {
    const LayerKind& kind = input_.kind();
    return 2 * std::int64_t{args_.tokens} * kind.Hkv * (kind.D + kind.Dv) * size_of(kind.kv_dtype);
  }

 private:
  Context context_;
  AttentionInput input_;
  PlannedCall planned_;
  Buffer packed_;
  PackSegment args_;
};

}  // namespace

void register_pack_segment(Session* session) {
  for (const Problem& p : session->problems("pack_segment")) {
    const auto takes = [&](const auto& entry) { return takes_kind(entry, p.kind); };
    for (const Runner& runner : session->runners(session->context.pack_segment, p, takes)) {
      session->add("pack_segment", p, runner, [=](benchmark::State& state) {
        const Pack pack(session, p, runner);
        run_rows(session, pack, runner, &state);
      });
    }
  }
}

}  // namespace prefixshare::bench
