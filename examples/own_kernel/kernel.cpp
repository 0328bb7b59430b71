// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <cmath>
#include <cstdint>
#include <prefixshare/testing/kernel_module.hpp>

using namespace prefixshare;

namespace {

Status refuse(const char* argument, const char* field) noexcept {
  return {StatusCode::unsupported, StatusUnit::number, "tree_attention", argument, field, "==", -1, 1, 0};
}

/// Asked when a plan is made.
Status accepts(const AttentionProblem& p) noexcept {
  const bool f32 = p.kind.q_dtype == DType::f32 && p.kind.kv_dtype == DType::f32;
  return f32 ? Status{} : refuse("kind", "dtype other than f32");
}

/// What only the call has. Every part refuses alike, before it writes anything.
Status check(const Attend& a) noexcept {
  if (a.rope != nullptr || !a.actual_lengths.empty()) return refuse("rope or actual_lengths", "");
  if (a.softcap > 0 || !a.sinks.empty()) return refuse("softcap or sinks", "");
  for (const KvPool& pool : a.kv) {
    if (pool.bias || pool.k_scale.data || pool.v_scale.data) return refuse("kv", "bias or scale");
  }
  return a.o.data && a.lse.data ? Status{} : refuse("o or lse", "absent");
}

bool sees(const PlanView& plan, const KeyRun& run, std::int32_t tile_row, std::int32_t key) {
  if (run.mask == MaskKind::full) return true;
  if (run.mask == MaskKind::bits) {
    const std::int64_t words = (run.length + 63) / 64;
    return plan.words[run.first_word + tile_row * words + key / 64] >> (key % 64) & 1;
  }
  const std::int64_t below = std::int64_t{plan.instances[run.first_instance + tile_row].order} - run.position - key;
  return below >= 0 && (plan.header.kind.window < 0 || below < plan.header.kind.window);
}

/// One key joins the state (o, maximum, sum) of a row and head.
struct RowState {
  const LayerKind& kind;
  const float* q;
  float* o;
  float scale;
  float maximum = -INFINITY;
  float sum = 0;

  void absorb(const float* k, const float* v) {
    float dot = 0;
    for (std::int32_t d = 0; d < kind.D; ++d) dot += q[d] * k[d];
    const float logit = scale * dot, top = std::fmax(maximum, logit);
    const float keep = std::exp(maximum - top), weight = std::exp(logit - top);
    for (std::int32_t d = 0; d < kind.Dv; ++d) o[d] = o[d] * keep + weight * v[d];
    sum = sum * keep + weight;
    maximum = top;
  }
};

/// A row of a group meets the keys of the group's tiles, in key order.
void attend_row(const AttendCall& call, const ReduceGroup& group, std::int32_t r, std::int32_t head) {
  const PlanView& plan = call.plan;
  const Attend& a = call.args;
  const LayerKind& kind = plan.header.kind;
  const std::int32_t row = plan.group_rows[group.first_row + r];
  const double scale = a.scale != 0 ? a.scale : 1 / std::sqrt(static_cast<double>(kind.D));
  RowState state{kind, a.q.at<float>(row, head), a.o.at<float>(row, head), static_cast<float>(scale)};
  for (std::int32_t d = 0; d < kind.Dv; ++d) state.o[d] = 0;
  for (std::int32_t t = 0; t < group.tile_count; ++t) {
    const GroupTile& at = plan.group_tiles[group.first_tile + t];
    const RowTile& tile = plan.tiles[at.tile];
    for (const KeyRun& run : plan.runs.subspan(tile.first_run, tile.run_count)) {
      const Segment& segment = plan.segments[run.segment];
      const KvPool& pool = a.kv[segment.pool];
      const std::int32_t page_size = plan.pools[segment.pool].page_size;
      for (std::int32_t key = 0; key < run.length; ++key) {
        if (!sees(plan, run, at.offset + r, key)) continue;
        const std::int64_t token = std::int64_t{segment.offset} + run.token + key;
        const std::int64_t page = plan.pages[segment.first_page + token / page_size], slot = token % page_size;
        const std::int32_t kv_head = head / kind.group();
        state.absorb(pool.k.at<float>(page, slot, kv_head), pool.v.at<float>(page, slot, kv_head));
      }
    }
  }
  for (std::int32_t d = 0; d < kind.Dv && state.sum > 0; ++d) state.o[d] /= state.sum;
  *a.lse.at<float>(row, head) = state.maximum + std::log(state.sum);
}

/// Part i of n: every n-th group.
Status part(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  if (Status s = check(call.args)) return s;
  for (std::int64_t g = i; g < call.plan.groups.size(); g += n) {
    const ReduceGroup& group = call.plan.groups[g];
    for (std::int32_t r = 0; r < group.row_count; ++r) {
      for (std::int32_t head = 0; head < call.plan.header.kind.Hq; ++head) attend_row(call, group, r, head);
    }
  }
  return {};
}

}  // namespace

Status add_row_kernel(Context* context) noexcept {
  Implementation<AttentionProblem, AttendCall> kernel;
  kernel.name = "cpu:rows";
  kernel.accepts = &accepts;
  kernel.part = &part;
  return context->tree_attention.add(kernel);
}

PREFIXSHARE_KERNEL_MODULE(add_row_kernel)
