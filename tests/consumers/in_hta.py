"""HTA, which reads a folder of one Kineto JSON a rank."""

import contextlib
import logging
import os
import shutil
import warnings
from unittest import mock

from truth import equal, near, slices_equal

# It rounds nanoseconds away without it, and durations become negative.
os.environ["HTA_DISABLE_NS_ROUNDING"] = "1"


def ranks_of(source):
    """A part for each rank: of several stages, the first that has it."""
    ranks = {}
    for part in source.parts():
        ranks.setdefault(part.read[0].header["worker"]["rank"], part)
    return [ranks[rank] for rank in sorted(ranks)]


def open_folder(source):
    """The traces of the source's spools, each a rank of its own, and HTA over them."""
    from hta.common.trace import Trace
    from hta.trace_analysis import TraceAnalysis

    folder = source.folder / "hta"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    for rank, part in enumerate(ranks_of(source)):
        # Everything that HTA reads is an argument.
        trace = part.export("kineto-gz", "--args", "full")
        (folder / f"rank{rank}.pt.trace.json.gz").symlink_to(trace)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)
    with contextlib.ExitStack() as during:
        during.enter_context(contextlib.redirect_stdout(None))
        if not source.whole:
            # Between steps it leaves out what lies behind the last one's end, and work whose
            # launch is not there: where the cut falls decides what that is.
            during.enter_context(mock.patch.object(Trace, "_filter_irrelevant_gpu_kernels"))
        # It leaves the last step out unless told otherwise.
        return TraceAnalysis(trace_dir=str(folder), include_last_profiler_step=True)


def hta(source):
    """Rows, durations and pairs of launch and work of each rank, and the breakdowns' sums."""
    analyzer = open_folder(source)
    equal("ranks", sorted(analyzer.t.get_ranks()), list(range(len(ranks_of(source)))))
    symbols = analyzer.t.symbol_table.get_sym_table()
    for rank, part in enumerate(ranks_of(source)):
        frame = analyzer.t.get_trace(rank)
        sums = frame.groupby("cat")["dur"].agg(["count", "sum"])
        found = {
            symbols[category]: (int(row["count"]), round(row["sum"] * 1e3))
            for category, row in sums.iterrows()
            if category >= 0
        }
        # Collectives that are no kernels have no launch: it leaves them out between steps.
        slices_equal(part.truth, found, but=("communication",) if source.whole else ())
        compare_pairs(part.truth, frame)
    if source.truth.work():
        compare_breakdowns(source, analyzer)


def hta_refuses(source):
    """It takes no trace without calls or work, whoever wrote it: it looks for their columns."""
    try:
        open_folder(source)
    except (KeyError, AttributeError) as error:
        print(f"   refused: {error!r}")
        return
    raise AssertionError("HTA takes it by now: give it to `hta`")


def compare_pairs(truth, frame):
    """By HTA's own join of launches and work."""
    if not truth.arrow_count():
        return
    work = frame[(frame["stream"] >= 0) & (frame["index_correlation"] > 0)]
    launches = frame.set_index("index")["correlation"].reindex(work["index_correlation"])
    equal("pairs", len(work), truth.arrow_count())
    strangers = int((launches.to_numpy() != work["correlation"].to_numpy()).sum())
    equal("pairs of strangers", strangers, 0)
    near("ns of paired work", round(work["dur"].sum() * 1e3), truth.arrow_ns(), truth.work())


def compare_breakdowns(source, analyzer):
    breakdown = analyzer.get_temporal_breakdown(visualize=False)
    _types, kernels = analyzer.get_gpu_kernel_breakdown(visualize=False, num_kernels=100_000)
    for rank, part in enumerate(ranks_of(source)):
        truth = part.truth
        own = kernels[kernels["rank"] == rank]
        kinds = ("kernel", "memcpy", "memset", *(() if source.whole else ("communication",)))
        total = sum(truth.ns[kind] for kind in kinds)
        if source.one_stream:
            row = breakdown[breakdown["rank"] == rank].iloc[0]
            busy = round((row["compute_time(us)"] + row["non_compute_time(us)"]) * 1e3)
            near("ns of compute and copies", busy, total, 1_000)
        near("ns in the kernels' breakdown", round(own["sum (us)"].sum() * 1e3), total, truth.work())


def launch_statistics(source):
    """A line for each launch by the runtime's names."""
    analyzer = open_folder(source)
    stats = analyzer.get_cuda_kernel_launch_stats(ranks=[0], visualize=False)[0]
    equal("launches", len(stats), source.truth.launches())
