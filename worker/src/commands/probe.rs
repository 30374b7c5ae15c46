//! `omniprof probe-npu`: what a worker would find if it loaded a library, found by a process that
//! may die of it.

use profiler_core::registry::TrialRegistration;

use crate::cli::{CommandError, Exit, Output, ProbeNpuArgs};

pub(super) fn npu(args: &ProbeNpuArgs, out: &Output) -> Result<Exit, CommandError> {
    let Some(trial) = TrialRegistration::find("npu") else {
        let text = "this omniprof was built without the feature `npu`";
        return Err(CommandError::text(Exit::Usage, text));
    };
    let mut failed = None;
    (trial.run)(&args.library, &mut |line| {
        if let Err(error) = out.text(&format!("{line}\n")) {
            failed.get_or_insert(error);
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(Exit::Done),
    }
}
