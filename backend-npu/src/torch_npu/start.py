def begin(settings):
    import sys

    torch_npu = sys.modules.get("torch_npu")
    if torch_npu is None:
        return failed("torch_npu_missing", "the process has libtorch_npu, but no module torch_npu")
    profiler = torch_npu.profiler
    known = sys.modules.get("_omniprof_torch_npu")
    if known is not None and known.profile is not None:
        return failed("busy", "a capture by torch_npu.profiler was not stopped")

    def member(kind, name):
        found = getattr(getattr(profiler, kind), name, None)
        if found is None:
            raise LookupError("%s of torch_npu %s has no %s" % (kind, version, name))
        return found

    version = getattr(torch_npu, "__version__", "unknown")
    details = {"profiler_level": member("ProfilerLevel", settings["level"])}
    if settings["aic_metrics"]:
        details["aic_metrics"] = member("AiCMetrics", settings["aic_metrics"])
    details.update(settings["details"])
    accepted = inspect_names(profiler._ExperimentalConfig.__init__)
    for name in list(details):
        if accepted is not None and name not in accepted:
            return failed("invalid_config", "torch_npu %s has no setting %s" % (version, name))
    activities = [profiler.ProfilerActivity.CPU]
    if settings["device"]:
        activities.append(profiler.ProfilerActivity.NPU)
    profile = profiler.profile(
        activities=activities,
        # Analysed in a process of its own after the stop, not in this one.
        on_trace_ready=profiler.tensorboard_trace_handler(settings["folder"], analyse_flag=False),
        experimental_config=profiler._ExperimentalConfig(**details),
        **settings["profile"],
    )
    import types

    # Known before it runs: whatever comes in between, a stop finds it.
    module = types.ModuleType("_omniprof_torch_npu")
    module.profile = profile
    sys.modules["_omniprof_torch_npu"] = module
    try:
        profile.start()
    except Exception:
        del sys.modules["_omniprof_torch_npu"]
        raise
    executable = sys.executable or ""
    return {"done": {"version": str(version), "executable": executable, "path": list(sys.path)}}


def inspect_names(function):
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return None
    return {one.name for one in parameters}


def failed(code, message):
    return {"failed": {"code": code, "message": message}}


import json

try:
    answer = begin(json.loads(argument))
except Exception as error:
    answer = failed("torch_npu_failed", "%s: %s" % (type(error).__name__, error))
answer = json.dumps(answer)
