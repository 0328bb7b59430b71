// SPDX-License-Identifier: Apache-2.0
// The version numbers, the one source of truth: CMake parses this file.
#pragma once

#define PREFIXSHARE_VERSION_MAJOR 0
#define PREFIXSHARE_VERSION_MINOR 1
#define PREFIXSHARE_VERSION_PATCH 0
