// SPDX-License-Identifier: Apache-2.0
// For tests of programs: files to give them, and what they answer.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "support/catch.hpp"

namespace prefixshare::tests {

/// A file that is gone with the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) {
    path_ = std::filesystem::temp_directory_path() /
            ("prefixshare_test." + std::to_string(getpid()) + "." + std::to_string(count_++));
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::string path() const { return path_.string(); }

 private:
  static inline int count_ = 0;
  std::filesystem::path path_;
};

inline std::string read_file(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Answer {
  int code = -1;
  std::string out, err;
};

/// Runs a program through the shell.
inline Answer run(const std::string& program, const std::string& arguments) {
  const TemporaryFile out(""), err("");
  const std::string command = program + " " + arguments + " >" + out.path() + " 2>" + err.path();
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out.path()), read_file(err.path())};
}

/// Arguments that a program must refuse, and what it must say of them.
struct BadArguments {
  std::string arguments, message;
};
/// Each is refused with exit code 2, in one line on the error stream and nothing else.
inline void check_refused(const std::string& program, const std::vector<BadArguments>& cases) {
  for (const BadArguments& bad : cases) {
    const Answer answer = run(program, bad.arguments);
    INFO(bad.arguments << ": " << answer.err);
    CHECK(answer.code == 2);
    CHECK(answer.out.empty());
    CHECK(answer.err.find(bad.message) != std::string::npos);
    CHECK(answer.err.find('\n') == answer.err.size() - 1);
  }
}

}  // namespace prefixshare::tests
