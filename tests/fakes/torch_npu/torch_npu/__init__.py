"""A stand-in for torch_npu: its profiler, and the library that the process loads with it.

FAKE_LIBTORCH_NPU names the stand-in for libtorch_npu.so. The profiler belongs to the thread that
initialised the device, as with the vendor's: driven from another, it records nothing.
"""

import ctypes
import os
import threading

__version__ = "2.7.1.post4"

_library = ctypes.CDLL(os.environ["FAKE_LIBTORCH_NPU"])
_library.fake_trace_level.argtypes = [ctypes.c_int8]
_library.fake_trace_level.restype = None


class npu:
    _thread = None

    @classmethod
    def set_device(cls, _device):
        cls._thread = threading.get_ident()


from . import profiler  # noqa: E402
