// SPDX-License-Identifier: Apache-2.0
// ThreadPool: an optional team of threads for an Executor. The library itself owns no threads.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "prefixshare/executor.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// `threads` - 1 threads and the caller. One caller at a time; not from within a task. Idle threads wait a few
/// microseconds, then sleep. The constructor may throw std::system_error or std::bad_alloc.
class ThreadPool {
 public:
  explicit ThreadPool(std::int32_t threads) {
    const std::int32_t others = threads > 1 ? threads - 1 : 0;
    team_.reserve(static_cast<std::size_t>(others));
    try {
      for (std::int32_t i = 0; i < others; ++i) team_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~ThreadPool() { stop(); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Threads that work on a job, the caller among them.
  std::int32_t size() const noexcept { return static_cast<std::int32_t>(team_.size()) + 1; }

  /// Calls task(argument, i) for every i in [0, count) and returns when all are done.
  void parallel_for(std::int32_t count, void (*task)(void* argument, std::int32_t i), void* argument) noexcept {
    if (team_.empty() || count <= 1) {
      for (std::int32_t i = 0; i < count; ++i) task(argument, i);
      return;
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      task_ = task;
      argument_ = argument;
      count_ = count;
      ticket_.store(0, std::memory_order_relaxed);
      busy_ = static_cast<std::int32_t>(team_.size());
      job_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_tickets();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

  /// The pool as an executor that cuts a call into size() parts. The pool must outlive it.
  Executor executor() noexcept {
    Executor e;
    e.concurrency = size();
    e.user = this;
    e.parallel_for = [](void* pool, std::int32_t count, void (*task)(void*, std::int32_t), void* argument) {
      static_cast<ThreadPool*>(pool)->parallel_for(count, task, argument);
    };
    return e;
  }

 private:
  void take_tickets() noexcept {
    const std::int32_t count = count_;
    for (std::int32_t i; (i = ticket_.fetch_add(1, std::memory_order_relaxed)) < count;) task_(argument_, i);
  }

  /// A thread's life: every job is joined once by every thread, so that the next can only start after all left the
  /// last.
  void work() noexcept {
    for (std::uint32_t seen = 0;; ++seen) {
      spin_while(seen);
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || job_.load(std::memory_order_relaxed) != seen; });
        if (stopping_) return;
      }
      take_tickets();
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  /// Waits at most 50 us for a job after `seen`: calls of one step follow each other closely.
  void spin_while(std::uint32_t seen) const noexcept {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (job_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < end) {
      std::this_thread::yield();
    }
  }

  void stop() noexcept {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : team_) thread.join();
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::atomic<std::uint32_t> job_{0};
  std::atomic<std::int32_t> ticket_{0};
  void (*task_)(void*, std::int32_t) = nullptr;
  void* argument_ = nullptr;
  std::int32_t count_ = 0;
  std::int32_t busy_ = 0;  ///< threads of the team that have not left the job
  bool stopping_ = false;
  std::vector<std::thread> team_;
};

}  // namespace v0_1
}  // namespace prefixshare
