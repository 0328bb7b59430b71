#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_links.sh <project folder>: every relative link of the pages leads to a file, and the pages are ASCII.
set -u
cd "$1" || exit 2
failed=0
for page in README.md CHANGELOG.md CONTRIBUTING.md docs/*.md docs/*/*.md; do
  for link in $(sed '/^```/,/^```/d' "$page" | grep -o '](\([^)#]*\)' | sed 's/^](//' | grep -v '^https\?:'); do
    [ -e "$(dirname "$page")/$link" ] && continue
    echo "$page: no file $link"
    failed=1
  done
  if LC_ALL=C grep -nH '[^ -~[:space:]]' "$page"; then
    failed=1
  fi
done
exit $failed
