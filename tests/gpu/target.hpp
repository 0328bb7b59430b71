// SPDX-License-Identifier: Apache-2.0
// Where cases run: a machine with memory and streams, and a context for it. Memory, plans and problems there. Needs no
// CUDA: the device itself is cuda_target.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "gpu/harness/clock.hpp"
#include "gpu/harness/record.hpp"
#include "prefixshare/context.hpp"
#include "prefixshare/testing/problem.hpp"

namespace prefixshare::gpu {

/// Memory and the order of work. As it is, that of the host, where everything happens at once.
class Machine {
 public:
  virtual ~Machine() = default;
  virtual void* allocate(std::int64_t bytes) const {
    void* memory = std::aligned_alloc(256, static_cast<std::size_t>((bytes + 255) / 256 * 256));
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }
  virtual void release(void* memory) const noexcept { std::free(memory); }
  /// Fills memory with bytes 0xff, which are NaN in every storage type.
  virtual void poison(void* memory, std::int64_t bytes) const {
    std::memset(memory, 0xff, static_cast<std::size_t>(bytes));
  }
  /// All work is done before the next of these returns.
  virtual void write(void* to, const void* from, std::int64_t bytes) const {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  virtual void read(void* to, const void* from, std::int64_t bytes) const {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  virtual void wait() const {}
  /// Streams of every priority, beside the default one.
  virtual std::vector<Stream> streams() const { return {}; }
  /// Gives the machine other work, which goes on meanwhile.
  virtual void disturb(int) const {}
  /// What `work` puts into a stream, to be run again and again. Null where the machine cannot record it.
  virtual std::function<void()> record(const std::function<void(Stream)>&) const { return nullptr; }
  /// The same to be timed: each call runs it once and returns the seconds that it took there.
  virtual std::function<double()> timed(const std::function<void(Stream)>& work) const {
    return [work] {
      const Clock::time_point begin = Clock::now();
      work({});
      return seconds_since(begin);
    };
  }
  /// Numbers of mean 0 and variance 1 in bf16 or f32.
  virtual void fill(void* data, DType dtype, std::int64_t count, std::uint64_t seed) const {
    testing::Random random(seed);
    prefixshare::detail::with_storage(dtype, [&](auto tag) {
      for (std::int64_t i = 0; i < count; ++i) {
        static_cast<decltype(tag)*>(data)[i] = store_as<decltype(tag)>(random.normal());
      }
    });
  }
  virtual std::int64_t cache_bytes() const { return std::int64_t{1} << 20; }
  /// Clocks and power as they are now, in fields whose names end with `suffix`; none where nobody says.
  virtual Record clocks(const std::string&) const { return {}; }
};

struct Target {
  std::shared_ptr<const Machine> machine = std::make_shared<Machine>();
  MemorySpace space = MemorySpace::host;
  Context context;
  std::int32_t blocks = 1;  ///< to plan for
};

/// The host with cpu:portable: cases on it check the cases.
inline Target host_target() {
  Target t;
  throw_if_error(create_context(&t.context));
  throw_if_error(force_implementation(&t.context, "cpu:portable"));
  return t;
}

using MakeTarget = Target (*)();

/// The target of this process, made when a case first asks: a child process then has a device of its own.
inline const Target& target_of(MakeTarget make) {
  static std::map<MakeTarget, Target> made;
  const auto known = made.find(make);
  return known != made.end() ? known->second : made.emplace(make, make()).first->second;
}

/// Memory of a target, poisoned, aligned to 256 bytes.
class Memory {
 public:
  Memory() = default;
  Memory(const Target& target, std::int64_t bytes)
      : machine_(target.machine), data_(machine_->allocate(std::max<std::int64_t>(bytes, 1))), bytes_(bytes) {
    machine_->poison(data_, bytes);
  }
  ~Memory() {
    if (data_ != nullptr) machine_->release(data_);
  }
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::int64_t bytes() const noexcept { return bytes_; }
  void* data() const noexcept { return data_; }
  void write(const void* from) {
    if (bytes_ > 0) machine_->write(data_, from, bytes_);
  }
  void read(void* to) const {
    if (bytes_ > 0) machine_->read(to, data_, bytes_);
  }

 private:
  void swap(Memory& other) noexcept {
    std::swap(machine_, other.machine_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  std::shared_ptr<const Machine> machine_;
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

/// A copy of a host array in a target's memory.
template <class T>
class ArrayThere {
 public:
  ArrayThere() = default;
  ArrayThere(const Target& target, Span<const T> from)
      : memory_(target, from.size() * static_cast<std::int64_t>(sizeof(T))), size_(from.size()) {
    memory_.write(from.data());
  }
  void write(Span<const T> from) { memory_.write(from.data()); }
  Span<T> span() const noexcept { return {static_cast<T*>(memory_.data()), size_}; }
  const T* data() const noexcept { return size_ > 0 ? static_cast<const T*>(memory_.data()) : nullptr; }
  std::vector<T> read() const {
    std::vector<T> values(static_cast<std::size_t>(size_));
    memory_.read(values.data());
    return values;
  }

 private:
  Memory memory_;
  std::int64_t size_ = 0;
};

/// A tensor of a problem in a target's memory, with its guard bands.
template <int Rank>
class TensorThere {
 public:
  TensorThere() = default;
  TensorThere(const Target& target, testing::Tensor<Rank>* host) : host_(host), space_(target.space) {
    if (!*host) return;
    memory_ = Memory(target, host->memory().size());
    send();
  }
  TensorView<Rank> view() const noexcept {
    TensorView<Rank> v = host_->view();
    if (!*host_) return v;
    const unsigned char* begin = host_->memory().data();
    v.data = static_cast<unsigned char*>(memory_.data()) + (static_cast<const unsigned char*>(v.data) - begin);
    v.space = space_;
    return v;
  }
  void send() {
    if (*host_) memory_.write(host_->memory().data());
  }
  void fetch() const {
    if (*host_) memory_.read(host_->memory().data());
  }

 private:
  testing::Tensor<Rank>* host_ = nullptr;
  MemorySpace space_ = MemorySpace::host;
  Memory memory_;
};

/// A problem with all that a call reads and writes in a target's memory. The problem stays where it is meanwhile.
class ProblemThere {
 public:
  ProblemThere(const Target& target, testing::Problem* p)
      : target_(target),
        problem_(p),
        q_(target, &p->q),
        o_(target, &p->o),
        dout_(target, &p->dout),
        dq_(target, &p->dq),
        lse_(target, &p->lse),
        dlse_(target, &p->dlse),
        sinks_(target, p->sinks),
        dsinks_(target, p->dsinks),
        lengths_(target, p->actual_lengths) {
    for (testing::Problem::Pool& pool : p->pools) {
      pools_.push_back({TensorThere<4>(target, &pool.k), TensorThere<4>(target, &pool.v),
                        TensorThere<4>(target, &pool.dk), TensorThere<4>(target, &pool.dv),
                        TensorThere<3>(target, &pool.bias), ArrayThere<float>(target, pool.k_scale),
                        ArrayThere<float>(target, pool.v_scale)});
    }
    for (std::size_t i = 0; i < pools_.size(); ++i) bind(pools_[i], p->kv[i]);
  }
  ProblemThere(const ProblemThere&) = delete;
  ProblemThere& operator=(const ProblemThere&) = delete;

  Attend attend() const {
    Attend a = problem_->attend();
    a.q = q_.view(), a.o = o_.view(), a.lse = lse_.view();
    a.kv = kv_;
    a.sinks = sinks_.span();
    a.actual_lengths = lengths_.span();
    a.lengths_space = target_.space;
    return a;
  }
  AttendGrad attend_grad() const {
    AttendGrad g = problem_->attend_grad();
    g.fwd = attend();
    g.dout = dout_.view(), g.dlse = dlse_.view(), g.dq = dq_.view();
    g.dkv = dkv_;
    g.dsinks = dsinks_.span();
    return g;
  }

  /// Outputs as the problem has them (poisoned, or what an accumulating call adds to).
  void send_outputs() { o_.send(), lse_.send(), send_gradients(); }
  void send_gradients() {
    dq_.send();
    for (PoolThere& pool : pools_) pool.dk.send(), pool.dv.send();
    if (!problem_->dsinks.empty()) dsinks_ = ArrayThere<float>(target_, problem_->dsinks);
  }
  /// Outputs back into the problem, when all work is done.
  void fetch_outputs() {
    target_.machine->wait();
    o_.fetch(), lse_.fetch(), dq_.fetch();
    for (const PoolThere& pool : pools_) pool.dk.fetch(), pool.dv.fetch();
    if (!problem_->dsinks.empty()) problem_->dsinks = dsinks_.read();
  }

 private:
  struct PoolThere {
    TensorThere<4> k, v, dk, dv;
    TensorThere<3> bias;
    ArrayThere<float> k_scale, v_scale;
  };

  void bind(const PoolThere& pool, KvPool kv) {
    const std::int64_t Dv = kv.v.shape[3];
    kv.k = pool.k.view();
    kv.v = problem_->options.v_in_k ? pool.k.view() : pool.v.view();
    kv.v.shape[3] = Dv;
    kv.bias = pool.bias.view();
    kv.k_scale.data = pool.k_scale.data(), kv.v_scale.data = pool.v_scale.data();
    kv_.push_back(kv);
    dkv_.push_back({pool.dk.view(), pool.dv.view()});
  }

  const Target& target_;
  testing::Problem* problem_;
  TensorThere<3> q_, o_, dout_, dq_;
  TensorThere<2> lse_, dlse_;
  ArrayThere<float> sinks_, dsinks_;
  ArrayThere<std::int32_t> lengths_;
  std::vector<PoolThere> pools_;
  std::vector<KvPool> kv_;
  std::vector<KvGrad> dkv_;
};

/// A plan for a target, uploaded if that is a device, with a workspace.
class PlannedCall {
 public:
  /// The options' parallelism is the target's.
  template <class Input>
  PlannedCall(const Target& target, const Input& input, const LayerKind& kind, PlanOptions options) : target_(target) {
    options.target_parallelism = target.blocks;
    throw_if_error(make_plan(target.context, input, kind, options, &plan, target.space));
    PlanLimits limits = limits_of(plan, target.blocks);
    limits.partial_rows = -1;  // whatever a plan of so many rows has
    std::int64_t bytes = 0, backward = 0;
    throw_if_error(forward_workspace(kind, limits, &bytes));
    throw_if_error(backward_workspace(kind, limits, &backward));
    workspace_memory_ = Memory(target, std::max(bytes, options.backward ? backward : 0));
    throw_if_error(
        init_workspace(target.context, kind, limits, workspace_memory_.data(), workspace_memory_.bytes(), &workspace_));
    if (target.space == MemorySpace::device) {
      throw_if_error(device_plan_bytes(target.context, plan, &device_plan_.bytes));
      device_plan_.bytes *= kRoomForOthers;
      image_ = Memory(target, device_plan_.bytes);
      staging_.resize(static_cast<std::size_t>(device_plan_.bytes / 16 + 1));
      device_plan_.data = image_.data();
      device_plan_.staging = staging_.data();
      upload_again();
    }
    target.machine->wait();
  }
  PlannedCall(const PlannedCall&) = delete;
  PlannedCall& operator=(const PlannedCall&) = delete;

  void upload_again(Stream stream = {}) { throw_if_error(upload(target_.context, plan, &device_plan_, stream)); }
  /// Another plan of the same kind into the same memory.
  template <class Input>
  void replan(const Input& input, PlanOptions options) {
    const LayerKind kind = plan.header.kind;
    options.target_parallelism = target_.blocks;
    throw_if_error(make_plan(target_.context, input, kind, options, &plan, target_.space));
    if (target_.space == MemorySpace::device) upload_again();
  }
  const DevicePlan& device_plan() const noexcept { return device_plan_; }

  /// Completes the arguments of a call of this plan, on a stream.
  void complete(Attend* args, Stream stream = {}) const {
    args->workspace = workspace_;
    args->device_plan = &device_plan_;
    args->stream = stream;
  }
  Status forward(Attend args, Stream stream = {}) const {
    complete(&args, stream);
    return tree_attention(target_.context, plan, args);
  }
  Status backward(AttendGrad args, Stream stream = {}) const {
    complete(&args.fwd, stream);
    args.workspace = workspace_;
    return tree_attention_backward(target_.context, plan, args);
  }

  Plan plan;

 private:
  static constexpr std::int64_t kRoomForOthers = 2;  // plans of other paths have other lists
  struct alignas(16) Bytes16 {
    unsigned char bytes[16];
  };
  const Target& target_;
  Memory workspace_memory_, image_;
  std::vector<Bytes16> staging_;
  DevicePlan device_plan_;
  Workspace workspace_;
};

}  // namespace prefixshare::gpu
