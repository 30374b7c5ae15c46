"""What is recorded of real libtorch, and what must not go wrong.

Each check is a process of its own: `check.py` runs all, `check.py NAME …` those, `--one NAME` one
in this process.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

from registry import CHECKS, check

import served  # noqa: F401 - has checks of its own


def tree(operators):
    """Each thread's operators as (depth, name), in the order in which they began."""
    threads = collections.defaultdict(list)
    for row in sorted(operators, key=lambda row: (row["start"], row["depth"])):
        threads[row["thread"]].append((row["depth"], row["name"]))
    return threads


def kineto_tree(profile):
    """The same of torch.profiler's own result."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profile.export_chrome_trace(file.name)
        trace = json.load(open(file.name))
    threads = collections.defaultdict(list)
    for event in trace["traceEvents"]:
        if event.get("cat") in ("cpu_op", "user_annotation") and event["ph"] == "X":
            threads[event["tid"]].append(event)
    result = {}
    for thread, events in threads.items():
        events.sort(key=lambda event: event["args"]["Ev Idx"] if "Ev Idx" in event["args"] else 0)
        open_until, rows = [], []
        events.sort(key=lambda event: (event["ts"], -event["dur"]))
        for event in events:
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            rows.append((len(open_until), event["name"], event))
            open_until.append(event["ts"] + event["dur"])
        result[thread] = rows
    return result


def names(rows):
    return collections.Counter(name for _, name, *_ in rows)


@check
def counts_and_nesting_are_those_of_torch_profiler():
    import probe
    import programs
    import torch

    net = programs.model()
    programs.train(net)
    with probe.Probe(shapes=True) as recording:
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
        ) as profile:
            programs.train(net)
            programs.infer(net)
    ours = tree(recording.recorded.operators)
    theirs = kineto_tree(profile)
    assert recording.recorded.lost == 0 and recording.recorded.undefined == 0
    compared = 0
    for thread, rows in theirs.items():
        # torch.profiler's own scopes, and what it does as it begins and ends, are not the program's.
        rows = [row for row in rows if not row[1].startswith("PyTorch Profiler")]
        mine = ours[thread]
        begin = next(i for i, (_, name) in enumerate(mine) if name == "train step 0")
        mine = mine[begin:][: len(rows)]
        begin = next(i for i, row in enumerate(rows) if row[1] == "train step 0")
        rows = rows[begin:]
        mine = mine[: len(rows)]
        assert names(mine) == names(rows), (names(mine) - names(rows), names(rows) - names(mine))
        base_mine, base_rows = mine[0][0], rows[0][0]
        mine = [(depth - base_mine, name) for depth, name in mine]
        nested = [(depth - base_rows, name) for depth, name, _ in rows]
        assert mine == nested, next(pair for pair in zip(mine, nested) if pair[0] != pair[1])
        compared += len(rows)
    assert compared > 500, compared

    # Sequence numbers and shapes, operator by operator.
    main = next(iter(theirs))
    mine = sorted(
        (row for row in recording.recorded.operators if row["thread"] == main),
        key=lambda row: (row["start"], row["depth"]),
    )
    at = next(i for i, row in enumerate(mine) if row["name"] == "train step 0")
    rows = theirs[main]
    start = next(i for i, row in enumerate(rows) if row[1] == "train step 0")
    sequences = 0
    for row, (_, name, event) in zip(mine[at:], rows[start:]):
        assert row["name"] == name
        # To what it wraps around a backward function PyTorch gives that one's number afterwards.
        if "Sequence number" in event["args"] and not name.startswith("autograd::engine::"):
            assert row["sequence"] == event["args"]["Sequence number"], (row, event)
            sequences += 1
        dims = event["args"].get("Input Dims")
        if dims and not name.startswith("autograd::"):
            got = tensors(row["shapes"])
            want = [dim for dim in dims if dim and isinstance(dim[0], int)]
            assert [dim for dim in got if dim] == want, (row, event)
    assert sequences > 50, sequences


def tensors(shapes):
    text = shapes.replace("[=", "[\"").replace("[...]", "[]")
    result = []
    depth, begin = 0, 0
    for index, letter in enumerate(shapes):
        if letter == "[":
            if depth == 0:
                begin = index
            depth += 1
        elif letter == "]":
            depth -= 1
            if depth == 0:
                part = shapes[begin : index + 1]
                if part.startswith("[["):
                    sizes = part[2 : part.index("]")]
                    result.append([int(size) for size in sizes.split(",")] if sizes else [])
    del text
    return result


@check
def both_profilers_get_their_operators():
    import probe
    import programs
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        with probe.Probe() as recording:
            programs.small(1000)
        programs.small(500)
    own = sum(row["name"] == "aten::add_" for row in recording.recorded.operators)
    theirs = sum(event.count for event in profile.key_averages() if event.key == "aten::add_")
    assert (own, theirs) == (1000, 1500), (own, theirs)


@check
def all_threads_are_recorded_and_their_ends_lose_nothing():
    import probe
    import programs

    programs.small(1)
    recording = probe.Probe().start()
    for _ in range(20):
        programs.in_threads(8, lambda: programs.small(20))
        recording.flush()
    recorded = recording.stop()
    rows = [row for row in recorded.operators if row["name"] == "aten::add_"]
    assert len(rows) == 20 * 8 * 20 and recorded.lost == 0, (len(rows), recorded.lost)
    assert len({row["thread"] for row in rows}) >= 8
    assert all(row["end"] >= row["start"] > 0 for row in rows)

    # More new threads at a time than stand ready for: what is lost is counted.
    with probe.Probe() as recording:
        for _ in range(40):
            programs.in_threads(16, lambda: programs.small(20))
    rows = len(recording.recorded.operators)
    # zeros, fill_ or empty and the 20 additions, on each thread.
    each = collections.Counter(row["thread"] for row in recording.recorded.operators)
    print(f"{rows} kept, {recording.recorded.lost} lost, {len(each)} thread ids")
    per_thread = rows + recording.recorded.lost
    assert per_thread % (40 * 16) == 0 and per_thread >= 40 * 16 * 21, per_thread
    assert recording.recorded.undefined == 0


@check
def toggling_under_load_leaves_no_orphan():
    import probe
    import programs

    stop = threading.Event()

    def load():
        net = programs.model()
        while not stop.is_set():
            programs.train(net, steps=1)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    total, toggles, wrong = 0, 0, 0
    until = time.monotonic() + 120
    while toggles < 2000 and time.monotonic() < until:
        recording = probe.Probe(shapes=toggles % 2 == 0, dump=toggles % 50 == 0)
        with recording:
            pass
        toggles += 1
        total += recording.count
        if recording.recorded:
            assert recording.recorded.undefined == 0
            wrong += sum(
                not row["flags"] and (row["end"] < row["start"] or row["depth"] > 30)
                for row in recording.recorded.operators
            )
    stop.set()
    for thread in threads:
        thread.join()
    print(f"{toggles} recordings, {total} operators")
    assert toggles >= 300 and total > 1000 and wrong == 0, (toggles, total, wrong)
    # And it still records right.
    with probe.Probe() as recording:
        programs.small(100)
    depths = {row["depth"] for row in recording.recorded.operators if row["name"] == "aten::add_"}
    assert depths == {0}, depths


@check
def what_is_open_at_the_stop_is_unfinished():
    import probe
    import torch

    recording = probe.Probe().start()
    with torch.profiler.record_function("still open"):
        torch.zeros(3)
        recorded = recording.stop()
    rows = [row for row in recorded.operators if row["name"] == "still open"]
    assert len(rows) == 1 and rows[0]["flags"] & 1 and rows[0]["end"] == 0, rows
    inner = [row for row in recorded.operators if row["name"] == "aten::zeros"]
    assert len(inner) == 1 and inner[0]["depth"] == 1, inner


@check
def without_libtorch_there_are_no_operators_and_a_reason():
    import probe

    with probe.Probe() as recording:
        time.sleep(0.01)
    assert recording.recorded.facts["cpu.operators"] == "none", recording.recorded.facts
    assert "no libtorch" in recording.recorded.notes[0], recording.recorded.notes


@check
def libtorch_that_is_loaded_later_is_recorded():
    import probe

    recording = probe.Probe().start()
    import programs

    programs.small(1)
    until = time.monotonic() + 30
    while probe.Probe.flush(recording) == 0 and time.monotonic() < until:
        programs.small(10)
    recorded = recording.stop()
    assert recorded.facts["cpu.operators"] == "recorded", recorded.facts
    assert any(row["name"] == "aten::add_" for row in recorded.operators)


@check
def a_second_recording_is_refused_and_the_first_goes_on():
    import probe
    import programs

    with probe.Probe() as first:
        with probe.Probe() as second:
            programs.small(10)
        programs.small(10)
    assert second.recorded.facts["cpu.operators"] == "none", second.recorded.facts
    assert "another session" in second.recorded.facts["cpu.operators.reason"]
    assert sum(row["name"] == "aten::add_" for row in first.recorded.operators) == 20


@check
def ranges_are_told_as_steps_with_operators_and_without():
    import probe
    import programs
    import torch

    def work():
        for number in range(7):
            with torch.profiler.record_function(f"step {number}"):
                programs.small(3)
        with torch.profiler.record_function("another"):
            pass

    with probe.Probe() as recording:
        work()
    assert probe.steps() == 0, "nobody listened"
    probe.listen()
    with probe.Probe(operators=False) as recording:
        work()
    assert (probe.steps(), recording.count) == (7, 0), (probe.steps(), recording.count)
    with probe.Probe() as recording:
        work()
    steps = [row for row in recording.recorded.operators if row["name"].startswith("step ")]
    assert (probe.steps(), len(steps)) == (14, 7), (probe.steps(), len(steps))
    work()
    assert probe.steps() == 14, "nothing is recorded"


@check
def names_without_end_are_told_right():
    import probe
    import torch

    with probe.Probe() as recording:
        for number in range(5000):
            with torch.profiler.record_function(f"request {number}"):
                pass
    found = [row["name"] for row in recording.recorded.operators]
    assert sorted(found) == sorted(f"request {number}" for number in range(5000))
    assert recording.recorded.undefined == 0


@check
def odd_tensors_do_no_harm():
    import probe
    import torch

    with probe.Probe(shapes=True) as recording:
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
        for _ in range(50):
            nested + nested
        sparse = torch.eye(4).to_sparse()
        (sparse @ torch.ones(4, 2)).sum()
        torch.ones(0, 5).sum()
        torch.tensor(3).item()
        torch.ones(2, dtype=torch.bfloat16) * 2
        torch.stack([torch.ones(2)] * 200)
        with torch.device("meta"):
            torch.ones(8, 8) @ torch.ones(8, 8)
    assert recording.recorded.lost == 0
    texts = {row["shapes"] for row in recording.recorded.operators}
    assert any("[[2],bf16]" in text for text in texts), texts
    print(recording.recorded.facts.get("cpu.operators.shapes"))


@check
def a_forked_child_records_nothing_and_lives():
    import probe
    import programs

    with probe.Probe() as recording:
        programs.small(10)
        child = os.fork()
        if child == 0:
            programs.small(1000)
            os._exit(7)
        _, status = os.waitpid(child, 0)
        programs.small(10)
    assert os.waitstatus_to_exitcode(status) == 7, status
    own = sum(row["name"] == "aten::add_" for row in recording.recorded.operators)
    assert own == 20, own


@check
def a_process_that_exits_while_it_is_recorded_exits_well():
    code = """
import os, probe, programs, sys, torch
recording = probe.Probe(shapes=True).start()
programs.train(programs.model())
with torch.profiler.record_function('open at the end'):
    programs.small(5000)
    {leave}
"""
    # Daemon threads that are inside PyTorch when Python ends make it abort, recorded or not.
    for leave in ("sys.exit(5)", "os._exit(5)", "recording.flush(); sys.exit(5)"):
        command = [sys.executable, "-c", code.format(leave=leave)]
        status = subprocess.run(command, timeout=120).returncode
        assert status == 5, (leave, status)


@check
def a_second_copy_of_libtorch_changes_nothing():
    import ctypes
    import shutil

    import probe
    import programs
    import torch

    source = os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")
    again = ctypes.CDLL(source)
    with probe.Probe() as recording:
        programs.small(100)
    del again
    assert sum(row["name"] == "aten::add_" for row in recording.recorded.operators) == 100
    # A file of the same name that is no libtorch comes first in nobody's list.
    with tempfile.TemporaryDirectory() as folder:
        other = os.path.join(folder, "libtorch_cpu.so")
        shutil.copy(os.environ["OMNIPROF_TORCH_PROBE"], other)
        ctypes.CDLL(other)
        with probe.Probe() as recording:
            programs.small(100)
    assert sum(row["name"] == "aten::add_" for row in recording.recorded.operators) == 100
    assert recording.recorded.facts["cpu.operators.copies"] == "2", recording.recorded.facts


@check
def a_library_without_the_symbols_is_refused_with_its_name():
    import ctypes
    import shutil

    import probe

    with tempfile.TemporaryDirectory() as folder:
        other = os.path.join(folder, "libtorch_cpu.so")
        shutil.copy(os.environ["OMNIPROF_TORCH_PROBE"], other)
        ctypes.CDLL(other)
        with probe.Probe() as recording:
            time.sleep(0.01)
    assert recording.recorded.facts["cpu.operators"] == "none"
    assert "addGlobalCallback" in recording.recorded.facts["cpu.operators.reason"]


@check
def kineto_json_of_a_spool_has_what_readers_join_by():
    import probe
    import programs

    net = programs.model()
    with tempfile.TemporaryDirectory() as folder:
        spool = os.path.join(folder, "run.spool")
        with probe.Probe(shapes=True, spool=spool):
            programs.train(net)
        trace = os.path.join(folder, "run.json")
        command = [os.environ["OMNIPROF_BIN"], "export", spool, "--format", "kineto"]
        command += ["--output", trace, "--args", "full"]
        subprocess.run(command, check=True, timeout=120)
        events = json.load(open(trace))["traceEvents"]
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    marked = [event for event in events if event.get("cat") == "user_annotation"]
    assert {event["name"] for event in marked} >= {"train step 0", "train step 2"}
    ids = [event["args"]["External id"] for event in operators + marked]
    assert len(set(ids)) == len(ids) > 100
    linear = [event["args"] for event in operators if event["name"] == "aten::addmm"]
    assert [[64], [16, 32], [32, 64]] in [args["Input Dims"][:3] for args in linear], linear
    assert all(args["Input type"] == ["float"] * 3 + ["Scalar"] * 2 for args in linear), linear
    begins = {event["id"]: event for event in events if event.get("cat") == "fwdbwd" and event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event.get("cat") == "fwdbwd" and event["ph"] == "f"}
    assert begins.keys() == ends.keys() and len(begins) >= 3 * 6, len(begins)
    assert all(begins[id]["ts"] <= ends[id]["ts"] for id in begins)


def main():
    if sys.argv[1:2] == ["--one"]:
        CHECKS[sys.argv[2]]()
        return 0
    wanted = sys.argv[1:] or list(CHECKS)
    passed, failed = 0, 0
    for name in wanted:
        begin = time.monotonic()
        command = [sys.executable, __file__, "--one", name]
        try:
            status = subprocess.run(command, timeout=300).returncode
        except subprocess.TimeoutExpired:
            status = "no end"
        good = status == 0
        passed, failed = passed + good, failed + (not good)
        word = "ok" if good else f"FAILED ({status})"
        print(f"{name}: {word}, {time.monotonic() - begin:.1f} s", flush=True)
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
