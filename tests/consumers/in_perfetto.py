"""Perfetto: its trace processor, under Node, its UI, in Chromium, and its protobuf classes."""

import gzip
import json
import os
from collections import Counter, defaultdict
from pathlib import Path

from traces import HERE, run
from truth import arrows_equal, equal, near, slices_equal

FAULTS = "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
SLICES = "select category, count(*) as n, sum(dur) as ns from slice group by category"
SAMPLES = "select count(*) as n from perf_sample"
COUNTERS = "select count(*) as n from counter c join process_counter_track t on c.track_id = t.id"
#: The process of a slice, whose track is a thread's, a process's, or one of a device in JSON.
PROCESSES = """
    with processes as (
        select s.id, s.dur, s.arg_set_id, s.category,
            coalesce(thread.upid, p.upid, extract_arg(track.dimension_arg_set_id, 'upid')) as upid
        from slice s join track on s.track_id = track.id
        left join thread_track t on s.track_id = t.id left join thread using (utid)
        left join process_track p on s.track_id = p.id
    )
"""
ARROWS = """
    select o.upid as upid, i.upid as work_upid, i.dur as ns,
        extract_arg(o.arg_set_id, '{0}.correlation') as launch,
        extract_arg(i.arg_set_id, '{0}.correlation') as work
    from flow f join processes o on f.slice_out = o.id join processes i on f.slice_in = i.id
"""


def perfetto(trace, *queries):
    """The rows of each query, by Perfetto's own trace processor."""
    out = run("node", HERE / "trace_processor.mjs", trace, *queries)
    return [json.loads(line) for line in out.splitlines()]


def number(rows):
    return list(rows[0].values())[0]


def categories(rows):
    return {row["category"]: (row["n"], row["ns"]) for row in rows}


def arrow_query(form):
    return PROCESSES + ARROWS.format("debug" if form.startswith("pftrace") else "args")


def compare_arrows(truth, rows, merged_json=False):
    groups, ends = defaultdict(list), defaultdict(set)
    for row in rows:
        groups[row["upid"]].append((row["launch"], row["work"], row["ns"]))
        ends[row["upid"]].add(row["work_upid"])
    if merged_json:
        # A device is a process of its own there.
        all_ends = [upid for upids in ends.values() for upid in upids]
        equal("devices that two workers launch on", len(all_ends) - len(set(all_ends)), 0)
    else:
        strangers = {upid: found for upid, found in ends.items() if found != {upid}}
        equal("arrows from process to process", strangers, {})
    arrows_equal(truth, groups.values())


def trace_processor(source, form="pftrace-gz", *more):
    """Slices, durations, arrows, samples and counters of a `.pftrace`."""
    trace, truth = source.export(form, *more), source.truth
    slices, arrows, samples, counters, faults = perfetto(
        trace, SLICES, arrow_query(form), SAMPLES, COUNTERS, FAULTS
    )
    equal("faults", faults, [])
    found = categories(slices)
    slices_equal(truth, found)
    equal("windows", found.get("omniprof", (0, 0))[0], truth.windows)
    compare_arrows(truth, arrows)
    equal("samples", number(samples), truth.rows["sample"])
    equal("counter values", number(counters), truth.rows["counter"])


def trace_processor_json(source):
    """Slices, durations and arrows of Kineto JSON."""
    trace, truth = source.export("kineto-gz"), source.truth
    slices, arrows, faults = perfetto(trace, SLICES, arrow_query("kineto-gz"), FAULTS)
    equal("faults", faults, [])
    slices_equal(truth, categories(slices))
    compare_arrows(truth, arrows, merged_json=True)


def full_arguments(source):
    trace_processor(source, "pftrace-gz", "--args", "full")


def packet_end(raw, at):
    """Where the packet that begins there ends, if it is whole."""
    # Field 1 of Trace, and the length as a varint.
    if raw[at] != 0x0A:
        raise AssertionError(f"no packet at {at}")
    length, shift, body = 0, 0, at + 1
    while body < len(raw):
        byte = raw[body]
        length |= (byte & 127) << shift
        shift, body = shift + 7, body + 1
        if byte < 128:
            return body + length if body + length <= len(raw) else None
    return None


def whole_packets(raw):
    """The packets of a trace, up to the last whole one, and where that ends."""
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

    at = 0
    while at < len(raw) and (end := packet_end(raw, at)):
        at = end
    return Trace.FromString(raw[:at]).packet, at


def begins_and_ends(packets):
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackEvent

    types = [packet.track_event.type for packet in packets if packet.HasField("track_event")]
    return types.count(TrackEvent.TYPE_SLICE_BEGIN), types.count(TrackEvent.TYPE_SLICE_END)


def protobuf_classes(source):
    """The official classes know each packet, and write the same bytes again."""
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

    raw = gzip.decompress(source.export("pftrace-gz").read_bytes())
    trace = Trace.FromString(raw)
    truth = source.truth
    begins, ends = begins_and_ends(trace.packet)
    equal("slices that end", ends, begins)
    instants = sum(p.track_event.type == TrackEvent.TYPE_INSTANT for p in trace.packet)
    wanted = sum(truth.slices.values()) + truth.windows
    equal("slices and instants", begins + instants, wanted)
    # An arrow goes from each slice with an id to the next one with it.
    slices_by_id = Counter()
    for packet in trace.packet:
        event = packet.track_event
        slices_by_id.update({*event.flow_ids, *event.flow_ids_old})
        slices_by_id.update({*event.terminating_flow_ids, *event.terminating_flow_ids_old})
    # Work whose launch was not recorded has an id that nothing else has.
    alone = sum(slices == 1 for slices in slices_by_id.values())
    equal("work without a launch", alone, truth.work() - truth.arrow_count())
    equal("arrows", sum(n - 1 for n in slices_by_id.values()), truth.arrow_count())
    samples = sum(packet.HasField("perf_sample") for packet in trace.packet)
    equal("samples", samples, truth.rows["sample"])
    equal("bytes written again", len(trace.SerializeToString()), len(raw))


def cut_protobuf(source):
    """A `.pftrace` that ends in a packet: what stands before is read, by the trace processor too."""
    whole = source.export("pftrace").read_bytes()
    cut = source.folder / "cut.pftrace"
    cut.write_bytes(whole[: len(whole) * 3 // 5 + 1])
    packets, end = whole_packets(cut.read_bytes())
    if end == cut.stat().st_size:
        cut.write_bytes(whole[: end - 1])
        packets, end = whole_packets(cut.read_bytes())
    all_packets, _ = whole_packets(whole)
    equal("packets are the first", list(packets) == all_packets[: len(packets)], True)
    begins, _ = begins_and_ends(packets)
    slices, faults = perfetto(cut, "select count(*) as n from slice", FAULTS)
    equal("faults", faults, [])
    equal("slices", number(slices), begins)


def ui(source, picture=False):
    """The Perfetto UI's own engine, in the browser, counts the same."""
    truth = source.truth
    trace = source.export("pftrace-gz")
    where = Path(os.environ["OMNIPROF_PICTURE"]) if picture else "-"
    queries = {
        "faults": f"select count(*) as n from ({FAULTS})",
        "slices": "select count(*) as n from slice",
        "ns of device work": "select coalesce(sum(dur), 0) as n from slice where category in"
        " ('kernel', 'gpu_memcpy', 'gpu_memset', 'communication')",
        "ns in application": "select coalesce(sum(dur), 0) as n from slice where category in"
        " ('cpu_op', 'user_annotation', 'step')",
        "arrows": "select count(*) as n from flow",
        "samples": SAMPLES,
    }
    out = run("node", HERE / "ui.mjs", trace, where, *queries.values(), timeout=600)
    *numbers, page = (json.loads(line) for line in out.splitlines())
    found = dict(zip(queries, numbers, strict=True))
    equal("faults of the page", page, [])
    equal("faults", found["faults"], 0)
    wanted = sum(truth.slices.values()) + truth.windows
    equal("slices", found["slices"], wanted)
    kinds = ("kernel", "memcpy", "memset", "communication")
    device_ns = sum(truth.ns[kind] for kind in kinds)
    near("ns of device work", found["ns of device work"], device_ns, truth.work())
    near("ns in application", found["ns in application"], truth.ns["application"],
         truth.slack["application"])
    equal("arrows", found["arrows"], truth.arrow_count())
    equal("samples", found["samples"], truth.rows["sample"])
    if picture:
        equal("picture of more than 50 kB", where.stat().st_size > 50_000, True)
        print(f"   picture: {where}")


def ui_with_picture(source):
    ui(source, picture=True)
