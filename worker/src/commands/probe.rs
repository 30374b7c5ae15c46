//! `omniprof probe-npu`: what a worker would find if it loaded a library, found by a process that
//! may die of it.

use profiler_core::backend::BackendId;

use crate::cli::{CommandError, Exit, Output, ProbeNpuArgs};

pub(super) fn npu(args: &ProbeNpuArgs, out: &Output) -> Result<Exit, CommandError> {
    let npu = BackendId::parse("npu").map_err(anyhow::Error::new)?;
    let mut failed = None;
    let was_tried = profiler_agent::backends(None).run_trial(&npu, &args.library, &mut |line| {
        if let Err(error) = out.text(&format!("{line}\n")) {
            failed.get_or_insert(error);
        }
    });
    if !was_tried {
        let text = "this omniprof was built without the feature `npu`, and OMNIPROF_PLUGIN_DIR \
                    names no directory with the plugin";
        return Err(CommandError::text(Exit::Usage, text));
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(Exit::Done),
    }
}
