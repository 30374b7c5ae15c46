//! Windows of many workers on one machine.

use std::process::ExitCode;

use super::super::FigureEntry;

pub(super) fn figures() -> Vec<FigureEntry> {
    Vec::new()
}

pub(super) fn be_worker() -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
