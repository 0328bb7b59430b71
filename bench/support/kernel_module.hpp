// SPDX-License-Identifier: Apache-2.0
// Kernels of others, from shared libraries that prefixshare/testing/kernel_module.hpp describes.
#pragma once

#include <string>
#include <vector>

#include "prefixshare/context.hpp"

namespace prefixshare::bench {

/// Loads the library, for as long as the process lives, and puts its kernels into the context: their names, each once.
/// Throws OptionError with one line where there is no such library, it was made for other headers, or it adds nothing.
std::vector<std::string> load_kernels(const std::string& file, Context* context);

}  // namespace prefixshare::bench
