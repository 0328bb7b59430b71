// SPDX-License-Identifier: Apache-2.0
// Executor: who runs the parts of a call.
#pragma once

#include <cstdint>

namespace prefixshare {
inline namespace v0_1 {

/// Who runs the parts of a call. Null callback: the calling thread runs part 0 of 1. No threads are owned here.
struct Executor {
  std::int32_t concurrency = 1;  ///< parts a call is cut into, >= 1
  void* user = nullptr;
  /// Calls task(argument, i) for every i in [0, count), in any order, on any threads, and returns when all are done.
  /// An exception that leaves it terminates the program.
  void (*parallel_for)(void* user, std::int32_t count, void (*task)(void* argument, std::int32_t i),
                       void* argument) = nullptr;
};

}  // namespace v0_1
}  // namespace prefixshare
