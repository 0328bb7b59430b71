// SPDX-License-Identifier: Apache-2.0
// ThreadPool: every index once, before parallel_for returns, job after job.
#include "prefixshare/thread_pool.hpp"

#include <vector>

#include "support/catch.hpp"

using namespace prefixshare;

namespace {

/// Plain integers: a data race on them, or an effect that comes late, is what the test is after.
struct Counts {
  std::vector<int> times;
  void run(ThreadPool* pool) {
    pool->parallel_for(
        static_cast<std::int32_t>(times.size()),
        [](void* self, std::int32_t i) { ++static_cast<Counts*>(self)->times[static_cast<std::size_t>(i)]; }, this);
  }
};

}  // namespace

TEST_CASE("thread pool: each index runs once and is done on return", "[thread_pool]") {
  for (const std::int32_t threads : {-1, 0, 1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == (threads < 1 ? 1 : threads));
    for (const std::size_t count : {0u, 1u, 2u, 7u, 64u, 1000u}) {
      Counts counts{std::vector<int>(count, 0)};
      counts.run(&pool);
      CHECK(counts.times == std::vector<int>(count, 1));
    }
  }
}

TEST_CASE("thread pool: jobs follow each other", "[thread_pool]") {
  ThreadPool pool(4);
  Counts counts{std::vector<int>(5, 0)};
  for (int job = 0; job < 2000; ++job) counts.run(&pool);
  CHECK(counts.times == std::vector<int>(5, 2000));
}

TEST_CASE("thread pool: wakes after it has slept", "[thread_pool]") {
  ThreadPool pool(3);
  for (int job = 0; job < 3; ++job) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    Counts counts{std::vector<int>(16, 0)};
    counts.run(&pool);
    CHECK(counts.times == std::vector<int>(16, 1));
  }
}

TEST_CASE("thread pool: as an executor it cuts a call into as many parts as it has threads", "[thread_pool]") {
  ThreadPool pool(3);
  const Executor executor = pool.executor();
  CHECK(executor.concurrency == 3);
  std::vector<int> seen(10, 0);
  executor.parallel_for(
      executor.user, 10,
      [](void* argument, std::int32_t i) {
        (*static_cast<std::vector<int>*>(argument))[static_cast<std::size_t>(i)] = i;
      },
      &seen);
  for (std::size_t i = 0; i < seen.size(); ++i) CHECK(seen[i] == static_cast<int>(i));
}

TEST_CASE("thread pool: starts and ends without a job", "[thread_pool]") {
  for (int i = 0; i < 20; ++i) ThreadPool pool(4);
}
