// SPDX-License-Identifier: Apache-2.0
#include "support/kernel_module.hpp"

#include <dlfcn.h>

#include <cstdint>
#include <set>
#include <utility>

#include "prefixshare/testing/kernel_module.hpp"
#include "support/options.hpp"

namespace prefixshare::bench {

namespace {

/// Which operator's list has which name.
std::set<std::pair<int, std::string>> entries_of(Context* context) {
  std::set<std::pair<int, std::string>> entries;
  int op = 0;
  prefixshare::detail::for_each_list(context, [&](const auto& list) {
    for (std::int32_t i = 0; i < list.count; ++i) entries.emplace(op, list.entries[i].name);
    ++op;
  });
  return entries;
}

}  // namespace

std::vector<std::string> load_kernels(const std::string& file, Context* context) {
  const auto refuse = [&](const std::string& why) { throw OptionError("--kernel=" + file + ": " + why); };
  const std::string path = file.find('/') == std::string::npos ? "./" + file : file;  // else the system's folders
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) refuse(dlerror());
  const auto add = reinterpret_cast<testing::AddKernels>(dlsym(library, testing::kAddKernels));
  if (add == nullptr) refuse("it has no PREFIXSHARE_KERNEL_MODULE of this version");
  const auto before = entries_of(context);
  Status status;
  add(sizeof(Context), context, &status);
  if (!status.ok()) refuse(to_string(status));
  std::set<std::string> added;
  for (const auto& entry : entries_of(context)) {
    if (before.count(entry) == 0) added.insert(entry.second);
  }
  if (added.empty()) refuse("it adds no kernel");
  return {added.begin(), added.end()};
}

}  // namespace prefixshare::bench
