// SPDX-License-Identifier: Apache-2.0
// ggml_flash_attn_ext on memory of the caller, behind C functions that ggml_flash.py calls.
#include <ggml-cpu.h>
#include <ggml.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace {

template <auto Function>
struct Releases {
  template <class T>
  void operator()(T* object) const {
    Function(object);
  }
};

/// A graph of one node, and what computing it needs.
struct Attention {
  std::unique_ptr<ggml_context, Releases<ggml_free>> context;
  std::unique_ptr<ggml_threadpool, Releases<ggml_threadpool_free>> team;
  ggml_cgraph* graph = nullptr;
  std::vector<std::uint8_t> work;
  ggml_cplan plan{};
};

}  // namespace

extern "C" {

/// Lengths, and where K and V hold head after head. Mirrored in ggml_flash.py.
struct AttentionShape {
  std::int32_t threads, kv_type;  ///< kv_type: 0 f32, 1 f16, 2 bf16
  std::int64_t batch, rows, keys, Hq, Hkv, D, Dv;
  std::int32_t head_major;
  float scale;
};

const char* attention_version() { return ggml_version(); }

/// q [batch, row, Hq, D] and o [batch, row, Hq, Dv] in f32; K and V [batch, key, Hkv, width], or with heads before
/// keys; mask [row, key] in f16, null: none. They must outlive the result, which attention_free releases.
void* attention_new(const AttentionShape* s, float* q, void* k, void* v, void* mask, float* o) {
  const ggml_type types[] = {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16};
  const ggml_type kv_type = types[s->kv_type];
  auto a = std::make_unique<Attention>();
  a->context.reset(ggml_init({ggml_graph_overhead() + 16 * ggml_tensor_overhead(), nullptr, true}));
  ggml_context* c = a->context.get();

  const auto keys = [&](void* data, std::int64_t width) {
    const std::int64_t n1 = s->head_major ? s->keys : s->Hkv, n2 = s->head_major ? s->Hkv : s->keys;
    ggml_tensor* t = ggml_new_tensor_4d(c, kv_type, width, n1, n2, s->batch);
    t->data = data;
    return s->head_major ? t : ggml_permute(c, t, 0, 2, 1, 3);
  };
  ggml_tensor* queries = ggml_new_tensor_4d(c, GGML_TYPE_F32, s->D, s->Hq, s->rows, s->batch);
  queries->data = q;
  ggml_tensor* seen = mask == nullptr ? nullptr : ggml_new_tensor_4d(c, GGML_TYPE_F16, s->keys, s->rows, 1, 1);
  if (seen != nullptr) seen->data = mask;
  ggml_tensor* result = ggml_flash_attn_ext(c, ggml_permute(c, queries, 0, 2, 1, 3), keys(k, s->D), keys(v, s->Dv),
                                            seen, s->scale, 0.0F, 0.0F);
  ggml_flash_attn_ext_set_prec(result, GGML_PREC_F32);
  result->data = o;

  a->graph = ggml_new_graph(c);
  ggml_build_forward_expand(a->graph, result);
  ggml_threadpool_params params = ggml_threadpool_params_default(s->threads);
  a->team.reset(ggml_threadpool_new(&params));
  a->plan = ggml_graph_plan(a->graph, s->threads, a->team.get());
  a->work.resize(a->plan.work_size);
  a->plan.work_data = a->work.data();
  return a.release();
}

/// 0: done.
int attention_run(void* attention) {
  auto* a = static_cast<Attention*>(attention);
  return static_cast<int>(ggml_graph_compute(a->graph, &a->plan));
}

void attention_free(void* attention) { delete static_cast<Attention*>(attention); }

}  // extern "C"
