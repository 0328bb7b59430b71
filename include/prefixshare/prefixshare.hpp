// SPDX-License-Identifier: Apache-2.0
// Everything that needs no extra dependency: contracts, forest, plan, dispatch.
#pragma once

#include "prefixshare/context.hpp"
#include "prefixshare/counters.hpp"
#include "prefixshare/draft_tree.hpp"
#include "prefixshare/dtype.hpp"
#include "prefixshare/engine_layouts.hpp"
#include "prefixshare/forest.hpp"
#include "prefixshare/kv_append.hpp"
#include "prefixshare/live_forest.hpp"
#include "prefixshare/merge_states.hpp"
#include "prefixshare/pack_segment.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/rope.hpp"
#include "prefixshare/rope_rebase.hpp"
#include "prefixshare/shared_prefix_attention.hpp"
#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/tensor.hpp"
#include "prefixshare/thread_pool.hpp"
#include "prefixshare/tree_attention.hpp"
#include "prefixshare/version.hpp"
