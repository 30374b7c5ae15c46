//! The command: started as it would start alone, and watched to its end.
#![expect(unsafe_code, reason = "what a child does between fork and exec cannot be checked")]

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child as StdChild, Command, ExitStatus};

use rustix::process::{Pid, Signal as Number, kill_process};

use super::environment::ChildEnvironment;
use super::signals::Signals;

/// The exit code of a command that was found and could not be run, as shells have it.
const CANNOT_RUN: u8 = 126;

/// The exit code of a command that was not found.
const NOT_FOUND: u8 = 127;

/// What is added to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// The command's process.
#[derive(Debug)]
pub(super) struct Child {
    child: StdChild,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts it, in this process's group and on its terminal, with the signal mask that this
    /// process began with. It does not die with this process.
    pub(super) fn start(
        command: &[OsString],
        environment: &ChildEnvironment,
        signals: &Signals,
    ) -> io::Result<Self> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command was given"))?;
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.variables());
        let mask = signals.before();
        // SAFETY: the closure runs in the forked child and makes one system call, which neither
        // allocates nor locks; it owns a copy of a plain value.
        unsafe { command.pre_exec(move || Signals::put_back(&mask)) };
        Ok(Self { child: command.spawn()?, ended: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Hands a signal on. A process that has ended and was not waited for takes it in silence.
    pub(super) fn signal(&self, number: i32) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let signal = Number::from_named_raw(number);
        if let (None, Some(pid), Some(signal)) = (self.ended, pid, signal) {
            // What is not there needs no signal.
            let _sent: rustix::io::Result<()> = kill_process(pid, signal);
        }
    }
}

/// The exit code that stands for the command's end.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| BY_SIGNAL + signal));
    code.and_then(|code| u8::try_from(code & 0xFF).ok()).unwrap_or(1)
}

/// The exit code that stands for a command which could not be started.
pub(super) fn start_code(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_RUN,
    }
}
