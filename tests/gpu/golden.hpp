// SPDX-License-Identifier: Apache-2.0
// Recorded answers of instructions: their inputs, their text form, and how far two recordings may differ.
#pragma once

#include <cmath>
#include <cstdint>
#include <istream>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "gpu/golden_kernels.cuh"
#include "prefixshare/dtype.hpp"

namespace prefixshare::golden {

struct Table {
  std::string name;
  std::vector<std::uint32_t> in, out;
};
/// What one device answers.
struct Dump {
  std::string device;
  std::vector<Table> tables;
};

constexpr int kProducts = 4;

/// Integers and a scale that is a power of two: all sums are exact, in whatever order they are taken.
template <class T>
std::vector<std::uint32_t> product_inputs(std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::uint32_t> words;
  for (int product = 0; product < kProducts; ++product) {
    const float scale = std::ldexp(1.0f, 3 * product - 6);
    const auto integer = [&](int most) {
      return static_cast<float>(static_cast<int>(random() % static_cast<unsigned>(2 * most + 1)) - most);
    };
    const auto pair = [&] {
      const std::uint32_t low = store_as<T>(scale * integer(100)).bits;
      return low | static_cast<std::uint32_t>(store_as<T>(scale * integer(100)).bits) << 16;
    };
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 6; ++i) words.push_back(pair());
      for (int i = 0; i < 4; ++i) {
        words.push_back(detail::bit_cast<std::uint32_t>(scale * scale * integer(100000)));
      }
    }
  }
  return words;
}

inline std::vector<std::uint32_t> matrix_inputs() {
  std::vector<std::uint32_t> words;
  for (std::uint32_t i = 0; i < 128; ++i) words.push_back((2 * i + 1) << 16 | 2 * i);
  return words;
}

/// Special values, then numbers whose power of two is normal, and not just so.
inline std::vector<std::uint32_t> exponent_inputs() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> values = {0.0f,    -0.0f,   kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(),
                               1e-40f,  -1e-40f, 1.0f,      -1.0f,      127.0f,
                               -126.0f, 128.0f,  -150.0f,   -1e30f,     1e30f};
  std::mt19937 random(3);
  while (values.size() < 256) values.push_back(static_cast<float>(random() % 250000) * 1e-3f - 125.0f);
  std::vector<std::uint32_t> words;
  for (const float x : values) words.push_back(detail::bit_cast<std::uint32_t>(x));
  return words;
}

/// Launches every kernel on its input: run(kernel, blocks, shared bytes, in, words to come out), with 32 threads a
/// block, returns what came out.
template <class Run>
Dump record(const std::string& device, const Run& run) {
  Dump dump{device, {}};
  const auto add = [&](const char* name, auto kernel, int blocks, int shared_bytes, std::vector<std::uint32_t> in,
                       int words) {
    std::vector<std::uint32_t> out = run(kernel, blocks, shared_bytes, in, static_cast<std::size_t>(words));
    dump.tables.push_back({name, std::move(in), std::move(out)});
  };
  add("mma_bf16", golden_mma<BFloat16>, kProducts, 0, product_inputs<BFloat16>(1), 128 * kProducts);
  add("mma_f16", golden_mma<Float16>, kProducts, 0, product_inputs<Float16>(2), 128 * kProducts);
  add("ldmatrix", golden_ldmatrix<1>, 1, 512, matrix_inputs(), 384);
  add("ldmatrix_rows", golden_ldmatrix<11>, 1, 512, matrix_inputs(), 384);
  add("exp2", golden_exp2<>, 8, 0, exponent_inputs(), 256);
  return dump;
}

inline void write(const Dump& dump, std::ostream* file) {
  *file << "device " << dump.device << "\n" << std::hex;
  for (const Table& t : dump.tables) {
    *file << t.name << " " << t.in.size() << " " << t.out.size();
    for (const auto* words : {&t.in, &t.out}) {
      for (std::size_t i = 0; i < words->size(); ++i) *file << (i % 12 == 0 ? '\n' : ' ') << (*words)[i];
    }
    *file << "\n";
  }
  *file << "end\n" << std::dec;
}

/// False if the text is not what `write` makes.
inline bool read(std::istream* file, Dump* dump) {
  std::string word;
  if (!(*file >> word) || word != "device" || !std::getline(*file >> std::ws, dump->device)) return false;
  *file >> std::hex;
  for (dump->tables.clear(); *file >> word && word != "end";) {
    constexpr std::size_t kMost = 1 << 20;
    std::size_t in = 0, out = 0;
    if (!(*file >> in >> out) || in > kMost || out > kMost) return false;
    Table t{word, std::vector<std::uint32_t>(in), std::vector<std::uint32_t>(out)};
    for (auto* words : {&t.in, &t.out}) {
      for (std::uint32_t& w : *words) *file >> w;
    }
    dump->tables.push_back(std::move(t));
  }
  return file->good() && word == "end";
}

/// How two devices differ, empty if they agree: inputs and exact results in every bit, exp2 within 2 units in the last
/// place.
inline std::string difference(const Dump& a, const Dump& b) {
  if (a.tables.size() != b.tables.size()) return "other tables";
  for (std::size_t t = 0; t < a.tables.size(); ++t) {
    const Table &x = a.tables[t], &y = b.tables[t];
    if (x.name != y.name || x.in != y.in || x.out.size() != y.out.size()) return x.name + ": other inputs";
    for (std::size_t i = 0; i < x.out.size(); ++i) {
      const float p = detail::bit_cast<float>(x.out[i]), q = detail::bit_cast<float>(y.out[i]);
      const std::int64_t units = static_cast<std::int64_t>(x.out[i]) - static_cast<std::int64_t>(y.out[i]);
      const bool close =
          x.name == "exp2" && std::isfinite(p) && std::isfinite(q) && p > 0 && q > 0 && std::abs(units) <= 2;
      const bool both_nan = x.name == "exp2" && std::isnan(p) && std::isnan(q);
      if (x.out[i] == y.out[i] || close || both_nan) continue;
      return x.name + ": word " + std::to_string(i) + " is " + std::to_string(x.out[i]) + " and " +
             std::to_string(y.out[i]);
    }
  }
  return "";
}

}  // namespace prefixshare::golden
