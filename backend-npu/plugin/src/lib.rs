//! The Ascend backend as a plugin. `docs/plugins.md` tells how it is built and where it is put.

profiler_core::export_backend!(backend_npu::REGISTRATION, backend_npu::TRIAL);
