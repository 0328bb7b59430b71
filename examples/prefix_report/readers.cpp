// SPDX-License-Identifier: Apache-2.0
// The three input formats, line by line.
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "traffic.hpp"

namespace prefix_report {

namespace {

using Json = nlohmann::json;

/// A JSONL file: one object per line; errors name the file and the line.
class Lines {
 public:
  explicit Lines(const std::string& file) : file_(file), stream_(file) {
    if (!stream_) throw InputError(file + ": cannot be opened");
    if (stream_.peek() == std::ifstream::traits_type::eof()) throw InputError(file + ": is empty or not a file");
  }

  /// The next object; false at the end. Blank lines are skipped.
  bool next(Json* object) {
    std::string text;
    while (std::getline(stream_, text)) {
      ++line_;
      if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
      try {
        *object = Json::parse(text);
      } catch (const Json::parse_error& error) {
        fail("not valid JSON at byte " + std::to_string(error.byte));
      }
      if (!object->is_object()) fail("not a JSON object");
      return true;
    }
    return false;
  }

  /// A string, integer or array member.
  const Json& member(const Json& object, const char* key, Json::value_t type) const {
    const auto found = object.find(key);
    if (found == object.end()) fail(std::string("has no \"") + key + "\"");
    const bool is_integer = found->is_number_integer() && type == Json::value_t::number_integer;
    if (found->type() != type && !is_integer) fail(std::string("\"") + key + "\" is not " + describe(type));
    return *found;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(file_ + ":" + std::to_string(line_) + ": " + what);
  }
  [[noreturn]] void fail_file(const std::string& what) const { throw InputError(file_ + ": " + what); }

 private:
  static const char* describe(Json::value_t type) {
    return type == Json::value_t::string ? "a string" : type == Json::value_t::array ? "an array" : "an integer";
  }

  std::string file_;
  std::ifstream stream_;
  std::int64_t line_ = 0;
};

void append(const std::string& text, Traffic* traffic) {
  for (const char byte : text) traffic->tokens.push_back(static_cast<unsigned char>(byte));
}

void end_sequence(const Lines& lines, std::int64_t output, Traffic* traffic) {
  const std::int64_t end = static_cast<std::int64_t>(traffic->tokens.size());
  if (end - traffic->offsets.back() > std::numeric_limits<std::int32_t>::max()) lines.fail("a sequence is too long");
  traffic->offsets.push_back(end);
  traffic->outputs.push_back(static_cast<std::int32_t>(output));
}

/// A sequence of a prompt and what a model wrote behind it.
void append_pair(const Lines& lines, const std::string& prompt, const std::string& output, Traffic* traffic) {
  append(prompt, traffic);
  append(output, traffic);
  end_sequence(lines, static_cast<std::int64_t>(output.size()), traffic);
}

/// {"prompt": "...", "completions": ["...", ...]}
void read_completions(const Lines& lines, const Json& object, Traffic* traffic) {
  const std::string prompt = lines.member(object, "prompt", Json::value_t::string);
  for (const Json& completion : lines.member(object, "completions", Json::value_t::array)) {
    if (!completion.is_string()) lines.fail("\"completions\" holds something that is not a string");
    append_pair(lines, prompt, completion, traffic);
  }
}

std::string question_of(const Lines& lines, const Json& object) {
  return "Q: " + lines.member(object, "question", Json::value_t::string).get<std::string>() + "\nA: ";
}

/// {"question": "...", "ground_truth": "...", "<model>": {"solution": "..."}, ...}: a sequence per model.
void read_solutions(const Lines& lines, const Json& object, const std::string& header, Traffic* traffic) {
  const std::string prompt = header + question_of(lines, object);
  const std::int32_t before = traffic->sequences();
  for (const Json& value : object) {
    if (!value.is_object()) continue;
    append_pair(lines, prompt, lines.member(value, "solution", Json::value_t::string), traffic);
  }
  if (traffic->sequences() == before) lines.fail("has no object with a \"solution\"");
}

/// {"input_length": tokens, "hash_ids": [id of each 512-token block of the prompt, ...], "output_length": tokens, ...};
/// the output may be missing.
class TraceReader {
 public:
  void read(const Lines& lines, const Json& object, Traffic* traffic) {
    const std::int64_t length = token_count(lines, object, "input_length");
    const std::int64_t output = object.contains("output_length") ? token_count(lines, object, "output_length") : -1;
    const Json& ids = lines.member(object, "hash_ids", Json::value_t::array);
    const std::int64_t blocks = (length + kTraceBlock - 1) / kTraceBlock;
    if (static_cast<std::int64_t>(ids.size()) != blocks) {
      lines.fail("\"hash_ids\" has " + std::to_string(ids.size()) + " blocks, " + std::to_string(length) +
                 " tokens need " + std::to_string(blocks));
    }
    for (const Json& id : ids) {
      if (!id.is_number_integer()) lines.fail("\"hash_ids\" holds something that is not an integer");
      const std::int32_t fresh = static_cast<std::int32_t>(blocks_.size());
      traffic->tokens.push_back(blocks_.emplace(id.get<std::int64_t>(), fresh).first->second);
    }
    traffic->lengths.push_back(static_cast<std::int32_t>(length));
    traffic->blocks = static_cast<std::int64_t>(blocks_.size());
    end_sequence(lines, output, traffic);
  }

 private:
  static std::int64_t token_count(const Lines& lines, const Json& object, const char* key) {
    const std::int64_t count = lines.member(object, key, Json::value_t::number_integer);
    if (count < 0) lines.fail(std::string("\"") + key + "\" is negative: " + std::to_string(count));
    if (count > std::numeric_limits<std::int32_t>::max()) lines.fail(std::string("\"") + key + "\" is too large");
    return count;
  }

  std::unordered_map<std::int64_t, std::int32_t> blocks_;
};

Format detect(const Lines& lines, const Json& object) {
  if (object.contains("hash_ids")) return Format::trace;
  if (object.contains("completions")) return Format::completions;
  if (object.contains("question")) return Format::gsm8k;
  lines.fail("has neither \"completions\" nor \"question\" nor \"hash_ids\": unknown format");
}

/// The header: the file's own first questions with their true answers.
std::string read_header(Lines& lines, Json& object, std::int64_t questions) {
  std::string header;
  for (std::int64_t i = 0; i < questions; ++i) {
    const std::string answer = lines.member(object, "ground_truth", Json::value_t::string);
    header += question_of(lines, object) + answer + "\n\n";
    if (!lines.next(&object)) {
      lines.fail_file("no question is left after the " + std::to_string(questions) + " worked ones of the header");
    }
  }
  return header;
}

}  // namespace

Traffic read_traffic(const Source& source) {
  Lines lines(source.input);
  Json object;
  if (!lines.next(&object)) lines.fail_file("has no line");
  Traffic traffic;
  traffic.format = source.format == Format::detect ? detect(lines, object) : source.format;
  std::string header;
  if (traffic.format == Format::gsm8k) header = read_header(lines, object, source.few_shot);
  traffic.header_bytes = static_cast<std::int64_t>(header.size());

  const std::int64_t limit = traffic.is_trace() ? source.requests : source.groups;
  TraceReader trace;
  do {
    if (limit >= 0 && traffic.groups == limit) break;
    if (traffic.format == Format::completions) read_completions(lines, object, &traffic);
    if (traffic.format == Format::gsm8k) read_solutions(lines, object, header, &traffic);
    if (traffic.format == Format::trace) trace.read(lines, object, &traffic);
    ++traffic.groups;
  } while (lines.next(&object));
  if (traffic.tokens.empty()) lines.fail_file("has no tokens");
  return traffic;
}

}  // namespace prefix_report
