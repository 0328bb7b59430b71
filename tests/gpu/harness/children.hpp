// SPDX-License-Identifier: Apache-2.0
// Runs cases in child processes, under a watch: what hangs is killed, what crashes takes nobody with it, and the cases
// that are left go on in a new child.
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gpu/harness/clock.hpp"
#include "gpu/harness/stage.hpp"

namespace prefixshare::gpu {

/// Runs `cases[i]` for each i of `todo`, in order, and calls report(i, outcome, line) after each. The line has the
/// fields "case", "outcome", "text" where there is one, "seconds", and the figures. Stops at `deadline` between cases,
/// or when a killed child does not go away; returns how many were run.
class Children {
 public:
  using Report = std::function<void(std::size_t index, Outcome outcome, const Record& line)>;

  Children(const std::vector<Case>& cases, Report report, Clock::time_point deadline)
      : cases_(cases), report_(std::move(report)), deadline_(deadline) {}

  std::size_t run(const std::vector<std::size_t>& todo) {
    std::size_t done = 0;
    while (done < todo.size() && Clock::now() < deadline_ && !stuck_) {
      if (hangs_[cases_[todo[done]].group()] >= kMostHangs) {
        report_(todo[done], Outcome::skipped,
                line_of(todo[done], Outcome::skipped, std::to_string(kMostHangs) + " others of its group hang", 0));
        ++done;
        continue;
      }
      std::vector<std::size_t> batch;  // the rest of one group
      for (std::size_t t = done; t < todo.size() && cases_[todo[t]].group() == cases_[todo[done]].group(); ++t) {
        batch.push_back(todo[t]);
      }
      done += run_child(batch);
    }
    return done;
  }

 private:
  static constexpr double kSecondsToDie = 30;
  static constexpr int kMostHangs = 3;  // of a group, whose other cases are then not worth the time

  // ---- In the child

  static void send(int pipe, const std::string& line) {
    for (std::size_t at = 0; at < line.size();) {
      const ssize_t n = write(pipe, line.data() + at, line.size() - at);
      if (n <= 0) _exit(1);  // nobody listens
      at += static_cast<std::size_t>(n);
    }
  }

  [[noreturn]] void work(const std::vector<std::size_t>& batch, int pipe) const {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (const std::size_t i : batch) {
      send(pipe, "begin\n");
      const Clock::time_point begin = Clock::now();
      Result result;
      bool usable = true;
      try {
        result = cases_[i].run();
      } catch (const std::exception& error) {
        result = Result::failure(error.what());
        usable = false;
      }
      const double seconds = seconds_since(begin);
      send(pipe, line_of(i, result.outcome, result.text, seconds).append(result.figures).json() + "\n");
      if (!usable) break;
    }
    std::fflush(nullptr);
    _exit(0);  // what the parent has open is not the child's to close
  }

  // ---- In the parent

  Record line_of(std::size_t i, Outcome outcome, const std::string& text, double seconds) const {
    Record line;
    line.add("case", cases_[i].name).add("outcome", to_string(outcome));
    if (!text.empty()) line.add("text", text);
    return line.add("seconds", std::round(seconds * 1000) / 1000);
  }

  static Outcome outcome_of(const Record& line) {
    for (const Outcome o : {Outcome::passed, Outcome::failed, Outcome::skipped}) {
      if (line.text("outcome") == to_string(o)) return o;
    }
    return Outcome::crashed;
  }

  /// The next line from the child; empty at its end or, with *late, after `seconds`.
  std::string receive(int pipe, double seconds, bool* late) {
    const Clock::time_point begin = Clock::now();
    for (;;) {
      const std::size_t end = received_.find('\n');
      if (end != std::string::npos) {
        const std::string line = received_.substr(0, end);
        received_.erase(0, end + 1);
        return line;
      }
      const double left = seconds - seconds_since(begin);
      pollfd wait{pipe, POLLIN, 0};
      *late = left <= 0 || poll(&wait, 1, static_cast<int>(std::ceil(left * 1000))) == 0;
      if (*late) return "";
      char buffer[4096];
      const ssize_t n = read(pipe, buffer, sizeof buffer);
      if (n <= 0) return "";
      received_.append(buffer, static_cast<std::size_t>(n));
    }
  }

  /// Kills the child, if it lives; how it ended. A process whose kernel never ends may not go: then nothing else
  /// starts.
  int bury(pid_t child, bool kill_it) {
    if (kill_it) kill(child, SIGKILL);
    int status = 0;
    const Clock::time_point begin = Clock::now();
    while (waitpid(child, &status, WNOHANG) == 0) {
      stuck_ = seconds_since(begin) > kSecondsToDie;
      if (stuck_) break;
      usleep(2000);
    }
    return status;
  }

  static std::string death(int status) {
    if (WIFSIGNALED(status)) return "killed by signal " + std::to_string(WTERMSIG(status));
    return "ended with exit code " + std::to_string(WEXITSTATUS(status));
  }

  /// How many cases of the batch came to an end.
  std::size_t run_child(const std::vector<std::size_t>& batch) {
    int ends[2];
    if (pipe(ends) != 0) throw std::runtime_error("no pipe");
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child < 0) throw std::runtime_error("no child process");
    if (child == 0) {
      close(ends[0]);
      work(batch, ends[1]);
    }
    close(ends[1]);
    received_.clear();
    std::size_t done = 0;
    bool gone = false;
    while (done < batch.size() && !gone && Clock::now() < deadline_) {
      gone = !follow_case(ends[0], child, batch[done]);
      if (!gone || reported_) ++done;
    }
    if (!gone) bury(child, done < batch.size());
    close(ends[0]);
    return done;
  }

  /// Waits for one case of the child. False if the child is gone; reported_ says whether the case came to an end.
  bool follow_case(int pipe, pid_t child, std::size_t i) {
    bool late = false;
    reported_ = true;
    const std::string begin = receive(pipe, kSecondsToDie, &late);
    if (begin != "begin" && !late) {
      const int status = bury(child, false);
      reported_ = !(WIFEXITED(status) && WEXITSTATUS(status) == 0);  // else it gave up after a failure: a new one
      if (reported_) report_(i, Outcome::crashed, line_of(i, Outcome::crashed, death(status), 0));
      return false;
    }
    const Clock::time_point started = Clock::now();
    const std::string text = late ? "" : receive(pipe, cases_[i].seconds, &late);
    Record line;
    if (Record::parse(text, &line)) {
      report_(i, outcome_of(line), line);
      return true;
    }
    const int status = bury(child, late);
    const Outcome outcome = late ? Outcome::timed_out : Outcome::crashed;
    if (late) ++hangs_[cases_[i].group()];
    std::string why = late ? "no end after " + Record().add("", cases_[i].seconds).text("") + " s" : death(status);
    if (stuck_) why += ", and its process does not die";
    report_(i, outcome, line_of(i, outcome, why, seconds_since(started)));
    return false;
  }

  const std::vector<Case>& cases_;
  Report report_;
  Clock::time_point deadline_;
  std::string received_;
  std::map<std::string, int> hangs_;  ///< by group
  bool stuck_ = false;
  bool reported_ = false;
};

}  // namespace prefixshare::gpu
