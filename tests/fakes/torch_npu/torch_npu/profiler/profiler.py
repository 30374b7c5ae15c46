"""The profiler: what it prints, what it writes, what it swallows.

While it records, FAKE_ACL_WORK kernels are launched every two milliseconds; `launch` launches so many
and a collective, `grow` writes so many bytes of raw data. With FAKE_MSPTI_LEDGER=DIR a line for each is appended to DIR/<pid>.csv: kind, name,
when it was launched, began and ended. FAKE_TORCH_NPU=refuse is one whose start fails as the vendor's does: it prints why,
and returns.
"""

import functools
import json
import multiprocessing
import os
import socket
import threading
import time

KERNELS = [("aclnnMatmul_MatMulV2", "AI_CORE"), ("aclnnAdd_Add", "AI_VECTOR_CORE")]
COLLECTIVE = "hcom_allReduce__428_0_1"


class ProfilerActivity:
    CPU = "CPU"
    NPU = "NPU"


class ProfilerLevel:
    Level0 = "Level0"
    Level1 = "Level1"
    Level2 = "Level2"
    Level_none = "Level_none"


class AiCMetrics:
    PipeUtilization = "ACL_AICORE_PIPE_UTILIZATION"
    ArithmeticUtilization = "ACL_AICORE_ARITHMETIC_UTILIZATION"
    AiCoreNone = "ACL_AICORE_NONE"


class ExportType:
    Text = "text"
    Db = "db"


class _ExperimentalConfig:
    def __init__(
        self,
        profiler_level=ProfilerLevel.Level0,
        aic_metrics=AiCMetrics.AiCoreNone,
        l2_cache=False,
        msprof_tx=False,
        data_simplification=True,
        record_op_args=False,
        op_attr=False,
        gc_detect_threshold=None,
        export_type=ExportType.Text,
    ):
        self.kept = dict(locals())
        del self.kept["self"]


def no_exception_func(function):
    """Errors are printed, and nothing is raised: as with the vendor's."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            print("[ERROR] [%d] profiler.py: %s" % (os.getpid(), error), flush=True)

    return wrapper


_place = None
_recording = None


def launch(count):
    """The application launches so many kernels, and a collective."""
    now = time.time_ns()
    tasks = []
    for number in range(count):
        name, accelerator = KERNELS[number % len(KERNELS)]
        launched = now + number * 2_000
        start = launched + 1_000
        tasks.append(("kernel", name, accelerator, launched, start, start + 1_250 + number))
    at = now + count * 2_000
    tasks.append(("communication", COLLECTIVE, "", at, at, at + 40_500 + count))
    if _recording:
        _recording.tasks.extend(tasks)


def tensorboard_trace_handler(dir_name=None, worker_name=None, analyse_flag=True, async_mode=False):
    global _place
    name = worker_name or "%s_%d" % (socket.gethostname(), os.getpid())
    stamp = time.strftime("%Y%m%d%H%M%S") + "%03d" % (time.time_ns() // 1_000_000 % 1000)
    _place = os.path.join(dir_name, "%s_%s_ascend_pt" % (name, stamp))

    def handler(instance):
        if analyse_flag:
            analyse(instance.place)

    return handler


def grow(count):
    """The profiler writes so many bytes more."""
    with open(os.path.join(_recording.place, "FRAMEWORK", "torch.op_range"), "ab") as file:
        file.write(bytes(count))


class profile:
    def __init__(
        self,
        *,
        activities=None,
        schedule=None,
        on_trace_ready=None,
        record_shapes=False,
        profile_memory=False,
        with_stack=False,
        with_flops=False,
        with_modules=False,
        experimental_config=None,
    ):
        self.settings = dict(
            activities=list(activities or []),
            record_shapes=record_shapes,
            profile_memory=profile_memory,
            with_stack=with_stack,
            with_flops=with_flops,
            with_modules=with_modules,
            **experimental_config.kept,
        )
        self.on_trace_ready = on_trace_ready
        self.place = _place
        self.tasks = []
        self.is_running = False
        self.thread = None

    @no_exception_func
    def start(self):
        import torch_npu

        if os.environ.get("FAKE_TORCH_NPU") == "refuse":
            raise RuntimeError("AclProfilingStart failed")
        if threading.get_ident() != torch_npu.npu._thread:
            raise RuntimeError("the profiler was started by a thread that has no device")
        os.makedirs(os.path.join(self.place, "FRAMEWORK"))
        levels = {"Level0": 0, "Level1": 1, "Level2": 2}
        torch_npu._library.fake_trace_level(levels.get(self.settings["profiler_level"], -1))
        self.is_running = True
        if "NPU" in self.settings["activities"]:
            global _recording
            _recording = self
            self.thread = threading.Thread(target=self._work, daemon=True)
            self.thread.start()

    @no_exception_func
    def stop(self):
        import torch_npu

        if threading.get_ident() != torch_npu.npu._thread:
            raise RuntimeError("the profiler was stopped by a thread that has no device")
        # Of a schedule that always records, which is the one that is taken where none is given.
        print(
            "[WARNING] [%d] profiler.py: Incorrect schedule: Stop profiler while current state is "
            "RECORD which may result in incomplete parsed data." % os.getpid(),
            flush=True,
        )
        global _recording
        _recording = None
        self.is_running = False
        if self.thread:
            self.thread.join()
        torch_npu._library.fake_trace_level(-1)
        raw = {"process": os.getpid(), "tasks": self.tasks}
        with open(os.path.join(self.place, "FRAMEWORK", "fake.json"), "w") as file:
            json.dump(raw, file)
        with open(os.path.join(self.place, "profiler_info.json"), "w") as file:
            json.dump(self.settings, file)
        ledgers = os.environ.get("FAKE_MSPTI_LEDGER")
        if ledgers:
            with open(os.path.join(ledgers, "%d.csv" % os.getpid()), "a") as file:
                for kind, name, _, launched, start, end in self.tasks:
                    file.write("%s,%s,%d,%d,%d\n" % (kind, name, launched, start, end))
        if self.on_trace_ready:
            self.on_trace_ready(self)

    def _work(self):
        count = int(os.environ.get("FAKE_ACL_WORK", "5"))
        while self.is_running and count:
            launch(count)
            time.sleep(0.002)


@no_exception_func
def analyse(profiler_path, max_process_number=2):
    if multiprocessing.current_process().daemon:
        print(
            "[WARNING] [%d] profiler.py: the data in %s cannot be parsed during the daemon process"
            % (os.getpid(), profiler_path),
            flush=True,
        )
        return
    if os.environ.get("FAKE_TORCH_NPU") == "unparsed":
        raise RuntimeError("Failed to parse the CANN data")
    with open(os.path.join(profiler_path, "FRAMEWORK", "fake.json")) as file:
        raw = json.load(file)
    process = raw["process"]
    cann, hardware, communication = ((process << 10) | (sort << 5) for sort in (1, 2, 3))
    names = {
        process: "Python",
        cann: "CANN",
        hardware: "Ascend Hardware",
        communication: "Communication",
    }
    events = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
        for pid, name in names.items()
    ]

    def event(name, pid, tid, begin, end, **args):
        ts = "%d.%03d" % (begin // 1000, begin % 1000)
        took = (end - begin) / 1000
        events.append(
            {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": took, "args": args}
        )

    for number, (kind, name, accelerator, launched, start, end) in enumerate(raw["tasks"], 1):
        if kind == "communication":
            event(name, communication, 0, start, end, connection_id=number)
            continue
        event("aten::op", process, process, launched - 500, launched + 500)
        event("AscendCL@launch", cann, process, launched, launched + 400, connection_id=number)
        args = {"Task Type": accelerator, "Physic Stream Id": 2, "connection_id": number}
        event(name, hardware, 2, start, end, **args)
    folder = os.path.join(profiler_path, "ASCEND_PROFILER_OUTPUT")
    os.makedirs(folder)
    with open(os.path.join(folder, "trace_view.json"), "w") as file:
        json.dump(events, file)
