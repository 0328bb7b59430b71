// SPDX-License-Identifier: Apache-2.0
// An engine with a paged cache: what it writes to run its layers on prefixshare. Prompts come in chunks, sequences
// share a prompt's pages, grow, fork and end; draft tokens are verified and cut back. The model is noise; a second
// engine that shares no page and no work has to give the same outputs. docs/embedding.md walks through it.
#include <cstdio>
#include <map>
#include <numeric>

#include "example.hpp"

using namespace prefixshare;

namespace {

constexpr std::int32_t kLayers = 32, kHq = 4, kHkv = 2, kD = 32;
constexpr std::int32_t kPageSize = 16, kPages = 64, kMaxRows = 128, kMaxContext = 512, kThreads = 2;
constexpr std::int64_t kPageElements = kPageSize * kHkv * kD;

using Tokens = std::vector<std::int32_t>;

/// In place of a model: what a layer projects a token to.
struct Model {
  std::vector<float> noise = example::random<float>(1 << 16, 1);

  std::vector<float> project(const Tokens& tokens, std::int32_t layer, std::int32_t which, std::int32_t heads) const {
    std::vector<float> x;
    for (std::int32_t token : tokens) {
      const auto from = static_cast<std::size_t>((token * 40'503 + layer * 1'021 + which * 8'209) % 60'000);
      x.insert(x.end(), noise.begin() + static_cast<std::ptrdiff_t>(from),
               noise.begin() + static_cast<std::ptrdiff_t>(from) + heads * kD);
    }
    return x;
  }
};

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// What an engine has already: K and V of every layer in pages, and how many sequences use each page.
struct Cache {
  std::vector<std::vector<BFloat16>> data{kLayers * 2, std::vector<BFloat16>(kPages* kPageElements)};
  std::vector<std::int32_t> users = std::vector<std::int32_t>(kPages, 0);

  KvPool pool(std::int32_t layer) {
    KvPool kv;
    kv.k = make_view(data[at(layer * 2)].data(), {kPages, kPageSize, kHkv, kD});
    kv.v = make_view(data[at(layer * 2 + 1)].data(), {kPages, kPageSize, kHkv, kD});
    return kv;
  }
  std::int32_t take() {
    const auto page = std::find(users.begin(), users.end(), 0);
    if (page == users.end()) throw std::runtime_error("the cache is full");
    *page = 1;
    return static_cast<std::int32_t>(page - users.begin());
  }
  std::int32_t copy(std::int32_t page) {
    const std::int32_t fresh = take();
    for (std::vector<BFloat16>& x : data) {
      std::copy_n(x.begin() + page * kPageElements, kPageElements, x.begin() + fresh * kPageElements);
    }
    return fresh;
  }
  std::int64_t pages_in_use() const { return kPages - std::count(users.begin(), users.end(), 0); }
};

/// Tokens that a sequence gets in a step: a chunk of a prompt, a sampled token, or drafts.
struct Append {
  SequenceId id;
  Tokens tokens;
};

/// What it writes to run its layers here.
class Engine {
 public:
  // Workspaces are allocated once, for every plan within the limits.
  explicit Engine(bool shares) : shares_(shares) {
    throw_if_error(create_context(&context_));
    context_.executor = team_.executor();
    const PoolShape pool = {kPageSize, kPages};
    throw_if_error(forest_.begin_epoch({&pool, 1}));
    for (std::int32_t d = 0; d < kD / 2; ++d) inv_freq_.push_back(std::pow(10'000.0, -2.0 * d / kD));
    rope_.inv_freq = inv_freq_;
    rope_.dim = kD;
    PlanLimits limits;
    limits.rows = kMaxRows;
    limits.max_context = kMaxContext;
    limits.parts = kThreads;
    for (const std::int32_t window : {-1, 48}) {  // global layers and sliding ones take turns
      LayerKind kind;
      kind.Hq = kHq;
      kind.Hkv = kHkv;
      kind.D = kind.Dv = kD;
      kind.window = window;
      kind.kv_dtype = DType::bf16;
      kinds_.push_back(kind);
      workspaces_.emplace_back(kind, limits);
    }
  }

  /// A sequence that begins with the first tokens of another one, whole pages of it; -1: from nothing.
  SequenceId start(SequenceId like = -1, std::int32_t tokens = 0) {
    Sequence s;
    s.kv_len = tokens;
    for (std::int32_t p = 0; p < tokens / kPageSize; ++p) s.pages.push_back(use(running_.at(like).pages[at(p)]));
    SequenceId id = -1;
    throw_if_error(forest_.add(s.pages, s.kv_len, &id));
    running_[id] = s;
    return id;
  }

  /// Both go on from here. Who writes first into the page that both have makes a copy of it: see grow.
  SequenceId fork(SequenceId id) {
    const Sequence& parent = running_.at(id);
    Sequence s;
    s.kv_len = parent.kv_len;
    for (std::int32_t p = 0; p * kPageSize < s.kv_len; ++p) s.pages.push_back(use(parent.pages[at(p)]));
    SequenceId child = -1;
    if (shares_) throw_if_error(forest_.fork(id, &child));
    if (!shares_) throw_if_error(forest_.add(s.pages, s.kv_len, &child));
    running_[child] = s;
    return child;
  }

  void finish(SequenceId id) {
    throw_if_error(forest_.finish(id));
    for (std::int32_t page : running_.at(id).pages) --cache_.users[at(page)];
    running_.erase(id);
  }

  /// Draft tokens that were rejected.
  void cut(SequenceId id, std::int32_t tokens) {
    Sequence& s = running_.at(id);
    s.kv_len -= tokens;
    throw_if_error(forest_.truncate(id, s.kv_len));
  }

  /// One forward of the model: o of every row in every layer.
  std::vector<float> step(const std::vector<Append>& batch) {
    Tokens tokens;
    std::vector<ScheduledSequence> scheduled;
    for (const Append& a : batch) {
      const auto count = static_cast<std::int32_t>(a.tokens.size());
      grow(a.id, count);
      tokens.insert(tokens.end(), a.tokens.begin(), a.tokens.end());
      scheduled.push_back({a.id, count});
    }
    throw_if_error(forest_.schedule(scheduled));
    if (planned_ != forest_.version()) make_plans();
    const std::int64_t rows = forest_.forest().rows();
    std::vector<std::int64_t> slots(at(rows));
    std::vector<std::int32_t> positions(at(rows));
    throw_if_error(append_slots(forest_.forest(), 0, slots, positions, forest_.actual_lengths()));

    std::vector<float> o(at(kLayers * rows * kHq * kD), NAN);
    for (std::int32_t layer = 0; layer < kLayers; ++layer) {
      std::vector<float> q = model_.project(tokens, layer, 0, kHq), k = model_.project(tokens, layer, 1, kHkv),
                         v = model_.project(tokens, layer, 2, kHkv);
      KvAppend append;
      append.k = make_view(k.data(), {rows, kHkv, kD});
      append.v = make_view(v.data(), {rows, kHkv, kD});
      append.pool = cache_.pool(layer);
      append.slots = slots;
      append.positions = positions;
      append.rope = &rope_;
      throw_if_error(kv_append(context_, append));
      throw_if_error(attend(layer, plans_[at(layer % 2)], q, o.data() + layer * rows * kHq * kD));
    }
    ++steps;
    return o;
  }

  /// Attention of one layer. A plan of a batch that is gone is refused, whoever calls with it.
  Status attend(std::int32_t layer, const Plan& plan, std::vector<float>& q, float* o) {
    const std::int64_t rows = forest_.forest().rows();
    const KvPool kv = cache_.pool(layer);
    Attend args;
    args.q = make_view(q.data(), {rows, kHq, kD});
    args.kv = {&kv, 1};
    args.o = make_view(o, {rows, kHq, kD});
    args.rope = &rope_;
    args.q_rotated = false;
    args.actual_lengths = forest_.actual_lengths();
    args.fingerprint = forest_.forest().fingerprint;
    args.workspace = workspaces_[at(layer % 2)].workspace();
    return tree_attention(context_, plan, args);
  }

  const Plan& plan() const { return plans_[0]; }
  std::int64_t pages_in_use() const { return cache_.pages_in_use(); }
  std::int32_t steps = 0, plannings = 0;

 private:
  struct Sequence {
    std::vector<std::int32_t> pages;
    std::int32_t kv_len = 0;
  };
  /// A page for one more sequence: the page itself, or a copy where nothing is shared.
  std::int32_t use(std::int32_t page) {
    if (!shares_) return cache_.copy(page);
    ++cache_.users[at(page)];
    return page;
  }

  /// Makes room for tokens. No plan is made here, and none is needed while they fit into the sequence's pages.
  void grow(SequenceId id, std::int32_t tokens) {
    Sequence& s = running_.at(id);
    const std::int32_t last = s.kv_len / kPageSize;  // the page of the first new token
    if (last < static_cast<std::int32_t>(s.pages.size()) && cache_.users[at(s.pages[at(last)])] > 1) {
      const std::int32_t before = s.pages[at(last)];
      s.pages[at(last)] = cache_.copy(before);
      --cache_.users[at(before)];
      const std::vector<std::int32_t> from_there(s.pages.begin() + last, s.pages.end());
      throw_if_error(forest_.replace_pages(id, last, from_there));
    }
    std::vector<std::int32_t> fresh;
    s.kv_len += tokens;
    while (static_cast<std::int32_t>(s.pages.size()) * kPageSize < s.kv_len) {
      fresh.push_back(cache_.take());
      s.pages.push_back(fresh.back());
    }
    throw_if_error(forest_.extend(id, tokens, fresh));
  }

  void make_plans() {
    PlanOptions options;
    options.target_parallelism = kThreads;
    options.sharing = shares_ ? Sharing::automatic : Sharing::never;
    for (std::size_t kind = 0; kind < 2; ++kind) {
      throw_if_error(make_plan(context_, forest_.forest(), kinds_[kind], options, &plans_[kind]));
    }
    planned_ = forest_.version();
    ++plannings;
  }

  bool shares_;
  Model model_;
  ThreadPool team_{kThreads};
  Context context_;
  std::vector<LayerKind> kinds_;
  std::vector<example::WorkspaceMemory> workspaces_;
  Cache cache_;
  std::vector<double> inv_freq_;
  RopeTable rope_;
  LiveForest forest_;
  std::map<SequenceId, Sequence> running_;
  Plan plans_[2];
  std::int64_t planned_ = -1;
};

/// Tokens [first, first + count) of a text; texts differ in their number.
Tokens text(std::int32_t number, std::int32_t first, std::int32_t count) {
  Tokens tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), number * 1'000 + first);
  return tokens;
}

/// A morning's work: outputs of all steps.
std::vector<float> work(Engine* engine, std::int64_t* most_pages) {
  std::vector<float> all;
  const auto step = [&](const std::vector<Append>& batch) {
    const std::vector<float> o = engine->step(batch);
    all.insert(all.end(), o.begin(), o.end());
    *most_pages = std::max(*most_pages, engine->pages_in_use());
  };
  const SequenceId a = engine->start();
  step({{a, text(0, 0, 64)}});  // a prompt of 100 tokens in two chunks
  step({{a, text(0, 64, 36)}});
  const SequenceId b = engine->start(a, 96), c = engine->start(a, 96);
  step({{a, text(1, 0, 1)}, {b, text(2, 0, 20)}, {c, text(3, 0, 7)}});  // a decodes while two others begin
  for (std::int32_t i = 1; i < 10; ++i) step({{a, text(1, i, 1)}, {b, text(2, 19 + i, 1)}, {c, text(3, 6 + i, 1)}});
  const SequenceId d = engine->fork(a);
  engine->finish(b);
  for (std::int32_t i = 0; i < 8; ++i) step({{a, text(4, i, 1)}, {c, text(5, i, 1)}, {d, text(6, i, 1)}});
  step({{a, text(7, 0, 1)}, {c, text(8, 0, 4)}, {d, text(9, 0, 1)}});  // three drafts of c, of which one is right
  engine->cut(c, 2);
  step({{c, text(8, 7, 1)}, {d, text(9, 1, 1)}});
  return all;
}

}  // namespace

int main() {
  Engine shared(true), alone(false);
  std::int64_t shared_pages = 0, alone_pages = 0;
  const std::vector<float> o = work(&shared, &shared_pages), expected = work(&alone, &alone_pages);
  const double off = example::distance(o, expected);
  std::printf("%d steps on %d plans; %d pages, %d without sharing; outputs differ by %.1e\n", shared.steps,
              shared.plannings, static_cast<int>(shared_pages), static_cast<int>(alone_pages), off);

  const Plan before = shared.plan();
  shared.step({{shared.start(), text(0, 0, 3)}});
  std::vector<float> q(3 * kHq * kD), out(q.size());
  const Status stale = shared.attend(0, before, q, out.data());
  std::printf("with a plan of another batch: %s\n", to_string(stale.code));

  const bool ok = off < 1e-5 && shared_pages < alone_pages && shared.plannings < shared.steps;
  return ok && stale.code == StatusCode::stale_plan ? 0 : 1;
}
