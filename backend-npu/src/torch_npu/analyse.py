import fcntl
import os
import sys

# What the profiled process left open to its children is not to stay open here: its sockets, devices.
for number in os.listdir("/proc/self/fd"):
    try:
        if int(number) > 2:
            os.close(int(number))
    except OSError:
        pass
folder, paths = sys.argv[1], sys.argv[2:]
# Held until the analysis is over: whoever imports (profiler_export::import::device) waits for this
# lock, and reads the last line of the log: "done", or what went wrong.
lock = open(os.path.join(folder, "analyse.lock"), "w")
fcntl.flock(lock, fcntl.LOCK_EX)
if os.fork() != 0:
    os._exit(0)
# Nobody waits for this process: it is no child of the profiled one.
os.setsid()
os.nice(10)
log = open(os.path.join(folder, "analyse.log"), "w", buffering=1)
os.dup2(log.fileno(), 1)
os.dup2(log.fileno(), 2)
last = "done"
try:
    from torch_npu.profiler.profiler import analyse

    for path in paths:
        analyse(path)
        trace = os.path.join(path, "ASCEND_PROFILER_OUTPUT", "trace_view.json")
        if not os.path.exists(trace):
            last = "analyse wrote no %s" % trace
except BaseException as error:
    last = "%s: %s" % (type(error).__name__, error)
sys.stdout.flush()
log.write(last + "\n")
log.flush()
os._exit(0)
