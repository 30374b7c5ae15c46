"""A server of vLLM's process shape, without a model.

An API server (this process) answers HTTP; an engine core is its child by `spawn`; the workers of
the tensor-parallel ranks are daemonic children of that, by `spawn` as well. Each sets its process
title as vLLM does: over the memory of its command line, and by prctl for the main thread's name.
`--stages N` gives vLLM-Omni's shape: one engine core a stage, titled with stage and replica.

    python vllm_shape.py --port 0 --tensor-parallel-size 2 [--stages 2]

prints `ready PORT`. `GET /generate` makes every worker compute for a while and answers with what
each process is.
"""

import argparse
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

from json_server import serve

PR_SET_NAME = 15


def set_title(title):
    """What setproctitle does: the title replaces the words of the command line."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NAME, title.encode()[:15], 0, 0, 0)
    with open("/proc/self/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    # Fields 48 and 49: where the words of the command line begin and end.
    begin, end = int(fields[45]), int(fields[46])
    room = end - begin
    words = title.encode()[: room - 1]
    ctypes.memset(begin, 0, room)
    ctypes.memmove(begin, words, len(words))


def compute(seconds):
    """Work that shows in samples under this name."""
    end = time.monotonic() + seconds
    total = 0
    while time.monotonic() < end:
        for number in range(1000):
            total += number * number
    return total


def worker(rank, size, pipe):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_title(f"VLLM::Worker_TP{rank}" if size > 1 else "VLLM::Worker")
    pipe.send(("ready", os.getpid()))
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        if order == "end":
            return
        compute(order)
        pipe.send(("done", os.getpid()))


def engine_core(title, size, pipe):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_title(title)
    spawn = multiprocessing.get_context("spawn")
    pipes = []
    for rank in range(size):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=worker, args=(rank, size, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
    pids = [each.recv()[1] for each in pipes]
    pipe.send((os.getpid(), pids))
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            order = "end"
        for each in pipes:
            each.send(order)
        if order == "end":
            return
        for each in pipes:
            each.recv()
        pipe.send("done")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--tensor-parallel-size", type=int, default=2)
    arguments.add_argument("--stages", type=int, default=0)
    arguments.add_argument("--exit-code", type=int, default=0)
    options = arguments.parse_args()

    spawn = multiprocessing.get_context("spawn")
    titles = [
        f"VLLM::StageEngineCoreProc_stage{stage}_replica0_DP0" for stage in range(options.stages)
    ] or ["VLLM::EngineCore"]
    cores, known = [], []
    for title in titles:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(
            target=engine_core, args=(title, options.tensor_parallel_size, theirs)
        )
        process.start()
        theirs.close()
        core, workers = ours.recv()
        cores.append((ours, process))
        known.append({"title": title, "pid": core, "workers": workers})
    turn = threading.Lock()

    def answer(path):
        if path == "/generate":
            with turn:
                for pipe, _ in cores:
                    pipe.send(0.2)
                for pipe, _ in cores:
                    pipe.recv()
        return {"pid": os.getpid(), "cores": known}

    serve(options.port, answer)
    for pipe, process in cores:
        pipe.send("end")
        process.join(10)
    print("ended in order", flush=True)
    sys.exit(options.exit_code)


if __name__ == "__main__":
    main()
