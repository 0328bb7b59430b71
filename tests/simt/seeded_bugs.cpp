// SPDX-License-Identifier: Apache-2.0
// seeded_bugs <name> [right]: runs one kernel of seeded_bugs.cuh, for tests of what a sanitizer says of it.
#include "simt/seeded_bugs.cuh"

#include <cstdio>
#include <cstring>
#include <vector>

#include "simt/modes.hpp"

using namespace prefixshare;

namespace {

template <bool Right>
bool run(const char* name, const simt::Options& options) {
  alignas(16) static float in[2048];
  static float out[256], partial[256];
  static int words[8];
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("missing_sync")) {
    simt::launch(seeded::missing_sync<Right>, {1, 64, 256}, options, out);
  } else if (is("missing_sync_warp")) {
    simt::launch(seeded::missing_sync_warp<Right>, {1, 32, 128}, options, out);
  } else if (is("overrun")) {
    simt::launch(seeded::overrun<Right>, {1, 64, 256}, options, out);
  } else if (is("overrun_buffer")) {
    simt::launch(seeded::overrun_buffer<Right>, {1, 32, sizeof(seeded::TwoBuffers)}, options, out);
  } else if (is("weak_wait")) {
    simt::launch(seeded::weak_wait<Right>, {1, 64, 2048}, options, in, out);
  } else if (is("copy_without_sync")) {
    simt::launch(seeded::copy_without_sync<Right>, {1, 64, 1024}, options, in, out);
  } else if (is("early_refill")) {
    simt::launch(seeded::early_refill<Right>, {1, 64, 1024}, options, in, out);
  } else if (is("shared_word")) {
    simt::launch(seeded::shared_word<Right>, {2, 32, 0}, options, words);
  } else if (is("last_block")) {
    simt::launch(seeded::last_block<Right>, {3, 64, 16}, options, words, partial, out);
  } else {
    return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  for (const simt::Options& options : tests::simt_modes()) {
    std::fprintf(stderr, "%s\n", tests::to_string(options).c_str());
    if (!(argc > 2 ? run<true>(argv[1], options) : run<false>(argv[1], options))) return 2;
  }
  return 0;
}
