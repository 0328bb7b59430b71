# SPDX-License-Identifier: Apache-2.0
"""A driver without a library: fake_driver.py BEHAVIOUR THREADS does as it is told in the second case."""

import json
import os
import sys
import time


def tell(**line):
    print(json.dumps(line), flush=True)


def answer(case, runner):
    tell(begin=case["name"])
    tell(
        benchmark={
            "name": f"{case['name']}/{runner}",
            "run_type": "iteration",
            "real_time": 1.5,
            "time_unit": "ms",
            "label": "made up",
            "max_error": 0.0,
            "busy": 0,
        }
    )


def main(behaviour):
    request = json.load(sys.stdin)
    if behaviour == "missing":
        return tell(missing="No module named 'fake'")
    tell(peer="fake 1.0")
    first, *others = request["cases"]
    answer(first, request["runner"])
    tell(begin=others[0]["name"])
    if behaviour == "crash":
        print("out of luck", file=sys.stderr, flush=True)
        os.abort()
    if behaviour == "hang":
        time.sleep(600)
    if behaviour == "garbage":
        print("Segmentation fault (not really)", flush=True)
    if behaviour == "nonsense":
        tell(benchmark={"name": others[0]["name"] + "/threads:1/fake", "real_time": -1})
    if behaviour == "truncated":
        print(json.dumps({"benchmark": {"name": others[0]["name"], "real_time": 1.5}})[:40], flush=True)
        return None
    if behaviour == "endless":
        while True:
            print("x" * 4096, end="", flush=True)
    if behaviour == "leave":
        return sys.exit(3)
    if behaviour == "wrong":
        error = {"error_occurred": True, "error_message": "wrong: sequence 0, row 0 is off by 1"}
        tell(benchmark={"name": f"{others[0]['name']}/{request['runner']}", **error})
    else:
        tell(declined="too hard")
    for case in others[1:]:
        answer(case, request["runner"])
    return None


main(sys.argv[1])
