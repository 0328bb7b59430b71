// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "report/format.hpp"
#include "report/run.hpp"

namespace prefixshare::report {

namespace {

using Json = nlohmann::json;

/// Length of the bare word for a number that JSON does not have, if there is one at `i`; else 0.
std::size_t bare_word_at(const std::string& text, std::size_t i) {
  for (const char* word : {"NaN", "-NaN", "Infinity", "-Infinity"}) {
    const std::size_t length = std::char_traits<char>::length(word);
    if (text.compare(i, length, word) == 0) return length;
  }
  return 0;
}

/// Google Benchmark writes NaN and Infinity as they are: here they become null.
std::string without_bare_words(const std::string& text) {
  std::string result;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t word = quoted ? 0 : bare_word_at(text, i);
    const std::size_t length = word > 0 ? word : quoted && text[i] == '\\' ? 2 : 1;
    if (text[i] == '"') quoted = !quoted;
    result += word > 0 ? "null" : text.substr(i, length);
    i += length;
  }
  return result;
}

/// Complaints about the cases of one file: a line for each kind, however many cases it hits.
class CaseComplaints {
 public:
  void add(const std::string& name, const std::string& what) {
    Hits& hits = hits_[what];
    if (hits.count++ == 0) hits.first = name, order_.push_back(what);
  }
  void report(const std::string& file, Complaints* complaints) const {
    for (const std::string& what : order_) {
      const Hits& hits = hits_.at(what);
      const std::string more = hits.count > 1 ? " (and " + std::to_string(hits.count - 1) + " more)" : "";
      complaints->push_back(file + ": " + hits.first + more + ": " + what);
    }
  }

 private:
  struct Hits {
    int count = 0;
    std::string first;
  };
  std::map<std::string, Hits> hits_;
  std::vector<std::string> order_;
};

/// Whether a value can have been measured: quotients of what is far beyond would not be finite.
bool is_measurable(double value) {
  const double size = std::abs(value);
  return size == 0 || (size >= 1e-30 && size <= 1e30);
}

/// A text; empty where there is none.
std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? one_line(found->get<std::string>()) : "";
}

bool is_set(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

std::string caches_of(const Json& context) {
  std::string text;
  const auto caches = context.find("caches");
  if (caches == context.end() || !caches->is_array()) return text;
  for (const Json& cache : *caches) {
    if (!cache.is_object() || text_of(cache, "type") == "Instruction") continue;
    const auto level = cache.find("level"), size = cache.find("size");
    if (level == cache.end() || size == cache.end() || !level->is_number_integer() || !size->is_number()) continue;
    text += (text.empty() ? "L" : ", L") + std::to_string(level->get<int>()) + " " + bytes_text(size->get<double>());
  }
  return text;
}

/// "ceilings/threads:2/memory": "3.7e+10", since Google Benchmark's context is text.
void read_ceilings(const Json& context, Run* run) {
  for (const auto& [key, value] : context.items()) {
    const std::vector<std::string> parts = split(key, '/');
    if (parts.size() != 3 || parts[0] != "ceilings" || !value.is_string()) continue;
    const double rate = std::strtod(value.get<std::string>().c_str(), nullptr);
    const std::int32_t threads = parse_case_name(parts[1]).threads;
    if (threads > 0 && rate > 0 && is_measurable(rate)) run->ceilings[threads][parts[2]] = rate;
  }
}

void read_context(const Json& context, Run* run) {
  run->machine = text_of(context, "machine");
  run->host = text_of(context, "host_name");
  run->cpu = text_of(context, "cpu");
  run->caches = caches_of(context);
  run->version = text_of(context, "prefixshare");
  run->commit = text_of(context, "commit");
  run->compiler = text_of(context, "compiler");
  run->flags = text_of(context, "flags");
  run->date = text_of(context, "date");
  run->peer = text_of(context, "peer");
  run->quick = text_of(context, "quick") == "yes";
  if (run->machine == "unknown") run->machine.clear();
  read_ceilings(context, run);
}

/// Keys that Google Benchmark gives every case: no counters of ours.
bool is_own_key(const std::string& key) {
  static const std::set<std::string> keys = {"family_index", "per_family_instance_index",
                                             "repetitions",  "repetition_index",
                                             "threads",      "iterations",
                                             "real_time",    "cpu_time"};
  return keys.count(key) > 0;
}

/// Counters that a plot or a verdict rests on, so that one that is no number is worth a line.
bool is_known_counter(const std::string& key) {
  static const std::set<std::string> keys = {
      "calls",       "low_ms",     "high_ms",   "busy",    "FLOP/s",     "B/s",       "floor_ms", "floor_fraction",
      "vs_unshared", "plan_equal", "vs_memcpy", "vs_best", "planned_ms", "always_ms", "never_ms", "unshared_ms"};
  return keys.count(key) > 0;
}

/// Seconds of a unit of time; 0 if there is no such unit.
double unit_seconds(const std::string& unit) {
  static const std::map<std::string, double> units = {{"", 1e-9}, {"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};
  const auto found = units.find(unit);
  return found == units.end() ? 0 : found->second;
}

Repeat read_repeat(const Json& entry, const std::string& name, CaseComplaints* complaints) {
  Repeat repeat;
  const auto time = entry.find("real_time");
  const double seconds = time != entry.end() && time->is_number() ? time->get<double>() : 0;
  repeat.seconds = seconds * unit_seconds(text_of(entry, "time_unit"));
  if (!(repeat.seconds > 0) || !is_measurable(repeat.seconds)) {
    complaints->add(name, "real_time with its time_unit is no time, the case is left out");
    repeat.seconds = 0;
    return repeat;
  }
  for (const auto& [key, value] : entry.items()) {
    if (is_own_key(key)) continue;
    if (value.is_number() && is_measurable(value.get<double>())) {
      repeat.counters[key] = value.get<double>();
    } else if (is_known_counter(key)) {
      complaints->add(name, key + " is no number that can be measured, it is left out");
    }
  }
  return repeat;
}

/// The case of that name, new if it is not there yet.
Case& case_of(const CaseName& name, Run* run, std::map<std::string, std::size_t>* places) {
  const auto [place, is_new] = places->emplace(name.full, run->cases.size());
  if (is_new) run->cases.emplace_back().name = name;
  return run->cases[place->second];
}

void read_case(const Json& entry, Run* run, std::map<std::string, std::size_t>* places, CaseComplaints* complaints) {
  const std::string name = entry.is_object() ? text_of(entry, "name") : "";
  if (name.empty()) return complaints->add("an entry of benchmarks", "it has no name, it is left out");
  if (text_of(entry, "run_type") == "aggregate") return;  // of repeats, which stand there too
  const CaseName parsed = parse_case_name(name);
  if (is_set(entry, "error_occurred") || is_set(entry, "skipped")) {
    Case& failed = case_of(parsed, run, places);
    failed.error = text_of(entry, "error_message") + text_of(entry, "skip_message");
    if (failed.error.empty()) failed.error = "an error without a message";
    return complaints->add(parsed.full, failed.error);
  }
  Repeat repeat = read_repeat(entry, parsed.full, complaints);
  if (repeat.seconds == 0) return;
  Case& timed = case_of(parsed, run, places);
  timed.label = text_of(entry, "label");
  timed.repeats.push_back(std::move(repeat));
}

}  // namespace

std::optional<double> Repeat::counter(const std::string& key) const {
  const auto found = counters.find(key);
  return found == counters.end() ? std::nullopt : std::optional<double>(found->second);
}

std::optional<double> Case::counter(const std::string& key) const {
  return timed() ? typical().counter(key) : std::nullopt;
}

const Case* Run::find(const std::string& name) const {
  const auto found = std::find_if(cases.begin(), cases.end(), [&](const Case& c) { return c.name.full == name; });
  return found == cases.end() ? nullptr : &*found;
}

Run parse_run(const std::string& file, const std::string& text, Complaints* complaints) {
  const Json json = Json::parse(without_bare_words(text), nullptr, false);
  if (json.is_discarded()) throw InputError(file + ": this is no JSON, or only a part of it");
  if (!json.is_object() || json.find("benchmarks") == json.end() || !json["benchmarks"].is_array()) {
    throw InputError(file + ": there is no list \"benchmarks\", as Google Benchmark writes it");
  }
  Run run;
  run.file = file;
  if (json.find("context") != json.end() && json["context"].is_object()) read_context(json["context"], &run);
  std::map<std::string, std::size_t> places;
  CaseComplaints about_cases;
  for (const Json& entry : json["benchmarks"]) read_case(entry, &run, &places, &about_cases);
  about_cases.report(file, complaints);
  if (run.cases.empty()) throw InputError(file + ": no case in it can be used");
  for (Case& c : run.cases) {
    if (!c.error.empty()) c.repeats.clear();  // one wrong answer is enough
    std::sort(c.repeats.begin(), c.repeats.end(),
              [](const Repeat& a, const Repeat& b) { return a.seconds < b.seconds; });
  }
  return run;
}

Run read_run(const std::string& path, Complaints* complaints) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) throw InputError(path + ": it cannot be read");
  return parse_run(path, {std::istreambuf_iterator<char>(file), {}}, complaints);
}

}  // namespace prefixshare::report
