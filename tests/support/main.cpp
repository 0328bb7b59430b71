// SPDX-License-Identifier: Apache-2.0
// main of every test executable: 0 passed, 77 passed with something skipped, 1 failed.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_RUNNER
#endif
#include "support/catch.hpp"
#include "support/data.hpp"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  Catch::Session session;
#ifdef CATCH_CONFIG_RUNNER
  session.configData().warnings = Catch::WarnAbout::NoTests;  // version 3 fails without a matching test by itself
#endif
  if (session.run(argc, argv) != 0) return 1;
  return prefixshare::tests::skipped ? kSkipped : 0;
}
