"""Records the operators of this process through the test library (OMNIPROF_TORCH_PROBE names it)."""

import ctypes
import json
import os
import tempfile

_library = ctypes.CDLL(os.environ["OMNIPROF_TORCH_PROBE"])
_library.probe_start.restype = ctypes.c_void_p
_library.probe_start.argtypes = [ctypes.c_int, ctypes.c_char_p]
_library.probe_flush.restype = ctypes.c_int64
_library.probe_flush.argtypes = [ctypes.c_void_p]
_library.probe_stop.restype = ctypes.c_int64
_library.probe_stop.argtypes = [ctypes.c_void_p, ctypes.c_char_p]


_library.probe_steps.restype = ctypes.c_int64
listen = _library.probe_listen
steps = _library.probe_steps


class Recorded:
    def __init__(self, operators, rest):
        self.operators = operators
        self.facts = rest["facts"]
        self.notes = rest["notes"]
        self.lost = rest["lost"]
        self.undefined = rest["undefined"]
        self.threads = rest["threads"]


class Probe:
    """A recording; `with Probe() as probe: ...`, then `probe.recorded`."""

    def __init__(self, shapes=False, spool=None, dump=True, operators=True):
        self.shapes = int(shapes) if operators else -1
        self.spool, self.dump = spool, dump
        self.recorded, self.count, self._handle = None, None, None

    def start(self):
        spool = self.spool.encode() if self.spool else None
        self._handle = _library.probe_start(int(self.shapes), spool)
        if not self._handle:
            raise RuntimeError("the recording did not begin")
        return self

    def flush(self):
        return _library.probe_flush(self._handle)

    def stop(self):
        handle, self._handle = self._handle, None
        if self.spool or not self.dump:
            self.count = _library.probe_stop(handle, None)
            return None
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
            self.count = _library.probe_stop(handle, file.name.encode())
            lines = [json.loads(line) for line in open(file.name)]
        if self.count < 0:
            raise RuntimeError("the recording failed")
        self.recorded = Recorded(lines[:-1], lines[-1])
        return self.recorded

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
