// SPDX-License-Identifier: Apache-2.0
// The whole reference. The only headers of the library that need Eigen.
#pragma once

#include "prefixshare/reference/draft_tree.hpp"
#include "prefixshare/reference/kv_append.hpp"
#include "prefixshare/reference/matrix.hpp"
#include "prefixshare/reference/merge_states.hpp"
#include "prefixshare/reference/register.hpp"
#include "prefixshare/reference/rope.hpp"
#include "prefixshare/reference/rope_rebase.hpp"
#include "prefixshare/reference/tree_attention.hpp"
