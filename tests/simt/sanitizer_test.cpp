// SPDX-License-Identifier: Apache-2.0
// Bugs that only a sanitizer sees, in a program that it may end. Each build has the cases of its sanitizer.
#include <string>
#include <vector>

#include "simt/marks.hpp"
#include "support/catch.hpp"
#include "support/program.hpp"

using namespace prefixshare::tests;

namespace {

Answer seeded(const std::string& arguments) { return run(PREFIXSHARE_SEEDED_BUGS, arguments); }

/// The program fails, and says all this.
[[maybe_unused]] void check_found(const std::string& name, const std::vector<std::string>& parts) {
  const Answer answer = seeded(name);
  INFO(answer.err);
  CHECK(answer.code != 0);
  for (const std::string& part : parts) {
    INFO("expected: " << part);
    CHECK(answer.err.find(part) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("sanitizers: no finding in kernels that are right", "[simt]") {
  for (const char* name : {"missing_sync", "missing_sync_warp", "overrun", "overrun_buffer", "weak_wait",
                           "copy_without_sync", "early_refill", "shared_word", "last_block"}) {
    const Answer answer = seeded(std::string(name) + " right");
    INFO(name << "\n" << answer.err);
    CHECK(answer.code == 0);
  }
  CHECK(seeded("no_such_kernel").code == 2);
}

#if defined(PREFIXSHARE_TSAN)

TEST_CASE("thread sanitizer: a missing sync_block", "[simt]") {
  check_found("missing_sync", {"data race", marked("missing_sync writes"), marked("missing_sync reads")});
}
TEST_CASE("thread sanitizer: shuffles and votes order no memory", "[simt]") {
  check_found("missing_sync_warp",
              {"data race", marked("missing_sync_warp writes"), marked("missing_sync_warp reads")});
}
TEST_CASE("thread sanitizer: a wait that is too weak by one", "[simt]") {
  check_found("weak_wait", {"data race", marked("weak_wait copies"), marked("weak_wait reads")});
}
TEST_CASE("thread sanitizer: a thread waits for its own copies only", "[simt]") {
  check_found("copy_without_sync",
              {"data race", marked("copy_without_sync copies"), marked("copy_without_sync reads")});
}
TEST_CASE("thread sanitizer: a buffer that is filled again too early", "[simt]") {
  check_found("early_refill", {"data race", marked("early_refill copies"), marked("early_refill reads")});
}
TEST_CASE("thread sanitizer: two blocks update a word", "[simt]") {
  check_found("shared_word", {"data race", marked("shared_word")});
}
TEST_CASE("thread sanitizer: an arrival releases what the block has synchronised, no more", "[simt]") {
  check_found("last_block", {"data race", marked("last_block writes")});
}

#endif

#if defined(PREFIXSHARE_ASAN)

TEST_CASE("address sanitizer: an element behind the window", "[simt]") {
  check_found("overrun", {"AddressSanitizer", marked("overrun")});
}
TEST_CASE("address sanitizer: an element in a guarded gap", "[simt]") {
  check_found("overrun_buffer", {"AddressSanitizer", marked("overrun_buffer")});
}

#endif
