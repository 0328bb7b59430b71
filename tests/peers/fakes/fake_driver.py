# SPDX-License-Identifier: Apache-2.0
"""A driver without a library: fake_driver.py BEHAVIOUR THREADS answers the first case, then does as it is told."""

import json
import os
import sys
import time


def tell(**line):
    print(json.dumps(line), flush=True)


def answer(case, threads):
    tell(begin=case["name"])
    tell(
        benchmark={
            "name": f"{case['name']}/threads:{threads}/fake",
            "run_type": "iteration",
            "real_time": 1.5,
            "time_unit": "ms",
            "label": "made up",
            "max_error": 0.0,
            "busy": 0,
        }
    )


def main(behaviour, threads):
    request = json.load(sys.stdin)
    if behaviour == "missing":
        return tell(missing="No module named 'fake'")
    tell(peer="fake 1.0")
    first, *others = request["cases"]
    answer(first, threads)
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
    if behaviour == "leave":
        return sys.exit(3)
    tell(declined="too hard")
    for case in others[1:]:
        answer(case, threads)
    return None


main(sys.argv[1], int(sys.argv[2]))
