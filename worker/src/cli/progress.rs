//! A progress bar on standard error, where that is a terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar without news moves.
const TICK: Duration = Duration::from_millis(120);

/// A bar that shows nothing where nobody looks.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar over a time, in ms.
    pub(crate) fn time(total_ms: u64, what: &str) -> Self {
        Self::styled(total_ms, what, "{msg} {wide_bar} {elapsed}")
    }

    /// A sign that something goes on, for how long is not known.
    pub(crate) fn spinner(what: &str) -> Self {
        let progress = Self::styled(0, what, "{spinner} {msg} {elapsed}");
        progress.bar.enable_steady_tick(TICK);
        progress
    }

    fn styled(total: u64, what: &str, template: &str) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self { bar }
    }

    /// How far it is.
    pub(crate) fn set(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// What goes on now.
    pub(crate) fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
