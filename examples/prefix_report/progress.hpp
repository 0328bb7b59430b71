// SPDX-License-Identifier: Apache-2.0
// A progress bar on stderr, if that is a terminal.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <string>

namespace prefix_report {

class Progress {
 public:
  explicit Progress(int steps) : steps_(steps), shown_(isatty(STDERR_FILENO) == 1) {}
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// The next step begins.
  void step(const std::string& what) {
    done_ = done_ < steps_ ? done_ + 1 : steps_;
    if (!shown_) return;
    const int filled = (done_ - 1) * kWidth / steps_;
    const std::string bar = std::string(static_cast<std::size_t>(filled), '#') +
                            std::string(static_cast<std::size_t>(kWidth - filled), '.');
    std::fprintf(stderr, "\r\033[K[%s] %s", bar.c_str(), what.c_str());
    std::fflush(stderr);
  }
  void clear() const {
    if (shown_) std::fputs("\r\033[K", stderr);
  }

 private:
  static constexpr int kWidth = 30;
  int steps_;
  int done_ = 0;
  bool shown_;
};

}  // namespace prefix_report
