// SPDX-License-Identifier: Apache-2.0
// The sections of a machine's part of the page, one per source file; each is a plot, what to see in it, and its table.
#pragma once

#include <string>
#include <vector>

#include "report/machine_runs.hpp"

namespace prefixshare::report {

// What ran where and when, the ceilings, and whether others disturbed it.
std::string runs_section(const Machine& machine);
// FLOP/s over arithmetic intensity, below the roofs.
std::string roofline_section(const Machine& machine);
// Sharing against not sharing, over prefix length and over batch.
std::string speed_up_section(const Machine& machine);
// How near every implementation comes to the floor.
std::string floor_section(const Machine& machine);
// Prefix length x batch: where sharing pays.
std::string crossover_section(const Machine& machine);
// The planner's decisions: by node, and against the fixed ways of assigning.
std::string trees_section(const Machine& machine);
// Times over commits.
std::string history_section(const Machine& machine);
// Where sharing or an implementation of ours loses.
std::string losses_section(const Machine& machine);
// Every case.
std::string cases_section(const Machine& machine);

/// Marks and names of implementations that appear in a plot.
std::string legend(const Machine& machine, const std::vector<Entry>& shown);

}  // namespace prefixshare::report
