"""TensorBoard's plugin for PyTorch traces, asked over HTTP as its page asks."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager

from traces import Tools
from truth import equal, near

PLUGIN = "/data/plugin/pytorch_profiler"


@contextmanager
def server(folder):
    log = folder / "tensorboard.log"
    program = os.path.join(os.path.dirname(sys.executable), "tensorboard")
    command = [program, "--logdir", folder, "--host", "127.0.0.1", "--port", "0", "--load_fast=false"]
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=Tools.work)
    try:
        yield wait_for(lambda: address(process, log), "TensorBoard to listen")
    finally:
        process.terminate()
        process.wait(30)


def address(process, log):
    text = log.read_text()
    if process.poll() is not None:
        raise RuntimeError(f"TensorBoard ended: {text[-2000:]}")
    found = re.search(r"http://[0-9a-z.]+:\d+", text)
    return found and found.group()


def wait_for(condition, what, seconds=300):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise TimeoutError(f"waited {seconds} s for {what}")


def ask(base, route, **query):
    url = f"{base}{PLUGIN}/{route}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=300) as answer:
        return json.load(answer)


def tensorboard(source):
    """Kernels and operators, their counts and times, of each worker."""
    folder = source.folder / "tensorboard"
    (folder / "run").mkdir(parents=True)
    for index, part in enumerate(source.parts()):
        trace = part.export("kineto-gz", "--args", "full")
        # Worker, and the span's number.
        (folder / "run" / f"worker{index}.1.pt.trace.json.gz").symlink_to(trace)
    with server(folder) as base:
        wait_for(lambda: ask(base, "runs")["loading"] is False, "the plugin to load")
        equal("runs", ask(base, "runs")["runs"], ["run"])
        views = ask(base, "views", run="run")
        for index, part in enumerate(source.parts()):
            one = {"run": "run", "worker": f"worker{index}", "span": "1"}
            compare(part, lambda route, one=one, **more: ask(base, route, **one, **more), views)


def compare(part, ask_worker, views):
    truth = part.truth
    equal("view of kernels", "Kernel" in views, truth.rows["kernel"] > 0)
    if "Kernel" in views:
        columns, rows = table(ask_worker("kernel/table", group_by="Kernel"))
        calls = columns.index("Calls")
        equal("kernels", sum(row[calls] for row in rows), truth.rows["kernel"])
        # The table has whole microseconds, the pie has all.
        pie = ask_worker("kernel")["total"]["rows"]
        if len(pie) == len(rows):
            ns = round(sum(us for _, us in pie) * 1e3)
            near("ns in kernels", ns, truth.ns["kernel"], truth.slack["kernel"])
        else:
            us = sum(row[columns.index("Total Duration (us)")] for row in rows)
            near("us in kernels", us, truth.ns["kernel"] / 1e3, len(rows) / 2)
    operators = ask_worker("operation/table", group_by="Operation")["data"]
    if "operator" in truth.rows:
        equal("operators", sum(row["calls"] for row in operators), truth.rows["operator"])


def table(answer):
    data = answer["data"]
    return [column["name"] for column in data["columns"]], data["rows"]
