# SPDX-License-Identifier: Apache-2.0
"""A peer that sees a key too few at the beginning, or a key too many where there is one; beside a right layout."""

import good

TYPES = good.TYPES


def start(threads):
    return "0.1"


def layouts(problem):
    yield from good.layouts(problem)
    if problem.rows > 1:
        yield "a key too many", lambda: (lambda: good.attend(problem, more_keys=1), lambda o: o)
    else:
        yield "a key too few", lambda: (lambda: good.attend(problem, first_key=1), lambda o: o)
