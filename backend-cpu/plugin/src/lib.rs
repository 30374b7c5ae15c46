//! The CPU backend as a plugin. `docs/plugins.md` tells how it is built and where it is put.

profiler_core::export_backend!(backend_cpu::REGISTRATION);
