"""Runs the workload's loops in this process, while torch.profiler or Proton records them.

    other_profiler.py LIBCUDA_WORKLOAD

Reads commands, a line each, and answers each by a line of JSON. `torch start [cpu]` (the device,
operators too), `torch stop`, `torch export FILE`, `torch use N` (N operators on a small tensor),
`torch steps N` (N passes of a small transformer, bound by its launches) and `proton start NAME`,
`proton stop` are done here, all others by the library.
"""

import ctypes
import json
import os
import sys
import threading
import time

library = ctypes.CDLL(sys.argv[1])
library.workload_command.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
library.workload_command.restype = ctypes.c_ssize_t
room = ctypes.create_string_buffer(1 << 16)
profiler = None
session = None
tensor = None
transformer = None
pinned = False


def timed(what):
    begin = time.perf_counter_ns()
    what()
    return {"ns": time.perf_counter_ns() - begin}


def torch_command(words):
    global profiler, tensor
    import torch

    if tensor is None:
        tensor = torch.zeros(256, device="cuda")
    if words[0] == "start":
        activities = [torch.profiler.ProfilerActivity.CUDA]
        if words[1:] == ["cpu"]:
            activities.append(torch.profiler.ProfilerActivity.CPU)
        profiler = torch.profiler.profile(activities=activities)
        return timed(profiler.start)
    if words[0] == "stop":
        return timed(profiler.stop)
    if words[0] == "export":
        answer = timed(lambda: profiler.export_chrome_trace(words[1]))
        return answer | {"bytes": os.path.getsize(words[1])}
    if words[0] == "use":
        stay()

        def use():
            for _ in range(int(words[1])):
                tensor.add_(1.0)
            torch.cuda.synchronize()

        return timed(use) | {"kernels": int(words[1]), "version": torch.__version__}
    if words[0] == "steps":
        stay()
        steps = int(words[1])
        return timed(lambda: passes(torch, steps)) | {"kernels": steps}
    raise ValueError(f"torch {words}")


def passes(torch, steps):
    global transformer
    if transformer is None:
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(256, 4, 512, batch_first=True, norm_first=True)
        transformer = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        # In training mode its layers are single operators, not one fused call.
        transformer = transformer.cuda().train().requires_grad_(False)
    x = torch.ones(4, 16, 256, device="cuda")
    for _ in range(steps):
        transformer(x)
    torch.cuda.synchronize()


def proton_command(words):
    global session
    import triton.profiler as proton

    if words[0] == "start":

        def start():
            global session
            session = proton.start(words[1], backend="cupti", data="trace")

        return timed(start)
    if words[0] == "stop":
        return timed(lambda: proton.finalize(session, "chrome_trace"))
    raise ValueError(f"proton {words}")


def stay():
    """Pins this thread, as the library pins its own: only once it works itself, for the threads that
    it starts stay where it stays."""
    if pinned:
        os.sched_setaffinity(threading.get_native_id(), {0})


def answer(line):
    global pinned
    words = line.split()
    pinned |= words == ["pin"]
    try:
        if words[:1] == ["torch"]:
            return json.dumps(torch_command(words[1:]))
        if words[:1] == ["proton"]:
            return json.dumps(proton_command(words[1:]))
    except Exception as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"})
    if library.workload_command(line.encode(), room, len(room)) < 0:
        return json.dumps({"error": "the answer is too long"})
    return room.value.decode()


for line in sys.stdin:
    print(answer(line.strip()), flush=True)
