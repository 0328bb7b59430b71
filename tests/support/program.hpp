// SPDX-License-Identifier: Apache-2.0
// What the tests of programs share: files for their input, and runs with what they answer.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

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
  std::string text() const {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  static inline int count_ = 0;
  std::filesystem::path path_;
};

struct Answer {
  int code = -1;
  std::string out, err;
};

inline Answer run_program(const std::string& program, const std::string& arguments) {
  const TemporaryFile out(""), err("");
  const std::string command = program + " " + arguments + " >" + out.path() + " 2>" + err.path();
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, out.text(), err.text()};
}

}  // namespace prefixshare::tests
