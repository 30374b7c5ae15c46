"""Millions of operators recorded: how long until their traces are whole, and what memory it took.

`many.py [OPERATORS]`: one line of JSON, times in ms from the stop on. OMNIPROF_BIN names the
program that exports.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import torch

import probe


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def export(spool, output, kind, *more):
    command = [os.environ["OMNIPROF_BIN"], "export", spool, "--format", kind, "--output", output]
    return subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL)


def peak_of(process):
    """The peak memory of an exporter that does well, in MiB; waits for its end.

    Read while it runs: what the system tells of a process that ended contains the memory of this
    one, from which it was forked."""
    peak = 0.0
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as status:
                lines = dict(line.split(":", 1) for line in status)
        except OSError:
            continue
        # Without it where it has just ended.
        peak = max(peak, int(lines.get("VmHWM", "0 kB").split()[0]) / 1024)
        time.sleep(0.005)
    assert process.returncode == 0, process.returncode
    assert peak > 0, "it ended before it was looked at"
    return peak


def record(count, spool, follow=None):
    with torch.no_grad():
        x, y = torch.zeros(16), torch.ones(16)
        add = x.add_
        recording = probe.Probe(spool=spool).start()
        exporter = export(spool, follow, "pftrace-gz", "--follow") if follow else None
        for at in range(count):
            add(y)
            # As the agent does five times a second: a reader that follows may go so far.
            if at % 200_000 == 0:
                recording.flush()
        begin = time.monotonic()
        recording.stop()
        stop = time.monotonic() - begin
        peak = peak_of(exporter) if exporter else 0.0
        return recording.count, stop * 1e3, (time.monotonic() - begin) * 1e3, peak


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000_000
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        name = lambda text: os.path.join(folder, text)
        record(1000, name("warm.spool"))
        before = peak_mib()
        result["kept"], result["stop"], _, _ = record(count, name("one.spool"))
        result["memory_mib"] = peak_mib() - before
        result["spool_bytes"] = os.path.getsize(name("one.spool"))
        for kind, output in (("kineto", "trace.json"), ("pftrace-gz", "trace.pftrace.gz")):
            begin = time.monotonic()
            peak = peak_of(export(name("one.spool"), name(output), kind))
            result[kind] = result["stop"] + (time.monotonic() - begin) * 1e3
            result[kind + "_mib"] = peak
        _, _, result["followed"], result["followed_mib"] = record(
            count, name("two.spool"), name("followed.pftrace.gz")
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
