// SPDX-License-Identifier: Apache-2.0
// Bugs that the emulator finds by itself: each with the right finding, at the right line, in every mode.
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "simt/marks.hpp"
#include "simt/modes.hpp"
#include "simt/seeded_bugs.cuh"
#include "support/catch.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

bool has(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

/// Runs `launch(options)` in every mode; each time the error has all the parts.
template <class F>
void check_errors(const std::vector<std::string>& parts, const F& launch) {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    const std::string message = simt_error([&] { launch(options); });
    INFO(message);
    for (const std::string& part : parts) {
      INFO("expected: " << part);
      CHECK(has(message, part));
    }
  }
}

[[maybe_unused]] int count_nan(const std::vector<float>& values) {
  int count = 0;
  for (const float x : values) count += std::isnan(x);
  return count;
}

/// Values of which the copies come.
struct Source {
  alignas(16) float values[1024];
  Source() { std::iota(values, values + 1024, 1.0f); }
};

}  // namespace

// Under ThreadSanitizer these cases would end the program with its report, which sanitizer_test.cpp looks at.
#if !defined(PREFIXSHARE_TSAN)

TEST_CASE("seeded: without sync_block somebody reads NaN", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    std::vector<float> out(64, 0.0f);
    simt::launch(seeded::missing_sync<false>, {1, 64, 256}, options, out.data());
    CHECK(count_nan(out) > 0);
    simt::launch(seeded::missing_sync<true>, {1, 64, 256}, options, out.data());
    CHECK(count_nan(out) == 0);
  }
}

TEST_CASE("seeded: a wait that is too weak by one shows when copies are late", "[simt]") {
  const Source source;
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    std::vector<float> out(64, 0.0f);
    simt::launch(seeded::weak_wait<false>, {1, 64, 2048}, options, source.values, out.data());
    CHECK((count_nan(out) > 0) == (options.async != simt::Async::eager));
    simt::launch(seeded::weak_wait<true>, {1, 64, 2048}, options, source.values, out.data());
    CHECK(count_nan(out) == 0);
  }
}

TEST_CASE("seeded: a buffer that is filled again too early shows", "[simt]") {
  const Source source;
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    std::vector<float> wrong(64), right(64);
    simt::launch(seeded::early_refill<false>, {1, 64, 1024}, options, source.values, wrong.data());
    simt::launch(seeded::early_refill<true>, {1, 64, 1024}, options, source.values, right.data());
    CHECK(right[0] == 2 * 129 + 256);
    if (options.order == simt::Order::forward || options.order == simt::Order::reverse) CHECK(wrong != right);
  }
}

#endif

// Under AddressSanitizer these cases end the program, too.
#if !defined(PREFIXSHARE_ASAN)

TEST_CASE("seeded: writes beside the window and into guarded gaps are found at the block's end", "[simt]") {
  std::vector<float> out(64);
  check_errors({"block 0 wrote to shared memory behind its end"}, [&](const simt::Options& o) {
    simt::launch(seeded::overrun<false>, {1, 64, 256}, o, out.data());
  });
  check_errors({"block 0 wrote to shared memory in a guarded gap"}, [&](const simt::Options& o) {
    simt::launch(seeded::overrun_buffer<false>, {1, 32, sizeof(seeded::TwoBuffers)}, o, out.data());
  });
}

#endif

TEST_CASE("seeded: an address outside of the window", "[simt]") {
  std::vector<std::uint32_t> out(32);
  check_errors({"load_matrix at ", marked("overrun_matrix"),
                " by thread 31 of block 0: bytes 512 to 527 are outside of the "
                "block's 512 bytes of shared memory"},
               [&](const simt::Options& o) {
                 simt::launch(seeded::overrun_matrix<false>, {1, 32, 512}, o, out.data());
               });
}

TEST_CASE("seeded: threads in different sync_blocks", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    const std::string message = simt_error([&] { simt::launch(seeded::divergent_sync, {1, 128, 0}, options); });
    INFO(to_string(options) << "\n" << message);
    CHECK(has(message, "others wait in sync_block at "));
    CHECK(has(message, marked("divergent_sync first")));
    CHECK(has(message, marked("divergent_sync second")));
  }
  const std::string message = simt_error([] { simt::launch(seeded::divergent_sync, {1, 128, 0}, {}); });
  CHECK(has(message, marked("divergent_sync second") + " by thread 96 of block 0: 96 others wait in sync_block at "));
}

TEST_CASE("seeded: sync_block when threads have exited", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    const std::string message = simt_error([&] { simt::launch(seeded::exited_threads, {1, 96, 0}, options); });
    INFO(to_string(options) << "\n" << message);
    CHECK((has(message, "exit by thread ") || has(message, "threads of the block have exited")));
    CHECK(has(message, marked("exited_threads")));
  }
}

TEST_CASE("seeded: half of a warp in a shuffle", "[simt]") {
  std::vector<int> out(64);
  check_errors({"deadlock", "32 threads wait in shuffle at ", marked("half_warp shuffles"),
                "32 threads wait in sync_block at ", marked("half_warp syncs")},
               [&](const simt::Options& o) {
                 simt::launch(seeded::half_warp, {1, 64, 0}, o, out.data());
               });
}

TEST_CASE("seeded: halves of a warp in different instructions", "[simt]") {
  std::vector<std::uint32_t> out(32);
  check_errors(
      {"ballot at ", "others wait in ballot at ", marked("divergent_warp first"), marked("divergent_warp second")},
      [&](const simt::Options& o) {
        simt::launch(seeded::divergent_warp, {1, 32, 0}, o, out.data());
      });
}

TEST_CASE("seeded: copies that nobody has waited for", "[simt]") {
  const Source source;
  check_errors({"exit by thread ", "it has not waited for copy_async at ", marked("undrained")},
               [&](const simt::Options& o) {
                 simt::launch(seeded::undrained, {1, 32, 512}, o, source.values);
               });
}

TEST_CASE("seeded: blocks that need each other must run at the same time", "[simt]") {
  simt::Options options;
  options.polls = 10000;
  for (const auto order : {simt::Order::forward, simt::Order::reverse, simt::Order::random, simt::Order::pct}) {
    options.order = order;
    std::vector<int> flags(3, 0);
    options.resident = 1;
    const std::string message = simt_error([&] { simt::launch(seeded::look_back, {3, 32, 0}, options, flags.data()); });
    INFO(message);
    CHECK(has(message, "spin_pause at "));
    CHECK(has(message, marked("look_back") + " by thread 0 of block 0: livelock: 10000 polls"));
    CHECK(has(message, "with 1 of 3 blocks resident"));
    options.resident = 3;
    simt::launch(seeded::look_back, {3, 32, 0}, options, flags.data());
    CHECK(flags == std::vector<int>(3, 1));
  }
}

TEST_CASE("seeded: rows in the same banks are counted", "[simt]") {
  std::vector<std::uint32_t> out(64);
  simt::launch(seeded::bank_conflicts<false>, {2, 32, 1024}, {}, out.data());
  CHECK(simt::statistics().matrices == 16);
  CHECK(simt::statistics().conflicts == 16 * 7);
  simt::launch(seeded::bank_conflicts<true>, {2, 32, 1024}, {}, out.data());
  CHECK(simt::statistics().matrices == 16);
  CHECK(simt::statistics().conflicts == 0);
}
