"""Traces of twenty million packets or rows, and of a million JSON events, by sums alone."""

from in_perfetto import (
    ARROWS,
    FAULTS,
    PROCESSES,
    SLICES,
    begins_and_ends,
    categories,
    packet_end,
    perfetto,
)
from in_tables import duckdb_parquet_rows, tables
from truth import equal, near, slices_equal

PIECE_BYTES = 4 << 20
SUMS = f"""
    select count(*) as n, sum(ns) as ns, sum(launch is not work) as strangers,
        count(distinct launch) as launches
    from ({PROCESSES} {ARROWS.format("debug")})
"""


def large_trace_processor(source):
    truth = source.truth
    slices, (arrows,), faults = perfetto(source.export("pftrace"), SLICES, SUMS, FAULTS)
    equal("faults", faults, [])
    slices_equal(truth, categories(slices))
    equal("arrows between strangers", arrows["strangers"], 0)
    equal("arrows", (arrows["n"], arrows["launches"]), (truth.arrow_count(), truth.launches()))
    near("ns of what arrows lead to", arrows["ns"], truth.arrow_ns(), truth.arrow_count())


def large_protobuf_classes(source):
    """Piece by piece, for all packets together take more memory than a machine may have."""
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

    raw = source.export("pftrace").read_bytes()
    begins = ends = packets = first = at = 0
    while at < len(raw):
        # Nearly all packets are shorter than 128 bytes.
        at = at + 2 + raw[at + 1] if raw[at + 1] < 128 else packet_end(raw, at)
        if at - first > PIECE_BYTES or at == len(raw):
            trace = Trace.FromString(raw[first:at])
            more = begins_and_ends(trace.packet)
            begins, ends = begins + more[0], ends + more[1]
            packets += len(trace.packet)
            first = at
    truth = source.truth
    equal("slices", begins, sum(truth.slices.values()) + truth.windows)
    equal("slices that end", ends, begins)
    equal("20 million packets", packets >= 20_000_000, True)


def large_duckdb_parquet(source):
    import duckdb

    there = tables(source)
    duckdb_parquet_rows(source, there)
    found = ns = 0
    for kind in ("kernel", "memcpy"):
        sql = f"""
            select count(*), sum(w."end" - w.start) from '{there[kind]}' w
            join '{there["api_call"]}' l using (worker, correlation) where l.start < w.start
        """
        ((count, total),) = duckdb.sql(sql).fetchall()
        found, ns = found + count, ns + int(total)
    truth = source.truth
    equal("work with its launch before it", found, truth.arrow_count())
    near("ns of that", ns, truth.arrow_ns(), truth.arrow_count())
