"""Reads spools by docs/spool-format.md, with nothing of the product's code.

What the exports say is compared with this. Layouts of rows are those of the snapshot that
profiler-core's test of them keeps.
"""

import functools
import json
import struct
import zlib
from pathlib import Path

import numpy
import pyarrow

LAYOUT = (
    Path(__file__).resolve().parents[2]
    / "profiler-core/tests/snapshots/record_layout__version_1_layout.snap"
)
ROWS, SEGMENT, FOOTER, STREAMS = 1, 2, 3, 4
COMPRESSED, REPEATED = 1, 2
PLAIN, DELTA, END, HEAP = 0, 1, 2, 3
WIDTHS = {1: numpy.uint8, 2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}
BEGIN_EDGE, END_EDGE = 1, 2
#: Kinds that belong to a window by their launch.
LAUNCHED = ("kernel", "memcpy", "memset", "communication")
#: Kinds that say something of the file or the process, not what happened.
NO_ROWS = ("loss", "clock_tuple", "fact", "module", "window")


@functools.cache
def layout():
    """Kind number, and fields with their offsets, by the kind's name."""
    kinds = {}
    for line in LAYOUT.read_text().splitlines():
        words = line.split()
        if len(words) == 4 and words[2] == "stride":
            kinds[words[1]] = (int(words[0]), {})
        elif line.startswith("  ") and kinds:
            list(kinds.values())[-1][1][words[2]] = int(words[0])
    return kinds


class Block:
    """A block of rows: columns by the offset of their field, and the heap."""

    def __init__(self, stream, rows, payload, heap_bytes):
        self.stream = stream
        self.rows = rows
        body = len(payload) - heap_bytes
        self.heap = payload[body:]
        self.columns = {}
        self.texts = {}
        (count,) = struct.unpack_from("<H", payload)
        at = 8 + 32 * count
        lengths = []
        for index in range(count):
            offset, width, transform, planes, _, reference, base, bias = struct.unpack_from(
                "<HBBBBHQQ", payload, 8 + 32 * index
            )
            stored = numpy.zeros(rows, numpy.uint64)
            for plane in range(planes):
                part = numpy.frombuffer(payload, numpy.uint8, rows, at).astype(numpy.uint64)
                stored |= part << numpy.uint64(8 * plane)
                at += rows
            stored += numpy.uint64(bias)
            if transform == DELTA:
                steps = (stored >> numpy.uint64(1)) ^ (
                    numpy.uint64(0) - (stored & numpy.uint64(1))
                )
                stored = numpy.cumsum(steps, dtype=numpy.uint64) + numpy.uint64(base)
            elif transform == END:
                begin = self.columns[reference]
                stored = numpy.where(stored == 0, 0, begin + stored - numpy.uint64(1))
            elif transform == HEAP:
                lengths.append((offset, stored))
                continue
            self.columns[offset] = stored.astype(WIDTHS[width])
        if lengths:
            # Row by row, and within a row in the directory's order.
            table = numpy.stack([stored for _, stored in lengths], axis=1)
            ends = numpy.cumsum(table.ravel()).reshape(table.shape)
            for index, (offset, stored) in enumerate(lengths):
                self.texts[offset] = (ends[:, index] - stored, stored)

    def column(self, offset):
        found = self.columns.get(offset)
        return numpy.zeros(self.rows, numpy.uint64) if found is None else found

    def text(self, offset):
        if offset not in self.texts:
            return [b""] * self.rows
        starts, lengths = self.texts[offset]
        return [
            self.heap[start : start + length]
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]


class Spool:
    """A file, up to its last whole block."""

    def __init__(self, path):
        data = Path(path).read_bytes()
        magic, version, length, checksum = struct.unpack_from("<8sIII", data)
        if magic != b"OMNISPL\n" or version != 1:
            raise ValueError(f"{path} is no spool of version 1")
        if zlib.crc32(data[:16] + data[24 : 24 + length]) != checksum:
            raise ValueError(f"the header of {path} is damaged")
        self.header = json.loads(data[24 : 24 + length])
        self.footer = None
        self.streams = {0: {"clock": "monotonic"}}
        self.blocks = {}
        #: Where each block begins, and where the last one ends.
        self.offsets = []
        at = 24 + -(-length // 8) * 8
        while at + 88 <= len(data):
            end = self._block(data, at)
            if end is None:
                break
            self.offsets.append(at)
            at = end
        self.offsets.append(at)

    def _block(self, data, at):
        magic, _, kind_of_block, head, stored, unpacked, _, offset = struct.unpack_from(
            "<4sBBHIIQQ", data, at
        )
        stream, kind, flags, _, rows = struct.unpack_from("<IHHII", data, at + 32)
        heap_bytes, checksum = struct.unpack_from("<II", data, at + 68)
        if magic != b"OSB1" or offset != at:
            raise ValueError(f"no block at {at}")
        payload = data[at + head : at + head + stored]
        if len(payload) < stored:
            return None
        if zlib.crc32(payload) != checksum:
            raise ValueError(f"the block at {at} is damaged")
        if flags & COMPRESSED:
            payload = pyarrow.Codec("zstd").decompress(payload, unpacked, asbytes=True)
        if kind_of_block == ROWS:
            if not flags & REPEATED:
                self.blocks.setdefault(kind, []).append(Block(stream, rows, payload, heap_bytes))
        elif kind_of_block in (SEGMENT, STREAMS):
            for number, description in json.loads(payload)["streams"]:
                self.streams[number] = description
        elif kind_of_block == FOOTER:
            self.footer = json.loads(payload)
        return at + head + -(-stored // 8) * 8

    def of(self, kind):
        number, _ = layout()[kind]
        return self.blocks.get(number, [])

    def count(self, kind):
        return sum(block.rows for block in self.of(kind))

    def counts(self):
        """Rows of each kind that has some, by the kind's name."""
        names = {number: name for name, (number, _) in layout().items()}
        return {names[kind]: sum(b.rows for b in blocks) for kind, blocks in self.blocks.items()}

    def column(self, kind, *fields):
        """The fields of all rows of a kind, in the order of the file."""
        _, offsets = layout()[kind]
        found = []
        for field in fields:
            parts = [block.column(offsets[field]) for block in self.of(kind)]
            found.append(numpy.concatenate(parts) if parts else numpy.zeros(0, numpy.uint64))
        return found[0] if len(fields) == 1 else found

    @functools.cached_property
    def strings(self):
        """Texts by stream and id."""
        _, offsets = layout()["string"]
        texts = {}
        for block in self.of("string"):
            ids = block.column(offsets["id"]).tolist()
            for number, text in zip(ids, block.text(offsets["text"]), strict=True):
                texts[block.stream, number] = text.decode()
        return texts

    def names(self, kind):
        """The names of all rows of a kind, in the order of the file."""
        _, offsets = layout()[kind]
        names = []
        for block in self.of(kind):
            ids = block.column(offsets["name"]).tolist()
            names.extend(self.strings.get((block.stream, number), "") for number in ids)
        return names

    @functools.cached_property
    def windows(self):
        """Begin and end by the name of the clock; one that is open has no end."""
        edges = {}
        columns = self.column("window", "window", "edge", "monotonic", "realtime")
        for window, edge, monotonic, realtime in zip(*(c.tolist() for c in columns), strict=True):
            if edge in (BEGIN_EDGE, END_EDGE):
                edges.setdefault(window, {})[edge] = (monotonic, realtime)
        far = (2**62, 2**62)
        pairs = [(e[BEGIN_EDGE], e.get(END_EDGE, far)) for e in edges.values() if BEGIN_EDGE in e]
        return {
            clock: [(begin[index], end[index]) for begin, end in pairs]
            for index, clock in enumerate(("monotonic", "realtime"))
        }

    def inside(self, kind):
        """Which rows of a kind an export has: those whose launch, else whose start, is in a window.

        Instants of CLOCK_REALTIME are compared with the windows' on that clock: within what the
        clock readings are off, a row at a window's very edge may be judged otherwise.
        """
        _, offsets = layout()[kind]
        launches = self._launches if kind in LAUNCHED else {}
        begins = offsets.get("start", offsets.get("time"))
        kept = []
        for block in self.of(kind):
            inside = self._in_window(block, block.column(begins))
            if launches:
                numbers = block.column(offsets["correlation"]).tolist()
                own = inside.tolist()
                found = [launches.get(n, b) for n, b in zip(numbers, own, strict=True)]
                inside = numpy.array(found, bool)
            kept.append(inside)
        return numpy.concatenate(kept) if kept else numpy.zeros(0, bool)

    @functools.cached_property
    def _launches(self):
        """Whether each launch lies in a window; a call inside a call does not count."""
        _, offsets = layout()["api_call"]
        first = {}
        for block in self.of("api_call"):
            starts = block.column(offsets["start"])
            inside = self._in_window(block, starts).tolist()
            numbers = block.column(offsets["correlation"]).tolist()
            for number, start, here in zip(numbers, starts.tolist(), inside, strict=True):
                if number and (number not in first or start < first[number][0]):
                    first[number] = (start, here)
        return {number: here for number, (_, here) in first.items()}

    def _in_window(self, block, instants):
        clock = self.streams[block.stream]["clock"]
        inside = numpy.zeros(len(instants), bool)
        for begin, end in self.windows[clock]:
            inside |= (instants >= begin) & (instants < end)
        return inside

    def is_row(self, kind):
        """Whether rows of the kind are exported as such."""
        number, _ = layout()[kind]
        return number < 256 and kind not in NO_ROWS

    def kept(self, kind):
        """How many rows of a kind an export has."""
        return int(self.inside(kind).sum())

    def total_ns(self, kind):
        """The sum of the durations of the rows that an export has, and how many of these were
        measured on another clock than the export's. One without an end lasts to its window's."""
        total = mapped = 0
        _, offsets = layout()[kind]
        inside = self.inside(kind)
        at = 0
        for block in self.of(kind):
            here = inside[at : at + block.rows]
            at += block.rows
            start = block.column(offsets["start"])[here].astype(numpy.int64)
            end = block.column(offsets["end"])[here].astype(numpy.int64)
            clock = self.streams[block.stream]["clock"]
            for begin, until in self.windows[clock]:
                open_ended = (end == 0) & (start >= begin) & (start < until)
                end[open_ended] = until
            total += int((end - start).sum())
            mapped += len(start) if clock != "monotonic" else 0
        return total, mapped

    def steps_ns(self):
        """The sum of the steps, each of which lasts to the next one or its window's end, and how
        much longer the last one may last: to the end of what its threads did in it."""
        times = numpy.sort(self.column("step", "time")[self.inside("step")]).tolist()
        total = loose = 0
        for begin, end in self.windows["monotonic"]:
            inside = [time for time in times if begin <= time < end]
            if inside and inside[-1] == times[-1]:
                total, loose = total + inside[-1] - inside[0], end - inside[-1]
            elif inside:
                total += end - inside[0]
        return total, loose

    def arrows(self, kind):
        """Correlation id and ns of each row of work that an export has together with its launch."""
        start, end, correlation = self.column(kind, "start", "end", "correlation")
        inside = self.inside(kind)
        lasted = (end - start)[inside].astype(numpy.int64).tolist()
        pairs = zip(correlation[inside].tolist(), lasted, strict=True)
        return [pair for pair in pairs if pair[0] in self._launches]
