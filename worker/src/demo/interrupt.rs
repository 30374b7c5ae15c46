//! Ctrl-C and a request to end: noticed, so that what was started can be ended in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// The user wants the program to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Whether SIGINT, SIGTERM or SIGHUP has come. From its making on they no longer end the process.
#[derive(Clone, Debug)]
pub(super) struct Interrupt {
    came: Arc<AtomicBool>,
}

impl Interrupt {
    /// Begins to listen, on a thread of its own.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&came);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut int, mut term, mut hup) = {
            let _entered = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        std::thread::Builder::new()
            .name("demo-signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        tokio::select! {
                            _ = int.recv() => {}
                            _ = term.recv() => {}
                            _ = hup.recv() => {}
                        }
                        flag.store(true, Ordering::Release);
                    }
                });
            })
            .context("no thread for signals")?;
        Ok(Self { came })
    }

    /// Whether one has come.
    pub(super) fn came(&self) -> bool {
        self.came.load(Ordering::Acquire)
    }

    /// Ends what runs if one has come.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.came() { Err(Interrupted.into()) } else { Ok(()) }
    }
}
