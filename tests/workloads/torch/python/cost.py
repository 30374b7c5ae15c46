"""What recording an operator costs, in turn with torch.profiler: one line of JSON.

`cost.py [OPERATORS] [ROUNDS]`. One thread, `x.add_(y)` on 16 floats. Each way runs once a round,
one right after the other, and is told as the median over the rounds of what it added to the loop
that was run before it without a profiler, in processor time of the thread.
"""

import json
import os
import statistics
import sys
import tempfile
import time

import torch

import probe


def loop(count):
    x, y = torch.zeros(16), torch.ones(16)
    add = x.add_
    begin = time.thread_time_ns()
    for _ in range(count):
        # Not a number: that is made a tensor first, by four operators more.
        add(y)
    return (time.thread_time_ns() - begin) / count


def ours(shapes):
    def run(count):
        with tempfile.TemporaryDirectory() as folder:
            spool = os.path.join(folder, "cost.spool")
            with probe.Probe(shapes=shapes, spool=spool) as recording:
                cost = loop(count)
            kept = recording.count
        return cost, kept

    return run


def kineto(shapes):
    def run(count):
        activities = [torch.profiler.ProfilerActivity.CPU]
        profile = torch.profiler.profile(activities=activities, record_shapes=shapes)
        with profile:
            cost = loop(count)
        return cost, count

    return run


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 9
    ways = {
        "ours": ours(False),
        "ours_shapes": ours(True),
        "kineto": kineto(False),
        "kineto_shapes": kineto(True),
    }
    added = {name: [] for name in ways}
    off, after, kept = [], [], 1.0
    with torch.no_grad():
        loop(count)
        for run in ways.values():
            run(1000)
        for _ in range(rounds):
            for name, run in ways.items():
                before = loop(count)
                cost, rows = run(count)
                off.append(before)
                added[name].append(cost - before)
                if name.startswith("ours"):
                    kept = min(kept, rows / count)
                    after.append(loop(count) - before)
    result = {name: statistics.median(values) for name, values in added.items()}
    result["off"] = statistics.median(off)
    result["after"] = statistics.median(after)
    result["kept"] = kept
    print(json.dumps(result))


if __name__ == "__main__":
    main()
