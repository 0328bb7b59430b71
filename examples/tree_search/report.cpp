// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "search.hpp"

namespace tree_search {

namespace {

[[gnu::format(printf, 1, 2)]] std::string line(const char* format, ...) {
  char text[200];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

/// "   0.12", or a dash for a time that was not taken.
std::string milliseconds(double seconds) { return seconds > 0 ? line("%8.3f", seconds * 1e3) : line("%8s", "-"); }

std::string cells(const Depth& d) {
  const auto number = [](std::int64_t x) { return static_cast<long long>(x); };
  return line("%6lld %5lld %7lld %8lld", number(d.kept.leaves), number(d.kept.nodes), number(d.kept.unique_tokens),
              number(d.decode.kv_rows)) +
         milliseconds(d.decode.seconds);
}

std::string depth_line(std::size_t depth, const Depth& rebase, const Depth& ets) {
  const double ratio = static_cast<double>(rebase.kept.unique_tokens) /
                       static_cast<double>(std::max<std::int64_t>(ets.kept.unique_tokens, 1));
  return line("%5zu ", depth + 1) + cells(rebase) + " |" + cells(ets) + line("%7.2f  ", ratio) +
         (ets.gap > 0 ? line("gap %.0e\n", ets.gap) : "best\n");
}

double worst_error(const Search& search) {
  double most = 0;
  for (const Depth& d : search.depths) most = std::max(most, d.decode.error / d.decode.bound);
  return most;
}

}  // namespace

std::string to_text(const Options& o, const Search& rebase, const Search& ets) {
  std::string text = line("simulated model: width %d, %d steps, prompt %d tokens, seed %llu, temperature %g\n", o.width,
                          o.depth, o.prompt, static_cast<unsigned long long>(o.seed), o.temperature);
  text += line("ETS: lambda_b %g per share of the %s, lambda_d %g per share of the clusters\n", o.lambda_b,
               o.cost == NodeCost::nodes ? "nodes" : "tokens", o.lambda_d);
  text += line("decode: %s, one layer, f32, Hq %d, Hkv %d, D %d\n\n", rebase.depths[0].decode.implementation.c_str(),
               o.kind.Hq, o.kind.Hkv, o.kind.D);
  text += line("%-43s |%s\n", "      REBASE", " ETS");
  const std::string columns = line("%6s %5s %7s %8s%8s", "leaves", "nodes", "tokens", "KV rows", "ms");
  text += "depth " + columns + " |" + columns + "  ratio  selection\n";
  for (std::size_t d = 0; d < rebase.depths.size(); ++d) text += depth_line(d, rebase.depths[d], ets.depths[d]);
  text += line("\nKV tokens, mean over depths: REBASE %.0f, ETS %.0f, ratio %.2f\n", rebase.mean_tokens(),
               ets.mean_tokens(), rebase.mean_tokens() / ets.mean_tokens());
  text += line("pages of %d tokens at the peak: REBASE %lld, ETS %lld\n", SearchTree::kPageSize,
               static_cast<long long>(rebase.peak_pages), static_cast<long long>(ets.peak_pages));
  if (rebase.seconds() > 0) {
    text +=
        line("attention, sum over depths: REBASE %.2f ms, ETS %.2f ms\n", rebase.seconds() * 1e3, ets.seconds() * 1e3);
  }
  text += passes(rebase) && passes(ets)
              ? "every step agrees with the reference within the tolerance of f32\n"
              : line("FAILED: error over tolerance: REBASE %.2g, ETS %.2g\n", worst_error(rebase), worst_error(ets));
  return text;
}

}  // namespace tree_search
