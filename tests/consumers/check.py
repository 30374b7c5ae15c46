"""Opens our files in the tools that people use, and compares with `omniprof summary --json`.

    check.py OMNIPROF SYNTHESIZE WORK_FOLDER

Each check is a function; it fails by an exception. What nobody but the tool itself can count is
compared with the summary, which is computed from the spools on another way than the exports.
"""

import gzip
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
OMNIPROF, SYNTHESIZE, WORK = sys.argv[1], sys.argv[2], Path(sys.argv[3])
LAUNCHES = 20_000
STEPS = 4
COPY_EVERY = 50

FAULTS = "select name, value from stats where severity in ('error', 'data_loss') and value > 0"


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} {command[1:3]}: {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def perfetto(trace, *queries):
    """The rows of each query, by Perfetto's own trace processor."""
    out = run("node", HERE / "trace_processor.mjs", trace, *queries)
    return [json.loads(line) for line in out.splitlines()]


def number(rows):
    return list(rows[0].values())[0]


def export(spools, output, form, *more):
    run(OMNIPROF, "export", *spools, "--format", form, "--output", output, *more)
    return output


def summary(*paths):
    return json.loads(run(OMNIPROF, "summary", "--json", *paths))


def equal(what, found, wanted):
    if found != wanted:
        raise AssertionError(f"{what}: found {found}, wanted {wanted}")
    print(f"   {what}: {found}")


class Demo:
    """The demo's session: its files, and what the summary says of it."""

    def __init__(self):
        out = run(OMNIPROF, "demo", "--json", "--dir", WORK / "traces", timeout=600)
        self.outcome = json.loads(out)
        self.manifest = self.outcome["manifest"]
        self.directory = Path(self.manifest["directory"])
        if not self.directory.is_absolute():
            self.directory = WORK / "traces" / self.directory
        self.merged = Path(self.outcome["open"])
        self.spools = [
            self.directory / file["path"]
            for worker in self.manifest["workers"]
            for file in worker["files"]
            if file["format"] == "spool"
        ]
        self.summary = summary(*self.spools)

    def rows(self, kind):
        return self.summary["rows"].get(kind, 0)

    def windows(self):
        return sum(len(worker["windows"]) for worker in self.manifest["workers"])


class Synthetic:
    """A spool with the rows of a device backend."""

    def __init__(self):
        self.spool = WORK / "synthetic.spool"
        run(SYNTHESIZE, self.spool, LAUNCHES)
        self.copies = LAUNCHES // COPY_EVERY
        self.kernels = LAUNCHES - self.copies
        self.summary = summary(self.spool)


def manifest_is_whole(demo, synthetic):
    equal("workers", len(demo.manifest["workers"]), 5)
    for worker in demo.manifest["workers"]:
        equal(f"state of stage {worker['stage']}", worker["state"], "complete")
        equal("drops but outside the window", {
            cause: n for cause, n in worker["drops"].items() if cause != "outside_window"
        }, {})
        for file in worker["files"]:
            path = demo.directory / file["path"]
            equal(f"bytes of {path.name}", path.stat().st_size, file["bytes"])


def slices_in_perfetto(demo, trace, summed, windows):
    slices, total, samples, counters, faults = perfetto(
        trace,
        "select count(*) as n from slice",
        "select sum(s.dur) as n from slice s join thread_track t on s.track_id = t.id",
        "select count(*) as n from perf_sample",
        "select count(*) as n from counter c join process_counter_track t on c.track_id = t.id",
        FAULTS,
    )
    equal("faults", faults, [])
    rows = summed["rows"]
    wanted = sum(rows.get(kind, 0) for kind in ("span", "operator", "step", "marker")) + windows
    equal("slices", number(slices), wanted)
    equal("samples", number(samples), rows.get("sample", 0))
    equal("counter values", number(counters), rows.get("counter", 0))
    spans_us = sum(
        row["total_us"] for worker in summed["workers"] for row in worker["tables"]["spans"]
    )
    equal("time in spans, us", round(number(total) / 1e3), round(spans_us))


def perfetto_loads_the_merged_trace(demo, synthetic):
    slices_in_perfetto(demo, demo.merged, demo.summary, demo.windows())
    (processes,) = perfetto(demo.merged, "select count(*) as n from process where pid > 0")
    equal("processes", number(processes), 5)


def perfetto_loads_each_workers_trace(demo, synthetic):
    for worker in demo.manifest["workers"]:
        files = {file["format"]: demo.directory / file["path"] for file in worker["files"]}
        alone = summary(files["spool"])
        slices_in_perfetto(demo, files["pftrace-gz"], alone, len(worker["windows"]))


def perfetto_loads_the_json(demo, synthetic):
    trace = export(demo.spools, WORK / "demo.pt.trace.json.gz", "kineto-gz")
    slices, faults = perfetto(trace, "select count(*) as n from slice where dur > 0", FAULTS)
    equal("faults", faults, [])
    if number(slices) < demo.rows("span"):
        raise AssertionError(f"{number(slices)} slices, {demo.rows('span')} spans")
    print(f"   slices: {number(slices)}")


def perfetto_links_launches_to_kernels(demo, synthetic):
    for form, name in (("pftrace-gz", "s.pftrace.gz"), ("kineto-gz", "s.pt.trace.json.gz")):
        trace = export([synthetic.spool], WORK / name, form)
        flows, kernels, faults = perfetto(
            trace,
            "select count(*) as n from flow",
            "select count(*) as n from slice where name like '%vectorized_elementwise_kernel%'",
            FAULTS,
        )
        print(f"   {form}")
        equal("faults", faults, [])
        equal("flows", number(flows), LAUNCHES)
        equal("kernels", number(kernels), synthetic.kernels)


def full_arguments_load(demo, synthetic):
    trace = export([synthetic.spool], WORK / "full.pftrace.gz", "pftrace-gz", "--args", "full")
    arguments, faults = perfetto(
        trace, "select count(distinct arg_set_id) as n from slice where arg_set_id > 0", FAULTS
    )
    equal("faults", faults, [])
    if number(arguments) < synthetic.kernels:
        raise AssertionError(f"{number(arguments)} slices with arguments")


def official_classes_parse(demo, synthetic):
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

    trace = Trace()
    raw = gzip.decompress(demo.merged.read_bytes())
    trace.ParseFromString(raw)
    begins = ends = 0
    for packet in trace.packet:
        begins += packet.track_event.type == TrackEvent.TYPE_SLICE_BEGIN
        ends += packet.track_event.type == TrackEvent.TYPE_SLICE_END
    equal("slices that end", ends, begins)
    if begins < demo.rows("span"):
        raise AssertionError(f"{begins} slices, {demo.rows('span')} spans")
    equal("bytes written again", len(trace.SerializeToString()), len(raw))


def hta_reads_the_json(demo, synthetic):
    from hta.trace_analysis import TraceAnalysis

    folder = WORK / "hta"
    folder.mkdir()
    for rank in (0, 1):
        spool = WORK / f"hta{rank}.spool"
        run(SYNTHESIZE, spool, LAUNCHES, rank)
        # Everything that HTA reads is an argument.
        export([spool], folder / f"rank{rank}.pt.trace.json.gz", "kineto-gz", "--args", "full")
    # It leaves the last step out unless told otherwise.
    analyzer = TraceAnalysis(trace_dir=str(folder), include_last_profiler_step=True)
    breakdown = analyzer.get_temporal_breakdown(visualize=False)
    equal("ranks", sorted(breakdown["rank"].tolist()), [0, 1])
    kernel_us = sum(row["total_us"] for row in synthetic.summary["stages"][0]["tables"]["kernels"])
    found = float(breakdown.loc[breakdown["rank"] == 0, "compute_time(us)"].iloc[0])
    if abs(found - kernel_us) > kernel_us * 0.001:
        raise AssertionError(f"compute time {found} us, kernels {kernel_us} us")
    print(f"   compute time: {found} us")
    _types, kernels = analyzer.get_gpu_kernel_breakdown(visualize=False, num_kernels=1000)
    if kernels.empty:
        raise AssertionError("no kernel in HTA's breakdown")
    stats = analyzer.get_cuda_kernel_launch_stats(ranks=[0], visualize=False)[0]
    equal("launches", len(stats), LAUNCHES)
    iterations = analyzer.t.get_iterations(0) if hasattr(analyzer.t, "get_iterations") else None
    if iterations is not None:
        equal("iterations", len(iterations), STEPS)


def a_gpus_capture_is_read_alike(demo, synthetic):
    """A capture of one H100, in Perfetto's trace processor and in HTA, against its summary."""
    from hta.trace_analysis import TraceAnalysis

    spool = HERE.parent / "data" / "spool" / "h100.spool"
    summed = summary(spool)
    tables = summed["workers"][0]["tables"]
    kernels = {row["name"]: row for row in tables["kernels"]}
    work = sum(summed["rows"][kind] for kind in ("kernel", "memcpy", "memset"))

    trace = export([spool], WORK / "h100.pftrace.gz", "pftrace-gz")
    count, ns, flows, faults = perfetto(
        trace,
        "select count(*) as n from slice where category = 'kernel'",
        "select sum(dur) as n from slice where category = 'kernel'",
        "select count(*) as n from flow",
        FAULTS,
    )
    equal("faults", faults, [])
    equal("kernels in Perfetto", number(count), summed["rows"]["kernel"])
    kernel_us = sum(row["total_us"] for row in kernels.values())
    equal("time of kernels in Perfetto, us", round(number(ns) / 1e3), round(kernel_us))
    equal("arrows", number(flows), work)

    folder = WORK / "hta-h100"
    folder.mkdir()
    export([spool], folder / "rank0.pt.trace.json.gz", "kineto-gz", "--args", "full")
    analyzer = TraceAnalysis(trace_dir=str(folder), include_last_profiler_step=True)
    _types, found = analyzer.get_gpu_kernel_breakdown(visualize=False, num_kernels=1000)
    for _, row in found.iterrows():
        if row["name"] in kernels:
            wanted = kernels.pop(row["name"])["total_us"]
            equal(f"time of {row['name']} in HTA, us", round(row["sum (us)"], 1), round(wanted, 1))
    equal("kernels that HTA did not see", list(kernels), [])
    frame = analyzer.t.get_trace(0)
    equal("kernels in HTA", int((frame["stream"] >= 0).sum()), work)


def duckdb_and_pandas_read_the_parquet(demo, synthetic):
    import duckdb
    import pandas

    for what, spools, rows in (
        ("demo", demo.spools, demo.summary["rows"]),
        ("synthetic", [synthetic.spool], synthetic.summary["rows"]),
    ):
        folder = export(spools, WORK / f"{what}.parquet", "parquet")
        for kind, count in rows.items():
            (table,) = [t for t in folder.iterdir() if t.name.split(".")[0] == kind]
            found = duckdb.sql(f"select count(*) from '{table}'").fetchall()[0][0]
            equal(f"{what}, {kind} in DuckDB", found, count)
            equal(f"{what}, {kind} in pandas", len(pandas.read_parquet(table)), count)


def sampled_ns(demo):
    """The time that all samples stand for, by the Parquet table."""
    import duckdb

    folder = WORK / "samples.parquet"
    if not folder.exists():
        export(demo.spools, folder, "parquet")
    (table,) = [t for t in folder.iterdir() if t.name.split(".")[0] == "sample"]
    return int(duckdb.sql(f"select sum(weight_ns) from '{table}'").fetchall()[0][0])


def speedscope_validates(demo, synthetic):
    import jsonschema

    schema = json.loads(
        next(
            Path(os.environ["OMNIPROF_NODE_MODULES"]).glob(
                "speedscope/dist/release/file-format-schema.json"
            )
        ).read_text()
    )
    path = export(demo.spools, WORK / "demo.speedscope.json", "speedscope")
    profile = json.loads(path.read_text())
    jsonschema.validate(profile, schema)
    # Equal stacks in a row are one sample of their common weight.
    weight = sum(sum(thread["weights"]) for thread in profile["profiles"])
    equal("time in samples, ns", weight, sampled_ns(demo))


def folded_stacks_add_up(demo, synthetic):
    path = export(demo.spools, WORK / "demo.folded", "folded")
    weights = [int(line.rsplit(" ", 1)[1]) for line in path.read_text().splitlines()]
    if not weights or min(weights) <= 0:
        raise AssertionError(f"{len(weights)} stacks")
    # Each line is rounded down to a microsecond.
    lost_ns = sampled_ns(demo) - sum(weights) * 1000
    if not 0 <= lost_ns < 1000 * len(weights):
        raise AssertionError(f"{lost_ns} ns of {sampled_ns(demo)} are missing")
    print(f"   stacks: {len(weights)}")


def the_ui_shows_it(demo, synthetic):
    picture = Path(os.environ.get("OMNIPROF_PICTURE", WORK / "perfetto-ui.png"))
    counts = json.loads(run("node", HERE / "ui.mjs", demo.merged, picture, timeout=300))
    equal("faults", counts["faults"], 0)
    equal("faults of the page", counts["faultsOfThePage"], [])
    equal("samples", counts["samples"], demo.rows("sample"))
    if counts["slices"] < demo.rows("span"):
        raise AssertionError(f"{counts['slices']} slices, {demo.rows('span')} spans")
    if picture.stat().st_size < 50_000:
        raise AssertionError("the picture is empty")
    print(f"   picture: {picture}")


CHECKS = [
    manifest_is_whole,
    perfetto_loads_the_merged_trace,
    perfetto_loads_each_workers_trace,
    perfetto_loads_the_json,
    perfetto_links_launches_to_kernels,
    full_arguments_load,
    official_classes_parse,
    hta_reads_the_json,
    a_gpus_capture_is_read_alike,
    duckdb_and_pandas_read_the_parquet,
    speedscope_validates,
    folded_stacks_add_up,
    the_ui_shows_it,
]


def main():
    # HTA rounds nanoseconds away without it, and durations become negative.
    os.environ["HTA_DISABLE_NS_ROUNDING"] = "1"
    demo, synthetic = Demo(), Synthetic()
    wanted = sys.argv[4:]
    passed = failed = 0
    for check in CHECKS:
        if wanted and check.__name__ not in wanted:
            continue
        print(f"-- {check.__name__.replace('_', ' ')}", flush=True)
        try:
            check(demo, synthetic)
            passed += 1
        except Exception:
            traceback.print_exc(limit=4, file=sys.stdout)
            print(f"   FAILED: {check.__name__}")
            failed += 1
    print(f"consumers: {passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
