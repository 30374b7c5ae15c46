from .profiler import (  # noqa: F401
    AiCMetrics,
    ExportType,
    ProfilerActivity,
    ProfilerLevel,
    _ExperimentalConfig,
    analyse,
    profile,
    tensorboard_trace_handler,
)
