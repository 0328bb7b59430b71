// SPDX-License-Identifier: Apache-2.0
// The file of a stage's results: a first line that says what was measured on what, then a line per case, each written
// when the case is done. Whatever ends the program, they stay, and a later run can go on from them.
#pragma once

#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "gpu/harness/record.hpp"

namespace prefixshare::gpu {

/// The records of a file; what is no record, such as half a line at the end, is left out.
inline std::vector<Record> read_records(const std::string& path) {
  std::vector<Record> records;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    Record record;
    if (Record::parse(line, &record)) records.push_back(record);
  }
  return records;
}

class Results {
 public:
  /// Starts the file, or with `resume` goes on from what it holds, if that is of the same stage, commit and device.
  Results(const std::string& path, const Record& head, bool resume) : path_(path) {
    std::vector<Record> records;
    if (resume) records = read_records(path);
    for (const char* key : {"stage", "commit", "device"}) {
      if (records.empty() || records[0].text(key) == head.text(key)) continue;
      throw std::runtime_error(path + " has the " + key + " '" + records[0].text(key) + "', not '" + head.text(key) +
                               "': name another folder, or leave out --resume");
    }
    file_.open(path, std::ios::trunc);
    write(head);
    for (std::size_t i = 1; i < records.size(); ++i) add(records[i]);
  }

  void add(const Record& line) {
    write(line);
    lines_.push_back(line);
  }
  /// Of cases.
  const std::vector<Record>& lines() const noexcept { return lines_; }
  bool has(const std::string& name) const {
    for (const Record& line : lines_) {
      if (line.text("case") == name) return true;
    }
    return false;
  }

 private:
  void write(const Record& line) {
    file_ << line.json() << std::endl;
    if (!file_) throw std::runtime_error("cannot write " + path_);
  }

  std::string path_;
  std::ofstream file_;
  std::vector<Record> lines_;
};

}  // namespace prefixshare::gpu
