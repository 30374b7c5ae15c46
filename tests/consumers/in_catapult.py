"""Catapult, which is chrome://tracing, in Chromium."""

import json
from collections import Counter

from traces import HERE, run
from truth import equal, near, slices_equal


def catapult(source):
    """Slices, durations and arrows of Kineto JSON.

    Of a launch with several arrows, a graph's, it draws the one to the first work and says of each
    other that its beginning is missing, in the traces of torch.profiler as well. It says so of work
    whose launch was not recorded, too.
    """
    truth = source.truth
    out = json.loads(run("node", HERE / "catapult.mjs", source.export("kineto-gz")))
    equal("faults of the page", out["faults"], [])
    found = {category: (one["count"], one["ns"]) for category, one in out["slices"].items()}
    slices_equal(truth, found)
    warnings = Counter(warning.split(" id: ")[0] for warning in out["warnings"])
    more = truth.work() - truth.launches()
    equal("warnings", dict(warnings), {"Found flow phase f for": more} if more else {})
    arrows = out["arrows"]
    equal("arrows between strangers", arrows["strangers"], 0)
    equal("arrows", arrows["count"], truth.launches())
    if not more:
        near("ns of what arrows lead to", arrows["ns"], truth.arrow_ns(), truth.arrow_count())
