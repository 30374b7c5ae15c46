"""Profiles two unmodified PyTorch servers as one pipeline, and compares with torch.profiler.

    python two_stages.py OMNIPROF [--root DIR] [--steps 50] [--device cuda] [--activities GPU]

Two `omniprof run` beside one `omniprof serve`: stage 0 is eager, stage 1 replays CUDA graphs. After
the capture each server does the same work below torch.profiler in a process of its own. Prints a
line for each and ends with 1 where the numbers of kernels differ, or their time by a tenth. With
`--device cpu` it is the operators that are counted, and no graphs are replayed.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "transformer.py")


def post(url, body=None):
    data = json.dumps(body).encode() if body is not None else b""
    request = urllib.request.Request(url, data=data, method="POST")
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: {error.code}: {error.read().decode()}") from error


class Stage:
    """A server, alone or below `omniprof run`."""

    def __init__(self, command, options, graphs):
        arguments = [sys.executable, SERVER, "--device", options.device]
        if graphs:
            arguments.append("--graphs")
        self.process = subprocess.Popen(command + arguments, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("ready "):
                self.url = f"http://127.0.0.1:{line.split()[1]}"
                return
        raise SystemExit(f"the server does not start: {command + arguments}")

    def ask(self, what, steps):
        return post(f"{self.url}/{what}?steps={steps}")

    def end(self):
        self.process.terminate()
        self.process.wait(60)


def counted(path, category):
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    durations = [event["dur"] for event in events if event.get("cat") == category]
    return len(durations), round(sum(durations) * 1e3)


def what(options):
    """What is counted: its category in traces, its kind of row."""
    return ("kernel", "kernel") if options.device == "cuda" else ("cpu_op", "operator")


def has_graphs(options, stage):
    return stage == 1 and options.device == "cuda"


def profile(options, root):
    """How many rows of each stage's trace, and their time, ns."""
    serve = [options.omniprof, "serve", "--dir", root, "--listen", "127.0.0.1:0", "--json"]
    controller = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    url = json.loads(controller.stdout.readline())["url"]
    stages = []
    try:
        for stage, role in enumerate(["thinker", "talker"]):
            run = [options.omniprof, "run", "--server", url, "--stage", str(stage), "--role", role]
            if "CPU" in options.activities:
                # For operators a process must be joined as it starts.
                run += ["--join", "preload"]
            stages.append(Stage(run + ["--"], options, has_graphs(options, stage)))
        formats = ["pftrace-gz", "kineto-gz"]
        body = {"activities": options.activities, "formats": formats, "wait_join_ms": 20000}
        post(f"{url}/start_profile", body | {"stages": [0, 1]})
        for stage in stages:
            stage.ask("generate", options.steps)
        manifest = post(f"{url}/stop_profile", {"wait_ms": 120000})
    finally:
        for stage in stages:
            stage.end()
        controller.terminate()
        controller.wait(60)
    found = {}
    for worker in manifest["workers"]:
        if worker.get("host_counters"):
            continue
        files = [file["path"] for file in worker["files"] if file["format"] == "kineto-gz"]
        path = os.path.join(root, manifest["directory"], files[0])
        category, kind = what(options)
        found[worker["stage"]] = counted(path, category)
        rows = worker["records"].get(kind, 0)
        if rows != found[worker["stage"]][0]:
            raise SystemExit(f"{path}: {found[worker['stage']][0]} of {rows} rows of {kind}")
    print(json.dumps({"directory": os.path.join(root, manifest["directory"])}))
    return found


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("omniprof")
    arguments.add_argument("--root")
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--activities", nargs="+")
    options = arguments.parse_args()
    options.activities = options.activities or ["GPU" if options.device == "cuda" else "CPU"]
    with tempfile.TemporaryDirectory() as scratch:
        found = profile(options, options.root or scratch)
    failed = False
    for stage in range(2):
        alone = Stage([], options, has_graphs(options, stage))
        try:
            theirs = alone.ask("count", options.steps)
        finally:
            alone.end()
        count, ns = found.get(stage, (0, 0))
        # What an operator takes depends on who else works; what a kernel does, hardly.
        differs = options.device == "cuda" and abs(ns - theirs["ns"]) > theirs["ns"] / 10
        failed |= count == 0 or count != theirs["count"] or differs
        print(
            f"stage {stage}: {count} {what(options)[1]} rows, {ns} ns; "
            f"torch.profiler {theirs['count']}, {theirs['ns']} ns"
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
