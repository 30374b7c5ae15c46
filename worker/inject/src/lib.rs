//! `libomniprof_inject.so`: an agent and its backends, for programs that know nothing of omniprof.
//!
//! Three doors lead in, and one file stands at all of them:
//!
//! | door | opened by | when |
//! |---|---|---|
//! | `InitializeInjection` | the CUDA driver, where `CUDA_INJECTION64_PATH` names this file | in `cuInit` |
//! | `InitializeInjectionNvtx2` | NVTX, where `NVTX_INJECTION64_PATH` names it | at its first call |
//! | the constructor | the loader, where `LD_PRELOAD` names it and `OMNIPROF_SOCKET` is set | before `main` |
//!
//! Through whichever it comes first, it starts one thread, all of whose signals are blocked. That
//! thread connects to the controller's socket and waits; nothing else happens until a start: no
//! call of a driver, no subscription, no memory of the application's threads. The other doors then
//! lead nowhere, and so they do where the program embeds an agent itself: a process has one agent.
//!
//! What the environment says is written down in [`profiler_core::inject_env`], which is the whole
//! contract with a launcher.
//!
//! The program runs on as if alone, whatever happens here: nothing unwinds through a door, and
//! every door says that all is well. The file is never unloaded.

mod doors;
mod loaded;
