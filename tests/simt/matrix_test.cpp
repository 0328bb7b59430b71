// SPDX-License-Identifier: Apache-2.0
// Fragments of ldmatrix and mma.m16n8k16, written here as the tables of the PTX manual have them.
#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/cuda/ptx.cuh"
#include "prefixshare/testing/problem.hpp"
#include "simt/modes.hpp"
#include "support/catch.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;
using prefixshare::testing::Random;

namespace {

struct Loaded {
  std::uint32_t x4[4], x4_transposed[4], x2[2], x2_transposed[2];
};

/// Four matrices one behind the other, whose element (i, j) of matrix m is 64 m + 8 i + j.
PREFIXSHARE_GLOBAL void load_all(Loaded* out) {
  auto* const s = reinterpret_cast<std::uint16_t*>(ptx::shared_memory());
  const int lane = ptx::lane();
  for (int i = lane; i < 4 * 64; i += 32) s[i] = static_cast<std::uint16_t>(i);
  ptx::sync_warp();
  Loaded& o = out[lane];
  ptx::load_matrix_x4(o.x4, s + 8 * lane);
  ptx::load_matrix_x4_transposed(o.x4_transposed, s + 8 * lane);
  const void* const row = lane < 16 ? s + 8 * lane : nullptr;  // which nobody looks at
  ptx::load_matrix_x2(o.x2, row);
  ptx::load_matrix_x2_transposed(o.x2_transposed, row);
}

/// The rows in any order: the address is all that counts.
PREFIXSHARE_GLOBAL void load_reversed(std::uint32_t* out) {
  auto* const s = reinterpret_cast<std::uint16_t*>(ptx::shared_memory());
  const int lane = ptx::lane();
  for (int i = lane; i < 4 * 64; i += 32) s[i] = static_cast<std::uint16_t>(i);
  ptx::sync_warp();
  std::uint32_t r[4];
  ptx::load_matrix_x4(r, s + 8 * (31 - lane));
  for (int m = 0; m < 4; ++m) out[4 * lane + m] = r[m];
}

PREFIXSHARE_GLOBAL void load_from(int offset, bool global, const void* elsewhere) {
  std::uint32_t r[2];
  ptx::load_matrix_x2(r, global ? elsewhere : ptx::shared_memory() + offset);
}

std::uint32_t two(int low, int high) {
  return static_cast<std::uint32_t>(high) << 16 | static_cast<std::uint32_t>(low);
}

template <class T>
PREFIXSHARE_GLOBAL void multiply(const std::uint32_t* a, const std::uint32_t* b, float* d) {
  const int lane = ptx::lane();
  std::uint32_t ra[4], rb[2];
  float rd[4];
  for (int i = 0; i < 4; ++i) ra[i] = a[4 * lane + i];
  for (int i = 0; i < 2; ++i) rb[i] = b[2 * lane + i];
  for (int i = 0; i < 4; ++i) rd[i] = d[4 * lane + i];
  ptx::multiply_add<T>(rd, ra, rb);
  for (int i = 0; i < 4; ++i) d[4 * lane + i] = rd[i];
}

/// Where the elements of a lane's fragments belong. The manual numbers them one by one: 8 of a, 4 of b, 4 of d.
struct Place {
  int row, column;
};
Place place_a(int lane, int i) {
  const bool upper = i < 2 || (i >= 4 && i < 6);
  return {upper ? lane / 4 : lane / 4 + 8, lane % 4 * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
Place place_b(int lane, int i) { return {lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0), lane / 4}; }
Place place_d(int lane, int i) { return {i < 2 ? lane / 4 : lane / 4 + 8, lane % 4 * 2 + (i & 1)}; }

struct Matrices {
  std::vector<float> a, b, d;  // [16, 16], [16, 8], [16, 8]
};

template <class T>
std::vector<float> multiplied(const Matrices& m, const simt::Options& options) {
  std::vector<std::uint32_t> a(4 * 32), b(2 * 32);
  std::vector<float> d(4 * 32);
  const auto bits = [](float x) { return static_cast<std::uint32_t>(store_as<T>(x).bits); };
  const auto at = [](const std::vector<float>& values, Place p, int columns) {
    return values[static_cast<std::size_t>(p.row * columns + p.column)];
  };
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) {
      a[static_cast<std::size_t>(4 * lane + i / 2)] |= bits(at(m.a, place_a(lane, i), 16)) << (16 * (i % 2));
    }
    for (int i = 0; i < 4; ++i) {
      b[static_cast<std::size_t>(2 * lane + i / 2)] |= bits(at(m.b, place_b(lane, i), 8)) << (16 * (i % 2));
      d[static_cast<std::size_t>(4 * lane + i)] = at(m.d, place_d(lane, i), 8);
    }
  }
  simt::launch(multiply<T>, {1, 32, 0}, options, a.data(), b.data(), d.data());
  std::vector<float> product(16 * 8);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Place p = place_d(lane, i);
      product[static_cast<std::size_t>(p.row * 8 + p.column)] = d[static_cast<std::size_t>(4 * lane + i)];
    }
  }
  return product;
}

template <class T>
void check_multiply(Random* random) {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    Matrices m{std::vector<float>(256), std::vector<float>(128), std::vector<float>(128)};
    for (auto* values : {&m.a, &m.b, &m.d}) {
      for (float& x : *values) x = static_cast<float>(random->between(-100, 100));
    }
    std::vector<float> expected = m.d;
    for (std::size_t row = 0; row < 16; ++row) {
      for (std::size_t column = 0; column < 8; ++column) {
        for (std::size_t k = 0; k < 16; ++k) expected[row * 8 + column] += m.a[row * 16 + k] * m.b[k * 8 + column];
      }
    }
    CHECK(multiplied<T>(m, options) == expected);
  }
}

}  // namespace

TEST_CASE("matrix: load_matrix gives each lane its elements", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    std::vector<Loaded> out(32);
    simt::launch(load_all, {1, 32, 512}, options, out.data());
    for (int lane = 0; lane < 32; ++lane) {
      const Loaded& o = out[static_cast<std::size_t>(lane)];
      for (int m = 0; m < 4; ++m) {
        const std::uint32_t plain = two(64 * m + 2 * lane, 64 * m + 2 * lane + 1);
        const int column = lane / 4, row = lane % 4 * 2;
        const std::uint32_t transposed = two(64 * m + 8 * row + column, 64 * m + 8 * (row + 1) + column);
        CHECK(o.x4[m] == plain);
        CHECK(o.x4_transposed[m] == transposed);
        if (m < 2) {
          CHECK(o.x2[m] == plain);
          CHECK(o.x2_transposed[m] == transposed);
        }
      }
    }
    std::vector<std::uint32_t> reversed(128);
    simt::launch(load_reversed, {1, 32, 512}, options, reversed.data());
    for (int lane = 0; lane < 32; ++lane) {
      for (int m = 0; m < 4; ++m) {
        const int first = 8 * (31 - 8 * m - lane / 4) + lane % 4 * 2;
        CHECK(reversed[static_cast<std::size_t>(4 * lane + m)] == two(first, first + 1));
      }
    }
  }
}

TEST_CASE("matrix: rows that load_matrix may not read", "[simt]") {
  alignas(16) const unsigned char elsewhere[16] = {};
  const auto error = [&](int offset, bool global) {
    return simt_error([&] { simt::launch(load_from, {1, 32, 64}, {}, offset, global, elsewhere); });
  };
  const auto has = [](const std::string& message, const std::string& part) {
    INFO(message);
    CHECK(message.find("load_matrix at ") == 0);
    CHECK(message.find("matrix_test.cpp:") != std::string::npos);
    CHECK(message.find(part) != std::string::npos);
  };
  CHECK(error(48, false) == "");
  has(error(49, false), "bytes 49 to 64 are outside of the block's 64 bytes of shared memory");
  has(error(-16, false), "bytes -16 to -1 are outside of the block's 64 bytes of shared memory");
  has(error(24, false), "the address in shared memory is no multiple of 16");
  has(error(0, true), "are outside of the block's 64 bytes of shared memory");
}

TEST_CASE("matrix: multiply_add is the product of 16 x 16 and 16 x 8", "[simt]") {
  Random random(1);
  check_multiply<BFloat16>(&random);
  check_multiply<Float16>(&random);
}
