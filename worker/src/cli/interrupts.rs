//! Ctrl-C and requests to end, taken as a wish to stop in order.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// From its making on, SIGINT and SIGTERM are told here and no longer end the process. The second
/// one ends it all the same.
#[derive(Debug)]
pub(crate) struct Interrupts {
    came: Receiver<()>,
}

impl Interrupts {
    /// Begins to listen, on a thread of its own.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut int, mut term) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let (tell, came) = channel();
        std::thread::Builder::new().name("omniprof-signals".to_owned()).spawn(move || {
            let mut next = || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = int.recv() => {}
                        _ = term.recv() => {}
                    }
                });
            };
            next();
            // Nobody listens any more where the command is about to end.
            let _told = tell.send(());
            next();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        })?;
        Ok(Self { came })
    }

    /// Waits so long; whether one came.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        match self.came.recv_timeout(at_most) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        }
    }
}
