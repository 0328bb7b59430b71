// SPDX-License-Identifier: Apache-2.0
// The stored run that later runs on a machine of one type are held against.
#pragma once

#include <string>

#include "report/run.hpp"

namespace prefixshare::report {

/// FOLDER/MACHINE.json. Throws InputError if the run does not say its machine, or not by a name of a file.
std::string baseline_path(const std::string& folder, const Run& run);

/// Writes what a comparison reads of the run, in Google Benchmark's format with a line per case, and returns the path.
/// Throws InputError if a case failed or was disturbed: the file is what others are measured by.
std::string store_baseline(const std::string& folder, const Run& run);

}  // namespace prefixshare::report
