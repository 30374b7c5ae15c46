//! Frames of the link between controllers and agents, with descriptors on them.

use std::io::{ErrorKind, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use profiler_agent::link::Connection;
use profiler_core::control::{FromAgent, ToAgent};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::de::DeserializeOwned;

/// What a socket takes without a reader.
const MAX_BYTES: usize = 64 << 10;

/// How long a frame's length is.
const LENGTH_BYTES: usize = 4;

/// No input has as many descriptors. A frame has one at most.
const DESCRIPTORS: usize = 4;

/// How long a descriptor that was given up may stay open.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes frames end where the input does, so that their messages are read.
pub(super) fn mend(input: &mut [u8]) {
    let mut at = 0;
    while let Some(length) = input.get(at..at + LENGTH_BYTES) {
        let told = length.iter().rev().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
        let left = input.len().min(MAX_BYTES).saturating_sub(at + LENGTH_BYTES);
        let length = told.min(left);
        input[at..at + LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
        at += LENGTH_BYTES + length;
    }
}

pub(super) fn read(input: &[u8], _scratch: &Path) {
    let input = &input[..input.len().min(MAX_BYTES)];
    hear::<ToAgent>(input);
    hear::<FromAgent>(input);
}

/// Sends it all, and hears it until the link is closed.
fn hear<T: DeserializeOwned>(input: &[u8]) {
    let (near, far) = UnixStream::pair().expect("two sockets");
    let (mut kept, passed) = UnixStream::pair().expect("two sockets");
    send(&far, input, &passed);
    drop((far, passed));
    let link = Connection::new(near);
    let most = input.len() / LENGTH_BYTES;
    let mut heard = 0;
    while let Ok((_message, _descriptor)) = link.recv::<T>() {
        heard += 1;
        assert!(heard <= most, "more messages than frames");
    }
    assert!(link.is_closed(), "whoever sent nonsense is heard no more");
    drop(link);
    // What came as a descriptor is closed wherever it went. A process that another thread starts may
    // hold it for a moment.
    kept.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let ended = kept.read(&mut [0]);
    let is_leaked = ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(!is_leaked, "a descriptor that was passed stays open: {ended:?}");
}

/// The first bytes carry descriptors, as many as the input's length says.
fn send(socket: &UnixStream, input: &[u8], passed: &UnixStream) {
    let mut rest = input;
    let descriptors = [passed.as_fd(); DESCRIPTORS];
    let count = input.len() % DESCRIPTORS;
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if rest.len() == input.len() && count > 0 {
            control.push(SendAncillaryMessage::ScmRights(&descriptors[..count]));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(socket, &[IoSlice::new(rest)], &mut control, flags) {
            Ok(written) => rest = &rest[written..],
            // The socket takes less than is usual here: that much is an input as well.
            Err(_full) => return,
        }
    }
}
