"""The spools that are exported and opened: of each backend, single and merged, whole and not.

What lies in a spool is known from elsewhere, and compared with it here: a synthetic one from how it
was made, the demo's from the manifest, the Ascend stand-in's from its own ledger.
"""

import functools
import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy

from spool import Spool
from truth import Truth, equal

HERE = Path(__file__).resolve().parent
STEPS = 4
COPY_EVERY = 50
SPACING_NS, OPERATOR_NS, CALL_NS = 12_000, 8_000, 5_000
LAUNCHES = (20_000, 15_000)
#: 20 million packets, of which a launch makes six: begin and end of operator, call and work.
PACKET_LAUNCHES = 3_350_000
#: 20 million rows, of which a launch makes three.
ROW_LAUNCHES = 6_700_000
#: A million JSON events, of which a launch makes five: three slices and the ends of an arrow.
JSON_LAUNCHES = 200_000
#: Kernels that the stand-in runs every two milliseconds.
STAND_IN_KERNELS = 5


class Tools:
    """Where the programs are, and the folder for everything that is written."""

    omniprof = Path()
    synthesize = Path()
    fakes = Path()
    work = Path()


def run(*command, **options):
    options.setdefault("timeout", 600)
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        said = f"{done.stdout[-500:]}\n{done.stderr[-2000:]}"
        raise RuntimeError(f"{command[0]} {command[1:3]}: {done.returncode}\n{said}")
    return done.stdout


class Source:
    """Spools that become one trace."""

    #: Whether work on a device never overlaps other work there.
    one_stream = False
    #: Whether its writers ended by themselves.
    whole = True
    #: What every export of it is told.
    options = ()

    def __init__(self, name, spools):
        self.name = name
        self.spools = list(spools)
        self.folder = Tools.work / name
        self.folder.mkdir()
        self.exports = {}

    def export(self, form, *more):
        """Its trace in that form, made once."""
        key = (form, *more)
        if key not in self.exports:
            output = self.folder / f"{len(self.exports)}.{form.replace('-', '.')}"
            command = [Tools.omniprof, "export", *self.spools, "--format", form, "--json"]
            report = json.loads(run(*command, "--output", output, *more, *self.options))
            self.exports[key] = output
            equal(f"late or lost rows of {form}", (report["late"], report["lost"]), (0, {}))
        return self.exports[key]

    @functools.cached_property
    def read(self):
        """Its spools, read by their specification."""
        return [Spool(path) for path in self.spools]

    @functools.cached_property
    def truth(self):
        return Truth(self.read)

    def parts(self):
        """A source for each spool: what readers of a file a rank are given."""
        if len(self.spools) == 1:
            return [self]
        return self._parts

    @functools.cached_property
    def _parts(self):
        parts = [Source(f"{self.name}-{rank}", [path]) for rank, path in enumerate(self.spools)]
        for part in parts:
            part.one_stream = self.one_stream
        return parts

    def check_spools(self):
        """The spools hold what was put there."""
        for spool in self.read:
            written = {kind: rows for kind, rows in spool.footer["rows"]}
            equal("rows by the footer", sum(written.values()), sum(spool.counts().values()))


class Demo(Source):
    """The demo's session: five workers of three stages."""

    def __init__(self, name, **more):
        folder = Tools.work / f"{name}-session"
        environment = {**os.environ, "OMNIPROF_MIN_FREE_PERCENT": "0", **more.pop("env", {})}
        command = [Tools.omniprof, "demo", "--json", "--dir", folder, *more.get("arguments", ())]
        out = run(*command, env=environment)
        self.manifest = json.loads(out)["manifest"]
        self.workers = self.manifest["workers"]
        self.directory = folder / self.manifest["directory"]
        super().__init__(name, [self.file(worker, "spool") for worker in self.workers])
        # What the session itself wrote.
        self.exports["pftrace-gz",] = Path(json.loads(out)["open"])

    def file(self, worker, form):
        (path,) = [file["path"] for file in worker["files"] if file["format"] == form]
        return self.directory / path

    def single(self):
        """One worker's part, with the trace that the session made of it."""
        worker = self.workers[0]
        part = Source(f"{self.name}_single", [self.file(worker, "spool")])
        part.exports["pftrace-gz",] = self.file(worker, "pftrace-gz")
        return part

    def check_spools(self):
        """The manifest's counts of rows, and no losses, are those of the spools."""
        super().check_spools()
        equal("workers", len(self.workers), 5)
        for worker, spool in zip(self.workers, self.read, strict=True):
            equal(f"state of stage {worker['stage']}", worker["state"], "complete")
            drops = {cause for cause in worker["drops"] if cause != "outside_window"}
            equal("drops but outside the window", drops, set())
            found = {kind: rows for kind, rows in spool.counts().items() if spool.is_row(kind)}
            wanted = {kind: rows for kind, rows in worker["records"].items() if kind in found}
            equal("rows by the manifest", found, wanted)
            for file in worker["files"]:
                path = self.directory / file["path"]
                equal(f"bytes of {path.name}", path.stat().st_size, file["bytes"])


class Npu(Demo):
    """The demo on Ascend's stand-in."""

    def __init__(self, name):
        home, root, ledgers = (Tools.work / f"{name}-{part}" for part in ("cann", "root", "ledgers"))
        lib = home / "lib64"
        for folder in (lib, root / "dev", ledgers):
            folder.mkdir(parents=True)
        shutil.copy(Tools.fakes / "libfake_mspti.so", lib / "libmspti.so")
        for library in ("profapi", "ascendalog", "ascend_hal", "ascendcl", "msprofiler"):
            shutil.copy(Tools.fakes / "libfake_ascend.so", lib / f"lib{library}.so")
        for node in ("davinci0", "davinci_manager"):
            (root / "dev" / node).touch()
        self.ledgers = ledgers
        environment = {
            "OMNIPROF_NPU_ROOT": str(root),
            "ASCEND_HOME_PATH": str(home),
            "FAKE_MSPTI_WORK": str(STAND_IN_KERNELS),
            "FAKE_MSPTI_LEDGER": str(ledgers),
        }
        arguments = ("--requests", "2", "--backend", "npu")
        super().__init__(name, env=environment, arguments=arguments)

    def check_spools(self):
        """Each row of the device is one that the stand-in emitted, and none in the window lacks."""
        super().check_spools()
        for worker, spool in zip(self.workers, self.read, strict=True):
            equal("backend", worker["backend"], "npu")
            emitted = Counter()
            for line in (self.ledgers / f"{worker['pid']}.csv").read_text().splitlines():
                kind, name, _, start, end = line.split(",")
                emitted[kind, name, int(start), int(end)] += 1
            recorded = Counter()
            for kind in ("kernel", "communication"):
                start, end = spool.column(kind, "start", "end")
                rows = zip(spool.names(kind), start.tolist(), end.tolist(), strict=True)
                recorded.update((kind, *row) for row in rows)
            equal("rows that were not emitted", list((recorded - emitted).elements())[:3], [])
            (window,) = spool.windows["realtime"]
            inside = [row for row in emitted if window[0] <= row[2] and row[3] < window[1]]
            equal("more than 100 in the window", len(inside) > 100, True)
            equal("rows that lack", [row for row in inside if row not in recorded][:3], [])


class Recorded(Source):
    """A capture of one H100, which profiler-core/export/tests/golden_gpu.rs describes."""

    def __init__(self, name):
        super().__init__(name, [HERE.parent / "data" / "spool" / "h100.spool"])

    def check_spools(self):
        super().check_spools()
        (spool,) = self.read
        names = Counter(spool.names("kernel"))
        equal("kernels", dict(names), {"empty": 200 + 400 + 2000, "fill": 50})
        equal("copies", (spool.count("memcpy"), spool.count("memset")), (100, 50))


def durations(launches):
    """ns of the work of each launch, as tests/src/synthetic.rs chooses them."""
    return 3_000 + numpy.arange(launches, dtype=numpy.int64) * 7919 % 8_000


class Synthetic(Source):
    """Spools with the rows of a device backend, of so many launches each."""

    one_stream = True

    def __init__(self, name, *launches):
        self.launches = launches
        spools = []
        for rank, count in enumerate(launches):
            spools.append(Tools.work / f"{name}-{rank}.spool")
            run(Tools.synthesize, spools[-1], count, rank)
        super().__init__(name, spools)

    def kernels(self):
        return sum(count - count // COPY_EVERY for count in self.launches)

    def work_ns(self):
        """ns of kernels, and of copies."""
        kernels = copies = 0
        for count in self.launches:
            lasted = durations(count)
            own = int(lasted[COPY_EVERY - 1 :: COPY_EVERY].sum())
            copies += own
            kernels += int(lasted.sum()) - own
        return kernels, copies

    def application_ns(self):
        """ns of operators and steps."""
        steps = sum(STEPS * (-(-n // STEPS) * SPACING_NS - 100) for n in self.launches)
        return sum(self.launches) * OPERATOR_NS + steps

    def check_spools(self):
        super().check_spools()
        truth, total = self.truth, sum(self.launches)
        copies = total - self.kernels()
        found = [truth.slices[k] for k in ("kernel", "memcpy", "api_call", "application")]
        wanted = [self.kernels(), copies, total, total + STEPS * len(self.launches)]
        equal("kernels, copies, calls, operators and steps", found, wanted)
        found = [truth.ns[k] for k in ("kernel", "memcpy", "api_call", "application")]
        equal("their ns", found, [*self.work_ns(), total * CALL_NS, self.application_ns()])
        for count, arrows in zip(self.launches, truth.arrows, strict=True):
            made = list(enumerate(durations(count).tolist(), 1))
            equal(f"arrows of {count} launches are those made", arrows == made, True)


class Large(Synthetic):
    """A synthetic spool too large to be read here: how it was made is the truth."""

    @functools.cached_property
    def truth(self):
        return Made(self)

    def check_spools(self):
        """Nothing: the readers' answers are compared with how the spool was made."""


class Made(Truth):
    """What readers must find of synthetic spools, by how they were made."""

    def __init__(self, source):
        super().__init__([])
        (launches,) = source.launches
        kernels_ns, copies_ns = source.work_ns()
        self.count = launches
        self.windows = 1
        rows = {
            "kernel": (source.kernels(), kernels_ns),
            "memcpy": (launches - source.kernels(), copies_ns),
            "api_call": (launches, launches * CALL_NS),
            "operator": (launches, launches * OPERATOR_NS),
            "span": (STEPS, source.application_ns() - launches * OPERATOR_NS),
        }
        for kind, (count, ns) in rows.items():
            self.add(kind, count, ns, 0)
        for kind in ("kernel", "memcpy", "api_call"):
            self.slack[kind] = self.rows[kind]

    def arrow_count(self):
        return self.count

    def launches(self):
        return self.count

    def arrow_ns(self):
        return self.row_ns["kernel"] + self.row_ns["memcpy"]


class CutShort(Source):
    """A spool whose writer died in the middle of a block, three fifths through the file."""

    whole = False

    def __init__(self, name, uncut):
        data, offsets = uncut.spools[0].read_bytes(), uncut.read[0].offsets
        block = next(i for i, offset in enumerate(offsets) if offset > len(data) * 3 // 5)
        end = (offsets[block - 1] + offsets[block]) // 2
        spool = Tools.work / f"{name}.spool"
        spool.write_bytes(data[:end])
        self.uncut = uncut
        super().__init__(name, [spool])

    def check_spools(self):
        (spool,) = self.read
        equal("footer", spool.footer, None)
        for kind in ("kernel", "api_call"):
            there, all_of_it = spool.count(kind), self.uncut.read[0].count(kind)
            equal(f"some of the rows of {kind}", 0 < there < all_of_it, True)
        own, all_arrows = Counter(self.truth.arrows[0]), Counter(self.uncut.truth.arrows[0])
        equal("some of the arrows", 0 < own.total() < all_arrows.total(), True)
        equal("arrows that the whole has not", list(own - all_arrows)[:3], [])


class Empty(Source):
    """A spool whose writer died behind the header of the file."""

    whole = False

    def __init__(self, name, uncut):
        spool = Tools.work / f"{name}.spool"
        spool.write_bytes(uncut.spools[0].read_bytes()[: uncut.read[0].offsets[0]])
        super().__init__(name, [spool])

    def check_spools(self):
        equal("rows", self.read[0].counts(), {})


class NothingInside(Recorded):
    """The part of a capture in which nothing happened."""

    options = ("--from", "1h", "--to", "2h")

    @functools.cached_property
    def truth(self):
        truth = Truth([])
        truth.windows = 1
        return truth
