"""What is recorded of whole programs: the stages on tch, and Python under `omniprof run`."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from registry import check

HERE = os.path.dirname(os.path.abspath(__file__))

#: How long a condition may take to come.
DEADLINE = 120


def demo(*arguments, **environment):
    """What `omniprof demo --engine torch` tells of a few requests, and the folder of its session."""
    program = os.environ["OMNIPROF_BIN"]
    command = [program, "demo", "--engine", "torch", "--requests", "2", "--json", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}
    )


@check
def the_stages_on_tch_are_profiled_with_their_operators():
    with tempfile.TemporaryDirectory() as folder:
        ran = demo("--dir", folder)
        assert ran.returncode == 0, ran.stderr
        outcome = json.loads(ran.stdout)
        workers = outcome["manifest"]["workers"]
        assert [worker["state"] for worker in workers] == ["complete"] * 5, workers
        # Each decodes 48 tokens a request after a prefill, or denoises in 16 steps.
        steps = [worker["steps"] for worker in workers]
        assert steps[:3] == [98, 98, 98] and sum(steps[3:]) == 32, steps
        tables = [stage["tables"] for stage in outcome["summary"]["stages"]]
        calls = [{row["name"]: row["count"] for row in table["operators"]} for table in tables]
        # A token: 7 products a block and one for the next token, on both ranks; 6 and 4 blocks.
        assert calls[0]["aten::linear"] == 2 * 2 * (49 * 6 * 7 + 48), calls[0]["aten::linear"]
        assert calls[1]["aten::linear"] == 2 * (49 * 4 * 7 + 48 + 1), calls[1]["aten::linear"]
        assert calls[2]["aten::conv2d"] >= 5 and "aten::upsample_nearest2d" in calls[2], calls[2]
        assert all("aten::scaled_dot_product_attention" in of for of in calls)
        own = sum(row["self_us"] for row in tables[0]["operators"])
        assert own > 0
        shapes = {row["shapes"] for row in tables[0]["operators_by_shape"]}
        assert "[[1, 1, 384], [768, 384], []]" in shapes, shapes
        # Samples found operators, and who called them lies outside of libtorch.
        stacks = [row for table in tables for row in table["operators_by_stack"]]
        functions = {frame.split(" (")[0] for row in stacks for frame in row["stack"]}
        assert any("torch_worker::" in name for name in functions), functions
        assert not any(name.startswith("at::native") for name in functions), functions


@check
def without_the_tch_worker_the_demo_says_what_to_do():
    with tempfile.TemporaryDirectory() as folder:
        ran = demo("--dir", folder, OMNIPROF_BIN_DIR=folder)
        assert ran.returncode != 0 and "cargo build" in ran.stderr, ran.stderr
        # One whose libtorch is gone.
        place = os.path.join(folder, "torch-worker")
        with open(place, "w") as file:
            file.write("#!/bin/sh\necho libtorch_cpu.so: cannot open >&2; exit 127\n")
        os.chmod(place, 0o755)
        ran = demo("--dir", folder, OMNIPROF_BIN_DIR=folder)
        assert ran.returncode != 0 and "libtorch_cpu.so: cannot open" in ran.stderr, ran.stderr


@check
def two_servers_are_one_pipeline_with_the_operators_that_torch_profiler_counts():
    script = os.path.join(HERE, "../../../servers/two_stages.py")
    command = [sys.executable, script, os.environ["OMNIPROF_BIN"], "--device", "cpu", "--steps", "3"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("stage ")]
    assert len(lines) == 2, ran.stdout


class Served:
    """A Python program under `omniprof run`, and its controller."""

    def __init__(self, folder, program, *words, **environment):
        command = [os.environ["OMNIPROF_BIN"], "run", "--dir", folder, "--listen", "127.0.0.1:0"]
        command += [*words, "--", sys.executable, os.path.join(HERE, program)]
        self.process = subprocess.Popen(
            command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
        )
        self.told = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        until("the controller's address", lambda: self._url() is not None)
        self.url = self._url()

    def _read(self):
        for line in self.process.stderr:
            self.told.append(line)

    def _url(self):
        for line in list(self.told):
            for word in line.split():
                if word.startswith("http://") and word.endswith("/start_profile"):
                    return word[: -len("/start_profile")]
        assert self.process.poll() is None, self.told
        return None

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def until(what, is_so):
    end = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.02)


@check
def ranges_drive_the_schedule_of_an_unmodified_program():
    with tempfile.TemporaryDirectory() as folder:
        marker = {"OMNIPROF_STEP_MARKER": "request *"}
        with Served(folder, "loop.py", "--join", "preload", **marker) as served:
            body = {"max_iterations": 400, "with_stack": True, "record_shapes": True}
            body |= {"formats": ["kineto"], "wait_join_ms": 60_000}
            begun = served.ask("/start_profile", body)
            assert len(begun["workers"]) == 1, begun
            session = begun["session"]
            # It ends by itself after so many steps; the program goes on.
            line = lambda: served.ask(f"/profile/sessions/{session}")["workers"][0]
            until("the end", lambda: line()["state"] in ("complete", "failed"))
            manifest = served.ask(f"/profile/sessions/{session}")
            assert served.process.poll() is None
        worker = manifest["workers"][0]
        assert worker["state"] == "complete" and worker["stopped_by"] == "schedule", worker
        root = os.path.join(folder, manifest["directory"])
        [spool] = [file["path"] for file in worker["files"] if file["format"] == "spool"]
        command = [os.environ["OMNIPROF_BIN"], "summary", os.path.join(root, spool), "--json"]
        summary = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        tables = summary["workers"][0]["tables"]
        calls = {row["name"]: row["count"] for row in tables["operators"]}
        # Two products a request; the window begins and ends with a range's begin.
        assert calls["aten::linear"] == 2 * 400, calls
        stacks = [row for row in tables["operators_by_stack"] if row["name"] == "aten::linear"]
        frames = [frame for row in stacks for frame in row["stack"]]
        assert any(frame.startswith("answer (") and "loop.py" in frame for frame in frames), (stacks, worker)


@check
def hta_reads_the_operators_that_torch_profiler_has():
    consumers = os.path.join(os.environ["OMNIPROF_CONSUMERS"], "venv", "bin", "python")
    if not os.path.exists(consumers):
        print("skipped: hta_reads_the_operators: run tests/consumers/setup first")
        return
    import torch

    import probe
    import programs

    net = programs.model()
    programs.train(net)
    with tempfile.TemporaryDirectory() as folder:
        spool = os.path.join(folder, "run.spool")
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
        ) as profile:
            with probe.Probe(shapes=True, spool=spool):
                programs.train(net)
                programs.infer(net)
        for name in ("ours", "theirs"):
            os.mkdir(os.path.join(folder, name))
        profile.export_chrome_trace(os.path.join(folder, "theirs", "rank0.json"))
        command = [os.environ["OMNIPROF_BIN"], "export", spool, "--format", "kineto"]
        command += ["--args", "full", "--output", os.path.join(folder, "ours", "rank0.json")]
        subprocess.run(command, check=True, timeout=DEADLINE)
        # HTA's own environment knows nothing of PyTorch.
        environment = {**os.environ, "HTA_DISABLE_NS_ROUNDING": "1"}
        environment.pop("PYTHONPATH")
        command = [consumers, os.path.join(HERE, "hta_operators.py"), folder]
        subprocess.run(command, check=True, timeout=DEADLINE, env=environment)
