// SPDX-License-Identifier: Apache-2.0
#include "support/session.hpp"

#include "support/kernel_module.hpp"

namespace prefixshare::bench {

Session::Session(const Options& given) : options(given), pool(given.threads) {
  throw_if_error(create_context(&context));
  for (const std::string& file : options.kernels) {
    for (const std::string& name : load_kernels(file, &context)) idle_kernels_.insert(name);
  }
  if (!options.workload.empty()) chosen_ = workloads.find(options.workload);
  teams.push_back({"threads:1", Executor{}});
  if (options.threads > 1) teams.push_back({label("threads", options.threads), pool.executor()});
  if (options.quick) {
    quiet_patience = 0;
    limits = {0.08, 5, 0.4};
  }
}

Context Session::context_for(const Runner& runner) const {
  Context c = context;
  throw_if_error(force_implementation(&c, runner.implementation.c_str()));
  c.executor = runner.team.executor;
  return c;
}

const Ceilings& Session::ceilings(const Team& team) {
  const double seconds_each = options.quick ? 0.015 : 0.05;
  auto known = ceilings_.find(team.name);
  if (known == ceilings_.end()) {
    known = ceilings_.emplace(team.name, measure_ceilings(team.executor, scratch(), seconds_each)).first;
  }
  return known->second;
}

const Scratch& Session::scratch() {
  if (!scratch_) scratch_ = std::make_unique<Scratch>();
  return *scratch_;
}

std::vector<Problem> Session::problems(const std::string& op) const {
  return chosen_.empty() ? suite_of(op, workloads, options.quick)
                         : chosen_for(op, chosen_, options.scale, options.type);
}

void Session::add(const std::string& name, bool quick, std::function<void(benchmark::State&)> body) {
  auto& [registered, left_out] = counts_[name.substr(0, name.find('/'))];
  if (options.quick && chosen_.empty() && !quick) {
    ++left_out;
    return;
  }
  ++registered;
  const auto guarded = [this, body = std::move(body)](benchmark::State& state) {
    try {
      body(state);
    } catch (const std::exception& error) {
      fail(this, &state, error.what());
    }
  };
  benchmark::RegisterBenchmark(name.c_str(), guarded)->UseManualTime()->Unit(benchmark::kMillisecond);
}

std::string Session::idle_kernels() const {
  std::string text;
  for (const std::string& name : idle_kernels_) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "" : "--kernel: no case of these workloads and types for " + text;
}

std::string Session::left_out() const {
  std::string text;
  int registered = 0, left = 0;
  for (const auto& [folder, count] : counts_) {
    registered += count.first, left += count.second;
    if (count.second > 0) text += (text.empty() ? "" : ", ") + folder + " " + std::to_string(count.second);
  }
  if (left == 0) return "";
  return "quick: " + std::to_string(registered) + " of " + std::to_string(registered + left) +
         " cases, shortened as scale:N in their names says, on the team and on each operator's first choice. Left "
         "out: " +
         text;
}

void report_time(benchmark::State* state, const testing::CallTimes& times, double busy) {
  for (auto _ : *state) state->SetIterationTime(times.median);
  state->counters["calls"] = static_cast<double>(times.calls);
  state->counters["low_ms"] = 1e3 * times.low;
  state->counters["high_ms"] = 1e3 * times.high;
  state->counters["busy"] = busy;
}

void report_work(benchmark::State* state, const Work& work, const Ceilings& ceilings, double seconds) {
  const Floor floor = floor_of(work, ceilings);
  const auto rate = [&](const char* name, double amount) {
    if (amount > 0) state->counters[name] = amount / seconds;
  };
  rate("B/s", work.bytes);
  rate("FLOP/s", work.flops);
  rate("exps", work.exponentials);
  if (work.flops > 0) state->counters["fma_fraction"] = work.flops / ceilings.flops(DType::f32) / seconds;
  state->counters["floor_ms"] = 1e3 * floor.seconds;
  state->counters["floor_fraction"] = floor.seconds / seconds;
  if (ceilings.busy > 0) state->counters["floor_busy"] = ceilings.busy;
  state->SetLabel(std::string("floor: ") + floor.bound);
}

void report_unshared(benchmark::State* state, const testing::CallTimes& unshared, const testing::CallTimes& shared) {
  state->counters["vs_unshared"] = unshared.median / shared.median;
  state->counters["unshared_ms"] = 1e3 * unshared.median;
  state->counters["unshared_low_ms"] = 1e3 * unshared.low;
  state->counters["unshared_high_ms"] = 1e3 * unshared.high;
}

}  // namespace prefixshare::bench
