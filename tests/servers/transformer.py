"""A small transformer behind a plain HTTP server: unmodified PyTorch, which knows of no profiler.

    python transformer.py [--port 0] [--graphs] [--device cuda]

prints `ready PORT`. `POST /generate?steps=N` makes N passes, eager or (`--graphs`) by replays of a
CUDA graph, and answers when the device has done them. `POST /count?steps=N` does the same below
torch.profiler and answers with the number of the device's kernels (without a device: of operators)
and their time, ns: what another profiler of the same work should see.
"""

import argparse
import json
import os
import tempfile
import threading
from urllib.parse import parse_qs, urlparse

import torch

from json_server import serve


class Model:
    def __init__(self, device, graphs):
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(256, 4, 512, batch_first=True, norm_first=True)
        model = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        # Without dropout, and in training mode: there its layers are single operators.
        self.model = model.to(device).train().requires_grad_(False)
        for part in self.model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
            if isinstance(part, torch.nn.MultiheadAttention):
                part.dropout = 0.0
        self.input = torch.ones(4, 16, 256, device=device)
        self.device = device
        self.graph = None
        self.generate(3)
        if graphs:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.model(self.input)
            self.generate(3)

    def generate(self, steps):
        for _ in range(steps):
            if self.graph is None:
                self.model(self.input)
            else:
                self.graph.replay()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def count(self, steps):
        kinds = torch.profiler.ProfilerActivity
        kind, category = (kinds.CUDA, "kernel") if self.device == "cuda" else (kinds.CPU, "cpu_op")
        with torch.profiler.profile(activities=[kind]) as profile:
            self.generate(steps)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace.json")
            profile.export_chrome_trace(path)
            with open(path) as file:
                events = json.load(file)["traceEvents"]
        durations = [event["dur"] for event in events if event.get("cat") == category]
        return {"count": len(durations), "ns": round(sum(durations) * 1e3)}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--graphs", action="store_true")
    options = arguments.parse_args()
    model = Model(options.device, options.graphs)
    turn = threading.Lock()

    def answer(path):
        url = urlparse(path)
        steps = int(parse_qs(url.query).get("steps", ["1"])[0])
        with turn:
            if url.path == "/count":
                counted = model.count(steps)
            else:
                model.generate(steps)
                counted = {}
        return {"pid": os.getpid(), "steps": steps} | counted

    serve(options.port, answer)


if __name__ == "__main__":
    main()
