// SPDX-License-Identifier: Apache-2.0
#include "replay.hpp"

#include <algorithm>
#include <string>

#include "prefix_report/format.hpp"

namespace batch_job {

namespace {

using prefix_report::with_commas;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// A prefix or a request on its way.
struct Task {
  std::int32_t group = 0;
  std::int32_t request = -1;
  std::int64_t prompt = 0;  ///< tokens to prefill: the prefix, or the request's own
  std::int64_t decode = 0;
  std::int64_t done = 0;

  bool is_prefix() const { return request < 0; }
  std::int64_t tokens() const { return prompt + decode; }
};

/// What a group holds.
struct Shared {
  std::int64_t prefix = 0;
  std::int64_t members_left = 0;
  bool ready = false;  ///< the prefix is in the cache
};

class Engine {
 public:
  Engine(const Job& job, const Groups& groups, const Limits& limits, const Observer& observer)
      : limits_(limits), observer_(observer) {
    for (const Group& group : groups.groups) {
      const std::int32_t g = static_cast<std::int32_t>(shared_.size());
      shared_.push_back({group.prefix, group.count, group.prefix == 0});
      if (group.prefix > 0) queue_.push_back({g, -1, group.prefix, 0, 0});
      for (std::int32_t m = group.first; m < group.first + group.count; ++m) {
        const std::int32_t request = groups.members[at(m)];
        queue_.push_back({g, request, job.prompt(request) - group.prefix, job.decode[at(request)], 0});
      }
    }
  }

  std::vector<Iteration> run() {
    while (true) {
      admit();
      end_prefills();
      if (!prefilling_.empty() || !decoding_.empty()) {
        iterate();
      } else if (next_ == queue_.size()) {
        return iterations_;
      }
    }
  }

 private:
  bool under_limit() const {
    const std::size_t under_way = prefilling_.size() + decoding_.size();
    return limits_.request_limit == 0 || static_cast<std::int64_t>(under_way) < limits_.request_limit;
  }

  void admit() {
    for (; next_ < queue_.size() && under_limit(); ++next_) {
      const std::int64_t tokens = queue_[next_].tokens();
      if (promised_ + tokens > limits_.kv_budget) return;
      promised_ += tokens;
      prefilling_.push_back(next_);
    }
  }

  /// One step of the model.
  void iterate() {
    work_.clear();
    Iteration now;
    std::int64_t left = limits_.token_budget;
    for (std::size_t i = 0; i < decoding_.size() && left > 0; ++i) now.decode += process(decoding_[i], 1, &left);
    for (std::size_t i = 0; i < prefilling_.size() && left > 0; ++i) {
      const Task& task = queue_[prefilling_[i]];
      if (!task.is_prefix() && !shared_[at(task.group)].ready) continue;
      now.prefill += process(prefilling_[i], task.prompt - task.done, &left);
    }
    kv_ += now.prefill + now.decode;
    now.kv = kv_;
    now.batch = static_cast<std::int64_t>(work_.size());
    iterations_.push_back(now);
    if (observer_) observer_(now, work_);
    end_decodes();
    end_prefills();
  }

  std::int64_t process(std::size_t index, std::int64_t tokens, std::int64_t* left) {
    Task& task = queue_[index];
    const std::int64_t count = std::min(tokens, *left);
    work_.push_back({task.group, task.request, task.done, count});
    task.done += count;
    *left -= count;
    return count;
  }

  /// Prefixes whose tokens are all processed make their members ready; requests begin to write.
  void end_prefills() {
    const auto ended = [this](std::size_t index) {
      const Task& task = queue_[index];
      Shared& group = shared_[at(task.group)];
      if (task.done < task.prompt || (!task.is_prefix() && !group.ready)) return false;
      if (task.is_prefix()) {
        group.ready = true;
      } else if (task.decode > 0) {
        decoding_.push_back(index);
      } else {
        release(task);
      }
      return true;
    };
    keep_unless(ended, &prefilling_);
  }

  void end_decodes() {
    const auto ended = [this](std::size_t index) {
      if (queue_[index].done < queue_[index].tokens()) return false;
      release(queue_[index]);
      return true;
    };
    keep_unless(ended, &decoding_);
  }

  /// Takes out, in order, the tasks that have ended.
  template <class Ended>
  static void keep_unless(const Ended& ended, std::vector<std::size_t>* tasks) {
    std::size_t kept = 0;
    for (const std::size_t index : *tasks) {
      if (!ended(index)) (*tasks)[kept++] = index;
    }
    tasks->resize(kept);
  }

  /// A request leaves, and with the last of its group the prefix.
  void release(const Task& task) {
    Shared& group = shared_[at(task.group)];
    const std::int64_t tokens = task.tokens() + (--group.members_left == 0 ? group.prefix : 0);
    promised_ -= tokens;
    kv_ -= tokens;
  }

  const Limits limits_;
  const Observer& observer_;
  std::vector<Task> queue_;
  std::vector<Shared> shared_;
  std::size_t next_ = 0;                 // the first task that is not admitted
  std::vector<std::size_t> prefilling_;  // admitted, in order: those with prompt tokens left, and those that wait
  std::vector<std::size_t> decoding_;
  std::int64_t promised_ = 0;  // tokens that what is admitted holds at its end
  std::int64_t kv_ = 0;
  std::vector<Work> work_;
  std::vector<Iteration> iterations_;
};

}  // namespace

void require_fit(const Job& job, const Limits& limits) {
  for (std::int32_t r = 0; r < job.requests(); ++r) {
    const std::int64_t prompt = job.prompt(r), decode = job.decode[at(r)];
    if (prompt + decode <= limits.kv_budget) continue;
    throw InputError("request " + std::to_string(r + 1) + " needs " + with_commas(prompt + decode) +
                     " tokens of KV (prompt " + with_commas(prompt) + ", to write " + with_commas(decode) +
                     "), --kv-budget is " + with_commas(limits.kv_budget));
  }
}

std::vector<Iteration> replay(const Job& job, const Groups& groups, const Limits& limits, const Observer& observer) {
  require_fit(job, limits);
  return Engine(job, groups, limits, observer).run();
}

}  // namespace batch_job
