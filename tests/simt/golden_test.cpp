// SPDX-License-Identifier: Apache-2.0
// The emulator's models against what a GPU answered: the recording, and the way from kernels to file and back.
#include "gpu/golden.hpp"

#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "simt/simt.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/program.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

using Words = std::vector<std::uint32_t>;

golden::Dump emulated() {
  return golden::record("the emulator",
                        [](auto kernel, int blocks, int shared_bytes, const Words& in, std::size_t words) {
                          Words out(words);
                          simt::launch(kernel, {blocks, 32, shared_bytes}, {}, in.data(), out.data());
                          return out;
                        });
}

std::string text_of(const golden::Dump& dump) {
  std::ostringstream text;
  golden::write(dump, &text);
  return text.str();
}

bool readable(const std::string& text) {
  std::istringstream file(text);
  golden::Dump dump;
  return golden::read(&file, &dump);
}

golden::Table& table(golden::Dump* dump, const std::string& name) {
  for (golden::Table& t : dump->tables) {
    if (t.name == name) return t;
  }
  FAIL("no table " << name);
  return dump->tables[0];
}

}  // namespace

TEST_CASE("golden: the models answer as the recorded GPU", "[simt]") {
  const std::string path = std::string(PREFIXSHARE_SIMT_TESTS) + "/golden/device.txt";
  std::ifstream file(path);
  if (!file) return skip("the models against a GPU", "none is recorded: there is no tests/simt/golden/device.txt");
  golden::Dump recorded;
  REQUIRE(golden::read(&file, &recorded));
  INFO(recorded.device);
  CHECK(golden::difference(emulated(), recorded) == "");
}

TEST_CASE("golden: a recording is read back as it was written", "[simt]") {
  const golden::Dump dump = emulated();
  const TemporaryFile path(text_of(dump));
  std::ifstream file(path.path());
  golden::Dump read;
  REQUIRE(golden::read(&file, &read));
  CHECK(read.device == "the emulator");
  REQUIRE(read.tables.size() == 5);
  for (std::size_t t = 0; t < 5; ++t) {
    CHECK(read.tables[t].name == dump.tables[t].name);
    CHECK(read.tables[t].in == dump.tables[t].in);
    CHECK(read.tables[t].out == dump.tables[t].out);
  }
  CHECK(golden::difference(dump, read) == "");
}

TEST_CASE("golden: what is no recording is refused", "[simt]") {
  const std::string text = text_of(emulated());
  CHECK(readable(text));
  CHECK(!readable(""));
  CHECK(!readable("device x\n"));
  CHECK(!readable("device x\nmma zz 1\n"));
  CHECK(!readable("device x\nmma fffffff 1\n"));
  for (const std::size_t length : {text.size() - 5, text.size() / 2, text.size() / 3}) {
    CHECK(!readable(text.substr(0, length)));
  }
}

TEST_CASE("golden: a model that answers otherwise is found", "[simt]") {
  const golden::Dump right = emulated();
  const auto changed = [&](const std::string& name, std::size_t word, std::uint32_t by) {
    golden::Dump wrong = right;
    table(&wrong, name).out[word] += by;
    return golden::difference(wrong, right);
  };
  for (const char* name : {"mma_bf16", "mma_f16", "ldmatrix", "ldmatrix_rows"}) {
    CHECK(changed(name, 17, 1).find(std::string(name) + ": word 17 is ") == 0);
  }
  CHECK(changed("exp2", 200, 2) == "");
  CHECK(changed("exp2", 200, 3).find("exp2: word 200 is ") == 0);
  CHECK(changed("exp2", 3, 1).find("exp2: word 3 is ") == 0);  // 2^-infinity is 0
  CHECK(changed("exp2", 4, 1) == "");                          // one NaN is as good as another
  golden::Dump other = right;
  table(&other, "exp2").in[0] += 1;
  CHECK(golden::difference(other, right) == "exp2: other inputs");
  other.tables.pop_back();
  CHECK(golden::difference(other, right) == "other tables");
}

TEST_CASE("golden: the recorded sums are exact, whatever their order", "[simt]") {
  golden::Dump dump = emulated();
  for (const char* name : {"mma_bf16", "mma_f16"}) {
    const golden::Table& t = table(&dump, name);
    REQUIRE(t.out.size() == 128 * golden::kProducts);
    for (std::size_t i = 0; i < t.out.size(); ++i) {
      const auto product = static_cast<int>(i / 128);
      const float units = std::ldexp(detail::bit_cast<float>(t.out[i]), 2 * (6 - 3 * product));
      REQUIRE(units == std::nearbyint(units));
      REQUIRE(std::fabs(units) < 0x1p20f);
    }
    CHECK(Words(t.out.begin(), t.out.begin() + 128) != Words(t.out.begin() + 128, t.out.begin() + 256));
  }
}
