// SPDX-License-Identifier: Apache-2.0
// What the tests of packed segments share.
#pragma once

#include <cstdint>
#include <vector>

#include "prefixshare/pack_segment.hpp"

namespace prefixshare::tests {

/// Memory for a packed copy, aligned, full of NaN.
class PackedMemory {
 public:
  PackedMemory(const LayerKind& kind, std::int64_t tokens)
      : bytes_(packed_segment_bytes(kind, tokens)),
        memory_(static_cast<std::size_t>(bytes_ + kPackedAlignment), 0xff) {}
  void* data() {
    const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (kPackedAlignment - at % kPackedAlignment) % kPackedAlignment;
  }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::int64_t bytes_;
  std::vector<unsigned char> memory_;
};

}  // namespace prefixshare::tests
