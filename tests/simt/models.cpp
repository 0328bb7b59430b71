// SPDX-License-Identifier: Apache-2.0
#include "simt/models.hpp"

#include <algorithm>
#include <cmath>

#include "simt/simt.hpp"

namespace simt::detail {

void load_matrices(MatrixLane* const (&lanes)[32], int matrices, bool transposed) {
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int m = 0; m < matrices; ++m) {
      const auto element = [&](int row, int column) -> std::uint32_t { return lanes[8 * m + row]->row[column]; };
      const std::uint32_t low = transposed ? element(2 * t, g) : element(g, 2 * t);
      const std::uint32_t high = transposed ? element(2 * t + 1, g) : element(g, 2 * t + 1);
      lanes[lane]->r[m] = high << 16 | low;
    }
  }
}

int bank_conflicts(MatrixLane* const (&lanes)[32], int matrices) {
  int conflicts = 0;
  for (int m = 0; m < matrices; ++m) {
    const auto row = [&](int i) { return reinterpret_cast<std::uintptr_t>(lanes[8 * m + i]->address) / 16; };
    int rows[8] = {};  // different ones, in each group of four banks
    int most = 0;
    for (int i = 0; i < 8; ++i) {
      bool first = true;
      for (int k = 0; k < i; ++k) first = first && row(k) != row(i);
      if (first) most = std::max(most, ++rows[row(i) % 8]);
    }
    conflicts += most - 1;
  }
  return conflicts;
}

namespace {

float value_of(std::uint32_t bits, int half, prefixshare::DType type) {
  const auto element = static_cast<std::uint16_t>(bits >> (16 * half) & 0xffffu);
  return type == prefixshare::DType::bf16 ? prefixshare::to_float(prefixshare::BFloat16{element})
                                          : prefixshare::to_float(prefixshare::Float16{element});
}

}  // namespace

void multiply_add(MultiplyLane* const (&lanes)[32], prefixshare::DType type) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][2 * t + h + 8 * (i / 2)] = value_of(lanes[lane]->a[i], h, type);
      for (int i = 0; i < 2; ++i) b[2 * t + h + 8 * i][g] = value_of(lanes[lane]->b[i], h, type);
    }
  }
  float product[16][8] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) product[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) lanes[lane]->d[i] += product[g + 8 * (i / 2)][2 * t + i % 2];
  }
}

}  // namespace simt::detail

namespace simt {

float exp2(float x) {
  if (std::fpclassify(x) == FP_SUBNORMAL) return 1.0f;
  const auto y = static_cast<float>(std::exp2(static_cast<double>(x)));
  return std::fpclassify(y) == FP_SUBNORMAL ? 0.0f : y;
}

float log2(float x) { return static_cast<float>(std::log2(static_cast<double>(x))); }

void sincospi(float x, float* sin, float* cos) {
  const double quarter = std::nearbyint(2.0 * static_cast<double>(x));  // x = quarter / 2 + rest, both exact
  const double angle = 3.14159265358979323846 * (static_cast<double>(x) - 0.5 * quarter);
  const double s = std::sin(angle), c = std::cos(angle);
  const int turns = std::isfinite(x) ? static_cast<int>(std::fmod(quarter, 4.0) + 4.0) % 4 : 0;  // s and c are NaN then
  *sin = static_cast<float>(turns == 0 ? s : turns == 1 ? c : turns == 2 ? -s : -c);
  *cos = static_cast<float>(turns == 0 ? c : turns == 1 ? -s : turns == 2 ? -c : s);
}

}  // namespace simt
