// SPDX-License-Identifier: Apache-2.0
// Status: its text, and how it is asked.
#include "prefixshare/status.hpp"

#include <stdexcept>
#include <type_traits>

#include "support/catch.hpp"

using namespace prefixshare;

TEST_CASE("status: plain data, false when ok", "[status]") {
  STATIC_REQUIRE(std::is_trivially_copyable_v<Status>);
  STATIC_REQUIRE(std::is_standard_layout_v<Status>);
  const Status ok;
  CHECK(ok.ok());
  CHECK_FALSE(static_cast<bool>(ok));
  CHECK(to_string(ok) == "ok");
  Status failed;
  failed.code = StatusCode::stale_plan;
  CHECK_FALSE(failed.ok());
  CHECK(static_cast<bool>(failed));
}

TEST_CASE("status: the text names operator, argument, field, got, want and code", "[status]") {
  Status s{StatusCode::invalid_argument, StatusUnit::number, "tree_attention", "q", "shape[1]", "==", -1, 8, 32};
  CHECK(to_string(s) == "tree_attention: q.shape[1] got 8, want == 32 (invalid_argument)");
  s.index = 3;
  s.field = "";
  s.relation = ">=";
  CHECK(to_string(s) == "tree_attention: q[3] got 8, want >= 32 (invalid_argument)");
}

TEST_CASE("status: quantities read in their own words", "[status]") {
  Status s{StatusCode::unsupported, StatusUnit::dtype, "op", "x", "dtype", "==", -1, 3, 1};
  CHECK(to_string(s) == "op: x.dtype got bf16, want == f32 (unsupported)");
  s.got = 9;
  CHECK(to_string(s) == "op: x.dtype got dtype 9, want == f32 (unsupported)");
  s = {StatusCode::backend_unavailable, StatusUnit::space, "op", "x", "space", "==", -1, 1, 0};
  CHECK(to_string(s) == "op: x.space got device, want == host (backend_unavailable)");
  s = {StatusCode::workspace_too_small, StatusUnit::bytes, "op", "workspace", "", ">=", -1, 255, 256};
  CHECK(to_string(s) == "op: workspace got 255 bytes, want >= 256 bytes (workspace_too_small)");
  s = {StatusCode::invalid_argument, StatusUnit::pointer, "op", "x", "data", "!=", -1, 0, 0};
  CHECK(to_string(s) == "op: x.data got null, want != null (invalid_argument)");
}

TEST_CASE("status: every code has a name of its own", "[status]") {
  std::string seen = ",";
  for (int code = 0; code <= static_cast<int>(StatusCode::device_error); ++code) {
    const std::string name = to_string(static_cast<StatusCode>(code));
    CHECK(name != "unknown");
    CHECK(seen.find("," + name + ",") == std::string::npos);
    seen += name + ",";
  }
  CHECK(std::string(to_string(static_cast<StatusCode>(200))) == "unknown");
}

TEST_CASE("status: throw_if_error throws the text, and only on failure", "[status]") {
  CHECK_NOTHROW(throw_if_error(Status{}));
  const Status s{StatusCode::device_error, StatusUnit::number, "op", "x", "", "==", -1, 1, 0};
  CHECK_THROWS_AS(throw_if_error(s), std::runtime_error);
  CHECK_THROWS_WITH(throw_if_error(s), to_string(s));
}
