// SPDX-License-Identifier: Apache-2.0
// The Vec of the region that this source is.
#pragma once

#include PREFIXSHARE_REGION_VECTOR
