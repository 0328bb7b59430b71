// SPDX-License-Identifier: Apache-2.0
// The page of prefix_report: the picture's areas are the counts, no two boxes overlap, and the file stands alone.
#include "prefix_report/page.hpp"

#include <string>
#include <vector>

#include "prefixshare/context.hpp"
#include "support/catch.hpp"
#include "support/program.hpp"

namespace {

using namespace prefix_report;
using prefixshare::tests::Answer;
using prefixshare::tests::read_file;
using prefixshare::tests::TemporaryFile;

const std::string kSmall = "--hq 4 --hkv 2 --d 16 --threads 2 --repeats 1 ";

/// Three levels, a sequence that ends inside, a prompt without completions, a name with markup in it.
const char* const kCompletions =
    "{\"prompt\": \"one long beginning <b>\", \"completions\": [\"\", \" and more\", \" and more still\", \"x\"]}\n"
    "{\"prompt\": \"one long beginning, else\", \"completions\": [\"a\", \"b\"]}\n"
    "{\"prompt\": \"another\", \"completions\": [\"\"]}\n";

struct Planned {
  Traffic traffic;
  prefixshare::Forest forest;
  prefixshare::Plan plan;
};
Planned planned(const std::string& text) {
  const TemporaryFile file(text);
  Options options;
  options.input = file.path();
  Planned p;
  p.traffic = read_traffic(options);
  p.forest = build_forest(p.traffic);
  prefixshare::Context context;
  REQUIRE(create_context(&context).ok());
  REQUIRE(make_plan(context, p.forest, prefixshare::LayerKind{}, {}, &p.plan).ok());
  return p;
}

std::size_t occurrences(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (std::size_t i = text.find(word); i != std::string::npos; i = text.find(word, i + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("page: areas are logical tokens, widths unique ones, and boxes lie apart", "[examples]") {
  const Planned p = planned(kCompletions);
  const std::vector<Box> boxes = icicle(p.forest, p.plan, false);
  const TokenCount expected = count_tokens(p.traffic);
  std::int64_t logical = 0, unique = 0;
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const Box& a = boxes[i];
    logical += std::int64_t{a.end - a.begin} * a.sharers;
    unique += a.end - a.begin;
    REQUIRE(a.decision != nullptr);
    CHECK(a.decision->begin < a.end);
    for (std::size_t j = 0; j < i; ++j) {
      const Box& b = boxes[j];
      const bool columns = a.begin < b.end && b.begin < a.end;
      const bool rows = a.top < b.top + b.sharers && b.top < a.top + a.sharers;
      CHECK_FALSE((columns && rows));
    }
  }
  CHECK(logical == expected.logical);
  CHECK(unique == expected.unique);
}

TEST_CASE("page: where every node has rows, leaves are counted", "[examples]") {
  const Planned p = planned(kCompletions);
  for (const Box& box : icicle(p.forest, p.plan, true)) {
    std::int32_t leaves = 0;
    for (std::size_t n = 0; n < p.forest.nodes.size(); ++n) {
      bool leaf = true, below = false;
      for (const prefixshare::Node& other : p.forest.nodes) leaf = leaf && other.parent != static_cast<std::int32_t>(n);
      for (auto i = static_cast<std::int32_t>(n); i >= 0; i = p.forest.nodes[static_cast<std::size_t>(i)].parent) {
        below = below || i == box.node;
      }
      leaves += leaf && below;
    }
    CHECK(box.sharers == leaves);
  }
}

TEST_CASE("page: the file is whole, stands alone and escapes what it quotes", "[examples]") {
  const TemporaryFile input(kCompletions), page("");
  for (const char* step : {"", "--train "}) {
    const std::string arguments = kSmall + step + "--html " + page.path() + " " + input.path();
    const Answer answer = prefixshare::tests::run(PREFIX_REPORT, arguments);
    INFO(answer.err);
    REQUIRE(answer.code == 0);
    const std::string html = read_file(page.path());
    CHECK(html.rfind("<!doctype html>", 0) == 0);
    CHECK(html.find("</html>") != std::string::npos);
    for (const char* reference : {"http", "src=", "url(", "<script", "@import"}) {
      INFO(reference);
      CHECK(html.find(reference) == std::string::npos);
    }
    for (const char* element : {"svg", "rect", "title", "table", "tr", "p", "div"}) {
      INFO(element);
      const std::string name = element;
      const std::size_t closed = occurrences(html, "</" + name + ">");
      CHECK(closed > 0);
      if (name == "rect") continue;  // some close themselves
      CHECK(occurrences(html, "<" + name + ">") + occurrences(html, "<" + name + " ") == closed);
    }
    CHECK(occurrences(html, "class=\"box ") > 3);
  }
}

TEST_CASE("page: a file that cannot be written is refused before the work", "[examples]") {
  prefixshare::tests::check_refused(
      PREFIX_REPORT, {{"--html /no/such/folder/page.html", "/no/such/folder/page.html: cannot be written"}});
}
