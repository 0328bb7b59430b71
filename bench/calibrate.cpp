// SPDX-License-Identifier: Apache-2.0
// prefixshare_calibrate: what this machine can do, and the planner's constants of every implementation. Some ten
// seconds. Exit codes: 0 done; 1 a call failed, or --check found a difference; else the options are wrong.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "prefixshare/thread_pool.hpp"
#include "support/ceilings.hpp"
#include "support/cost_fit.hpp"
#include "support/machine.hpp"
#include "support/quiet.hpp"

namespace prefixshare::bench {
namespace {

constexpr double kSecondsEach = 0.1;  // of a rate
constexpr double kSecondsFit = 0.05;  // of a plan of the fit
constexpr double kPatience = 5;       // seconds for waiting and repeating, where others use the machine

struct Calibration {
  std::string cpu = cpu_name();
  CpuId cpuid;
  std::int64_t l2_bytes = cache_bytes(2);
  std::int64_t l3_bytes = cache_bytes(3);
  std::vector<Ceilings> ceilings;  ///< by threads
  std::vector<CostFit> costs;
};

Calibration calibrate(std::int32_t threads) {
  quiet_patience = kPatience;
  Calibration c;
  {
    const Scratch scratch;
    ThreadPool pool(threads);
    c.ceilings.push_back(measure_ceilings(Executor{}, scratch, kSecondsEach));
    if (threads > 1) c.ceilings.push_back(measure_ceilings(pool.executor(), scratch, kSecondsEach));
  }
  Context context;
  throw_if_error(create_context(&context));
  c.costs = fit_costs(context, {DType::bf16, DType::f32}, kSecondsFit);
  return c;
}

// ---- The table

/// A line with one figure per team; a figure of 0 is absent.
template <class Figure>
void print_line(const Calibration& c, const std::string& name, const char* unit, double scale, const Figure& figure) {
  std::printf("%-34s %-8s", name.c_str(), unit);
  for (const Ceilings& team : c.ceilings) {
    const double value = figure(team) * scale;
    if (value > 0) {
      std::printf(" %10.1f", value);
    } else {
      std::printf(" %10s", "absent");
    }
  }
  std::printf("\n");
}

std::string size_name(std::int64_t bytes) {
  return bytes >= 1 << 20 ? std::to_string(bytes >> 20) + " MiB" : std::to_string(bytes >> 10) + " KiB";
}

void print_memory(const Calibration& c) {
  constexpr double kGiga = 1e-9;
  print_line(c, "read, memory", "GB/s", kGiga, [](const Ceilings& t) { return t.memory_read(); });
  print_line(c, "read, last-level cache", "GB/s", kGiga, [](const Ceilings& t) { return t.cache_read; });
  print_line(c, "read, L2", "GB/s", kGiga, [](const Ceilings& t) { return t.l2_read; });
  print_line(c, "memcpy, read + written", "GB/s", kGiga, [](const Ceilings& t) { return t.copy; });
  print_line(c, "copy past caches, read + written", "GB/s", kGiga, [](const Ceilings& t) { return t.stream_copy; });
}

void print_arithmetic(const Calibration& c) {
  for (std::size_t i = 0; i < c.ceilings[0].arithmetic.size(); ++i) {
    const ArithmeticRate& r = c.ceilings[0].arithmetic[i];
    print_line(c, std::string(to_string(r.storage)) + " products, " + r.name, "GFLOP/s", 1e-9,
               [i](const Ceilings& t) { return t.arithmetic[i].flops; });
  }
  for (std::size_t i = 0; i < c.ceilings[0].arithmetic.size(); ++i) {
    const ArithmeticRate& r = c.ceilings[0].arithmetic[i];
    if (r.storage != DType::f32) continue;
    print_line(c, "exp, " + r.name, "G/s", 1e-9, [i](const Ceilings& t) { return t.arithmetic[i].exponentials; });
  }
}

/// Reads by working set. Teams have working sets of their own: a line each.
void print_reads(const Calibration& c) {
  for (const Ceilings& team : c.ceilings) {
    std::printf("\nread by working set, %d threads, GB/s:\n ", team.threads);
    for (const ReadRate& r : team.reads) std::printf(" %s: %.1f ", size_name(r.working_set).c_str(), 1e-9 * r.rate);
    std::printf("\n");
  }
}

void print_costs(const Calibration& c) {
  std::printf("\n%-14s %-5s %6s %11s %8s %8s %15s %8s %9s %9s  ns, one thread\n", "cost model", "type", "item",
              "kv_element", "mac", "partial", "few_kv_element", "few_mac", "row_step", "few_rows");
  for (const CostFit& f : c.costs) {
    std::printf("%-14s %-5s %6.0f %11.4f %8.4f %8.3f %15.4f %8.4f %9d %9d", f.implementation.c_str(),
                to_string(f.dtype), f.cost.item, f.cost.kv_element, f.cost.mac, f.cost.partial, f.cost.few_kv_element,
                f.cost.few_mac, f.cost.row_step, f.cost.few_rows);
    if (f.busy > 0) std::printf("  busy: others used %.2f cores", f.busy);
    std::printf("\n");
  }
}

void print(const Calibration& c) {
  std::printf("%s, L2 %s, L3 %s\n\n%-43s", c.cpu.c_str(), size_name(c.l2_bytes).c_str(), size_name(c.l3_bytes).c_str(),
              "");
  for (const Ceilings& team : c.ceilings) std::printf(" %3d thread%s", team.threads, team.threads > 1 ? "s" : " ");
  std::printf("\n");
  print_memory(c);
  print_arithmetic(c);
  print_line(c, "busy: cores that others used", "", 1, [](const Ceilings& t) { return t.busy; });
  print_reads(c);
  print_costs(c);
}

// ---- JSON

nlohmann::ordered_json to_json(const Ceilings& c) {
  nlohmann::ordered_json j = {{"threads", c.threads},
                              {"memory_read_bytes_per_s", c.memory_read()},
                              {"cache_read_bytes_per_s", c.cache_read},
                              {"l2_read_bytes_per_s", c.l2_read},
                              {"memcpy_bytes_per_s", c.copy},
                              {"stream_copy_bytes_per_s", c.stream_copy},
                              {"busy_cores", c.busy}};
  for (const ReadRate& r : c.reads) {
    j["reads"].push_back({{"working_set_bytes", r.working_set}, {"bytes_per_s", r.rate}});
  }
  for (const ArithmeticRate& r : c.arithmetic) {
    j["arithmetic"].push_back({{"name", r.name},
                               {"usable", r.usable},
                               {"storage", to_string(r.storage)},
                               {"flop_per_s", r.flops},
                               {"exp_per_s", r.exponentials}});
  }
  return j;
}

nlohmann::ordered_json to_json(const CostFit& f) {
  return {{"implementation", f.implementation},
          {"storage", to_string(f.dtype)},
          {"item_ns", f.cost.item},
          {"kv_element_ns", f.cost.kv_element},
          {"mac_ns", f.cost.mac},
          {"partial_ns", f.cost.partial},
          {"few_kv_element_ns", f.cost.few_kv_element},
          {"few_mac_ns", f.cost.few_mac},
          {"min_item_ns", f.cost.min_item},
          {"row_step", f.cost.row_step},
          {"few_rows", f.cost.few_rows},
          {"busy_cores", f.busy}};
}

/// As a file of kernels/costs, which is called as the machine.
void write_json(const Calibration& c, const std::string& path) {
  nlohmann::ordered_json j = {{"machine", std::filesystem::path(path).stem().string()}, {"cpu", c.cpu}};
  if (!c.cpuid.vendor.empty()) {
    j["cpuid"] = {{"vendor", c.cpuid.vendor}, {"family", c.cpuid.family}, {"models", {c.cpuid.model}}};
  }
  j["l2_bytes"] = c.l2_bytes, j["l3_bytes"] = c.l3_bytes;
  for (const Ceilings& team : c.ceilings) j["ceilings"].push_back(to_json(team));
  for (const CostFit& f : c.costs) j["cost_models"].push_back(to_json(f));
  std::ofstream file(path);
  file << j.dump(2) << '\n';
  if (!file) throw std::runtime_error("cannot write " + path);
}

// ---- Whether the ceilings are the machine's

constexpr double kAgreement = 0.10;  // two ways to the same ceiling may differ by this much
constexpr int kRounds = 4;           // of both ways in turn: what a host gives its machines changes within seconds

struct TeamCheck {
  std::int32_t threads = 1;
  double busy = 0;
  std::vector<CeilingPair> pairs;
};

void take_best(const CeilingPair& pair, std::vector<CeilingPair>* best) {
  for (CeilingPair& b : *best) {
    if (b.name != pair.name) continue;
    b.first = std::max(b.first, pair.first), b.second = std::max(b.second, pair.second);
    return;
  }
  best->push_back(pair);
}

/// Each way's best of all rounds.
TeamCheck check_team(const Executor& team, const Scratch& scratch) {
  constexpr double kSeconds = kSecondsEach / kRounds;
  TeamCheck check{team.concurrency, 0, {}};
  for (int round = 0; round < kRounds; ++round) {
    const Ceilings first = measure_ceilings(team, scratch, kSeconds, Way::registers);
    const Ceilings second = measure_ceilings(team, scratch, kSeconds, Way::panels);
    check.busy = std::max({check.busy, first.busy, second.busy});
    const std::vector<CeilingPair> pairs = pair_ceilings(first, second);
    for (const CeilingPair& p : pairs) take_best(p, &check.pairs);
  }
  return check;
}

/// Prints every ceiling as two loops find it; whether they agree.
bool check(std::int32_t threads) {
  quiet_patience = kPatience;
  const Scratch scratch;
  ThreadPool pool(threads);
  std::vector<TeamCheck> checks = {check_team(Executor{}, scratch)};
  if (threads > 1) checks.push_back(check_team(pool.executor(), scratch));
  std::printf("%s, each ceiling by two different loops, G/s\n", cpu_name().c_str());
  bool agree = true;
  for (const TeamCheck& c : checks) {
    std::printf("\n%d thread%s", c.threads, c.threads > 1 ? "s" : "");
    if (c.busy > 0) std::printf(" (busy: others used %.2f cores, which tells against any difference)", c.busy);
    std::printf("\n");
    for (const CeilingPair& p : c.pairs) {
      const bool good = p.difference() <= kAgreement;
      std::printf("%-34s %10.1f %10.1f %6.1f %%%s\n", p.name.c_str(), 1e-9 * p.first, 1e-9 * p.second,
                  100 * p.difference(), good ? "" : "  differ");
      agree = agree && good;
    }
  }
  return agree;
}

int run(int argc, char** argv) {
  CLI::App app("What this machine can do, and the planner's constants of every implementation.");
  std::int32_t threads = static_cast<std::int32_t>(std::thread::hardware_concurrency());
  std::string json;
  app.add_option("--threads", threads, "threads of the larger team")->check(CLI::Range(1, 1 << 12));
  app.add_option("--json", json, "also write the figures to this file");
  bool only_check = false;
  app.add_flag("--check", only_check,
               "instead, measure each ceiling in two ways; exit code 1 where they differ by > 10 %")
      ->excludes("--json");
  CLI11_PARSE(app, argc, argv);
  if (only_check) return check(threads) ? 0 : 1;
  const Calibration c = calibrate(threads);
  print(c);
  if (!json.empty()) write_json(c, json);
  return 0;
}

}  // namespace
}  // namespace prefixshare::bench

int main(int argc, char** argv) {
#ifndef NDEBUG
  std::cerr << "This is not a release build: its figures would mean nothing.\n";
  return 2;
#endif
  try {
    return prefixshare::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
