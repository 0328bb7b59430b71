// SPDX-License-Identifier: Apache-2.0
// Ceilings: what this machine can do with a team of threads, measured; and the floor of a time that follows from them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/dtype.hpp"
#include "prefixshare/executor.hpp"
#include "support/buffer.hpp"
#include "support/bursts.hpp"

namespace prefixshare::bench {

/// Memory far larger than the caches: what rates of memory are measured on, and what a flush of the caches reads.
class Scratch {
 public:
  Scratch();
  const Buffer& memory() const noexcept { return memory_; }
  /// Reads twice the last-level cache on every thread of the team: what was cached before is not any more.
  void flush(const Executor& team) const;

 private:
  std::int64_t cache_bytes_;
  Buffer memory_;
};

/// Bytes per second at which the team reads a working set again and again.
struct ReadRate {
  std::int64_t working_set = 0;  ///< bytes of all threads, at most: slices are rounded down
  double rate = 0;
};

/// What an instruction set reaches, per second. `usable` false: this machine does not have it.
struct ArithmeticRate {
  std::string name;
  bool usable = false;
  DType storage = DType::f32;  ///< of what it multiplies
  double flops = 0;            ///< products and sums, from registers
  double exponentials = 0;     ///< of f32; 0: it has none of its own
};

/// Each the best that any burst reached: a ceiling.
struct Ceilings {
  std::int32_t threads = 1;
  std::vector<ReadRate> reads;             ///< smallest working set first; the last lies in memory
  double l2_read = 0;                      ///< half of every second-level cache
  double cache_read = 0;                   ///< the plateau of the last-level cache; 0: none was found
  double copy = 0;                         ///< memcpy in memory, bytes read and written
  double stream_copy = 0;                  ///< the same with stores past the caches; 0: none on this machine
  std::vector<ArithmeticRate> arithmetic;  ///< as in all_bursts
  double busy = 0;                         ///< cores that others used meanwhile; 0: quiet

  double memory_read() const { return reads.back().rate; }
  /// The best rate at which that much or more can be read.
  double read_rate(double working_set) const;
  /// The best rate of products of the storage type that are summed in f32.
  double flops(DType storage) const;
  double exponentials() const;
};

/// Takes `seconds` for each of about 30 rates.
Ceilings measure_ceilings(const Executor& team, const Scratch& scratch, double seconds, Way way = Way::registers);

/// A ceiling as two different loops find it; per second.
struct CeilingPair {
  std::string name;
  double first = 0;
  double second = 0;
  /// Of the smaller one from the larger.
  double difference() const { return 1 - std::min(first, second) / std::max(first, second); }
};
/// Every ceiling that both ways have.
std::vector<CeilingPair> pair_ceilings(const Ceilings& first, const Ceilings& second);

/// What a call moves and computes at least.
struct Work {
  double distinct_bytes = 0;  ///< each counted once: the working set
  double bytes = 0;           ///< read and written, repeats included
  double flops = 0;
  double exponentials = 0;
  DType storage = DType::f32;
  bool cold = false;  ///< nothing is cached before the call
};

/// No call with this work is faster. `bound` names the resource that says so.
struct Floor {
  double seconds = 0;
  const char* bound = "";
};
Floor floor_of(const Work& work, const Ceilings& ceilings);

}  // namespace prefixshare::bench
