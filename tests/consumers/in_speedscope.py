"""speedscope, its schema and its application, and folded stacks."""

import json
import os
from collections import Counter
from pathlib import Path

from traces import HERE, run
from truth import equal


def sampled(source):
    """ns in samples, and threads that have some, of the spools."""
    ns, threads = 0, Counter()
    for index, spool in enumerate(source.read):
        weight, thread = spool.column("sample", "weight_ns", "thread")
        inside = spool.inside("sample")
        ns += int(weight[inside].sum())
        threads.update((index, number) for number in thread[inside].tolist())
    return ns, len(threads)


def speedscope(source):
    """The file follows the schema, and its weights are the spools'; the application opens it."""
    import jsonschema

    package = Path(os.environ["OMNIPROF_NODE_MODULES"]) / "speedscope/dist/release"
    schema = json.loads((package / "file-format-schema.json").read_text())
    path = source.export("speedscope")
    profile = json.loads(path.read_text())
    jsonschema.validate(profile, schema)
    ns, threads = sampled(source)
    # Equal stacks in a row are one sample of their common weight.
    weights = sum(sum(thread["weights"]) for thread in profile["profiles"])
    equal("ns in samples", weights, ns)
    equal("threads", len(profile["profiles"]), threads)
    if not threads:
        return
    # Of several profiles the page counts which one it shows.
    counter = f"(1/{threads})" if threads > 1 else profile["profiles"][0]["name"]
    shown = json.loads(run("node", HERE / "speedscope.mjs", path, counter))
    equal("faults of the page", shown["faults"], [])
    equal(f"the page says {counter}", counter in shown["shown"], True)


def folded(source):
    text = source.export("folded").read_text()
    weights = [int(line.rsplit(" ", 1)[1]) for line in text.splitlines()]
    ns, _ = sampled(source)
    equal("stacks without weight", sum(weight <= 0 for weight in weights), 0)
    # Each line is rounded down to a microsecond, and what is below it is left out.
    lost_ns = ns - sum(weights) * 1000
    equal("ns lost by rounding", 0 <= lost_ns < 1000 * (len(weights) + 1), True)
    print(f"   stacks: {len(weights)}, ns lost: {lost_ns}")
