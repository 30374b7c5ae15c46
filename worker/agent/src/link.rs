//! The link between an agent and its controller on one machine: frames over a Unix socket.
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON. One file descriptor may
//! ride on a frame. Both sides use this module: it knows no message, only how one travels.
//!
//! A peer is never trusted: a frame that is too long, is no JSON, stops half-way or carries more
//! than one descriptor closes the link, and takes neither unbounded memory nor unbounded time.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use profiler_core::control::MAX_FRAME_BYTES;
use profiler_core::descriptor::{Kept, LostDescriptor, raise};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, recvmsg,
    sendmsg, shutdown, socket_with,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a frame that has begun may take to arrive, or to be taken by the peer.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(5);

/// How much of a frame is allocated ahead of its arrival.
const READ_STEP_BYTES: usize = 64 << 10;

/// Why a link cannot be used, or can no longer be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer closed the link, or this side did.
    #[error("the link is closed")]
    Closed,
    /// The peer announced, or this side was asked to send, a frame past [`MAX_FRAME_BYTES`].
    #[error("a frame of {len} bytes is longer than the {MAX_FRAME_BYTES} that a link takes")]
    TooLong {
        /// Its length.
        len: u64,
    },
    /// A frame holds something else than the message that is expected here.
    #[error("a frame of {len} bytes is not understood")]
    Malformed {
        /// Its length.
        len: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// More than one descriptor rode on a frame.
    #[error("more than one file descriptor came with a frame")]
    TooManyDescriptors,
    /// A frame stopped half-way, or the peer takes nothing.
    #[error("the peer stalled for {} s within a frame", FRAME_DEADLINE.as_secs())]
    Stalled,
    /// Nothing arrived in the time that the caller gave.
    #[error("no frame arrived in time")]
    Timeout,
    /// The peer runs as somebody else.
    #[error("the peer runs as user {uid}, this process as user {own}")]
    ForeignPeer {
        /// The peer's user.
        uid: u32,
        /// This process's user.
        own: u32,
    },
    /// The program that this process runs has closed the link's descriptor.
    #[error("the link's descriptor is gone")]
    Lost {
        /// Which one.
        #[source]
        source: LostDescriptor,
    },
    /// The operating system refused something.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl LinkError {
    /// Whether the link is of no further use. Only waiting in vain leaves it as it was.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Timeout)
    }
}

/// The user that the kernel shows for one whom this process's user namespace does not know.
pub const OVERFLOW_UID: u32 = 65_534;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The process's id in this process's pid namespace, 0 where it has none there.
    pub pid: u32,
    /// Its user in this process's user namespace.
    pub uid: u32,
}

/// One end of a link.
///
/// Any thread may send, one at a time each frame; one thread at a time receives. Whatever goes
/// wrong but a timeout closes both directions: half a frame must not be followed by another.
#[derive(Debug)]
pub struct Connection {
    stream: Kept<UnixStream>,
    sending: Mutex<()>,
    receiving: Mutex<()>,
    closed: AtomicBool,
}

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    ///
    /// [`LinkError::Io`] where nobody listens there, or whoever does is too busy to accept: this
    /// never waits.
    pub fn connect(path: &Path) -> Result<Self, LinkError> {
        let failed = |errno: Errno| LinkError::Io {
            what: "cannot connect to the controller",
            source: errno.into(),
        };
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
        rustix::net::connect(&socket, &address).map_err(failed)?;
        Ok(Self::new(UnixStream::from(raise(socket))))
    }

    /// A link over a connected stream (of an accepting socket, of a pair).
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream: Kept::new(stream),
            sending: Mutex::new(()),
            receiving: Mutex::new(()),
            closed: AtomicBool::new(false),
        }
    }

    /// Two ends of one link.
    ///
    /// # Errors
    ///
    /// [`LinkError::Io`] where the process has no descriptor left.
    pub fn pair() -> Result<(Self, Self), LinkError> {
        let (one, other) = UnixStream::pair()
            .map_err(|source| LinkError::Io { what: "cannot make a pair of sockets", source })?;
        Ok((Self::new(one), Self::new(other)))
    }

    /// Who is at the other end, as the kernel says.
    ///
    /// # Errors
    ///
    /// [`LinkError::Io`] where the kernel does not say.
    pub fn peer(&self) -> Result<Peer, LinkError> {
        let (pid, uid) = crate::credentials::of_peer(self.stream()?).map_err(|source| {
            LinkError::Io { what: "cannot read the peer's credentials", source }
        })?;
        Ok(Peer { pid, uid })
    }

    /// Refuses a peer that is neither the same user nor root.
    ///
    /// # Errors
    ///
    /// [`LinkError::ForeignPeer`], and [`LinkError::Io`] where the kernel does not say.
    pub fn check_peer(&self) -> Result<Peer, LinkError> {
        let peer = self.peer()?;
        let own = rustix::process::geteuid().as_raw();
        if peer.uid != own && peer.uid != 0 {
            self.close();
            return Err(LinkError::ForeignPeer { uid: peer.uid, own });
        }
        Ok(peer)
    }

    /// Sends one message, with a descriptor where one is given. The peer gets a copy of it.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; the link is closed then, but for a message that is too long to be sent.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), LinkError> {
        let mut frame = vec![0; 4];
        serde_json::to_writer(&mut frame, message)
            .map_err(|source| LinkError::Malformed { len: frame.len(), source })?;
        let len = frame.len() - 4;
        let header = match u32::try_from(len) {
            Ok(header) if header <= MAX_FRAME_BYTES => header,
            _ => return Err(LinkError::TooLong { len: len as u64 }),
        };
        frame[..4].copy_from_slice(&header.to_le_bytes());

        let _turn = turn(&self.sending);
        self.open_or_closed()?;
        self.closing(self.write(&frame, descriptor))
    }

    /// Waits for a message, as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; the link is closed then.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<(T, Option<OwnedFd>), LinkError> {
        self.receive(None)
    }

    /// Waits for a message, `timeout` at most until it begins to arrive.
    ///
    /// # Errors
    ///
    /// [`LinkError::Timeout`] leaves the link open, all else closes it.
    pub fn recv_timeout<T: DeserializeOwned>(
        &self,
        timeout: Duration,
    ) -> Result<(T, Option<OwnedFd>), LinkError> {
        self.receive(Some(timeout))
    }

    /// Closes both directions. Whoever waits in [`Connection::recv`], here or there, returns.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Ok(stream) = self.stream.get() {
            // An error says that the peer was first.
            let _done: Result<(), Errno> = shutdown(stream, Shutdown::Both);
        }
    }

    /// Whether this side closed the link, by itself or because of what the peer sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn receive<T: DeserializeOwned>(
        &self,
        timeout: Option<Duration>,
    ) -> Result<(T, Option<OwnedFd>), LinkError> {
        let _turn = turn(&self.receiving);
        self.open_or_closed()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        match self.wait(PollFlags::IN, deadline) {
            Err(LinkError::Stalled) => return Err(LinkError::Timeout),
            other => self.closing(other)?,
        }
        let frame = self.closing(self.read_frame());
        let (body, descriptor) = frame?;
        let message = serde_json::from_slice(&body)
            .map_err(|source| LinkError::Malformed { len: body.len(), source });
        Ok((self.closing(message)?, descriptor))
    }

    fn read_frame(&self) -> Result<(Vec<u8>, Option<OwnedFd>), LinkError> {
        let deadline = Instant::now() + FRAME_DEADLINE;
        let mut descriptor = None;
        let mut header = [0; 4];
        self.read_exact(&mut header, deadline, &mut descriptor)?;
        let len = u32::from_le_bytes(header);
        if len > MAX_FRAME_BYTES {
            return Err(LinkError::TooLong { len: u64::from(len) });
        }
        let mut left = len as usize;
        let mut body = Vec::new();
        while left > 0 {
            let start = body.len();
            let step = left.min(READ_STEP_BYTES);
            body.resize(start + step, 0);
            self.read_exact(&mut body[start..], deadline, &mut descriptor)?;
            left -= step;
        }
        Ok((body, descriptor))
    }

    /// Fills `buffer` and reads nothing past it, so that a descriptor is never taken together
    /// with bytes of the frame before its own.
    fn read_exact(
        &self,
        mut buffer: &mut [u8],
        deadline: Instant,
        descriptor: &mut Option<OwnedFd>,
    ) -> Result<(), LinkError> {
        while !buffer.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let mut parts = [IoSliceMut::new(buffer)];
            let read = match recvmsg(self.stream()?, &mut parts, &mut control, flags) {
                Ok(message) => message.bytes,
                Err(Errno::AGAIN) => {
                    self.wait(PollFlags::IN, Some(deadline))?;
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Err(LinkError::Closed),
                Err(errno) => {
                    return Err(LinkError::Io {
                        what: "cannot read from the link",
                        source: errno.into(),
                    });
                }
            };
            take_descriptor(&mut control, descriptor)?;
            if read == 0 {
                return Err(LinkError::Closed);
            }
            buffer = &mut std::mem::take(&mut buffer)[read..];
            if !buffer.is_empty() && Instant::now() >= deadline {
                return Err(LinkError::Stalled);
            }
        }
        Ok(())
    }

    fn write(&self, frame: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), LinkError> {
        let deadline = Instant::now() + FRAME_DEADLINE;
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        let mut rest = frame;
        while !rest.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            // The descriptor rides on the first byte that the kernel takes.
            if rest.len() == frame.len() && !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&descriptors));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(self.stream()?, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, Some(deadline))?,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(LinkError::Closed),
                Err(errno) => {
                    return Err(LinkError::Io {
                        what: "cannot write to the link",
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready; past the deadline it is [`LinkError::Stalled`].
    fn wait(&self, what: PollFlags, deadline: Option<Instant>) -> Result<(), LinkError> {
        loop {
            let timeout = match deadline {
                None => None,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    Some(Timespec {
                        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                        tv_nsec: i64::from(left.subsec_nanos()),
                    })
                }
            };
            let mut polled = [PollFd::from_borrowed_fd(self.stream()?.as_fd(), what)];
            match poll(&mut polled, timeout.as_ref()) {
                Ok(0) => return Err(LinkError::Stalled),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(LinkError::Io {
                        what: "cannot wait for the link",
                        source: errno.into(),
                    });
                }
            }
        }
    }

    /// The socket, if the program that this lives in has not closed it.
    fn stream(&self) -> Result<&UnixStream, LinkError> {
        self.stream.get().map_err(|lost| LinkError::Lost { source: lost })
    }

    fn open_or_closed(&self) -> Result<(), LinkError> {
        if self.is_closed() {
            return Err(LinkError::Closed);
        }
        Ok(())
    }

    fn closing<T>(&self, result: Result<T, LinkError>) -> Result<T, LinkError> {
        if result.as_ref().is_err_and(LinkError::is_final) {
            self.close();
        }
        result
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

fn take_descriptor(
    control: &mut RecvAncillaryBuffer<'_>,
    descriptor: &mut Option<OwnedFd>,
) -> Result<(), LinkError> {
    let mut surplus = false;
    for message in control.drain() {
        let RecvAncillaryMessage::ScmRights(received) = message else { continue };
        for one in received {
            // What is not kept is closed here, whatever the peer meant by it.
            surplus |= descriptor.replace(one).is_some();
        }
    }
    if surplus {
        return Err(LinkError::TooManyDescriptors);
    }
    Ok(())
}

fn turn(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    fn pair_with_raw() -> (Connection, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Connection::new(one), other)
    }

    #[test]
    fn a_message_and_its_descriptor_arrive() {
        let (one, other) = Connection::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        one.send(&"first", None).unwrap();
        one.send(&"second", Some(file.as_fd())).unwrap();
        one.send(&"third", None).unwrap();

        let (text, descriptor) = other.recv::<String>().unwrap();
        assert_eq!((text.as_str(), descriptor.is_none()), ("first", true));
        let (text, descriptor) = other.recv::<String>().unwrap();
        assert_eq!(text, "second");
        let mut copy = std::fs::File::from(descriptor.unwrap());
        let flags = rustix::io::fcntl_getfd(&copy).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        copy.write_all(b"written by the peer").unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "written by the peer");
        let (text, descriptor) = other.recv::<String>().unwrap();
        assert_eq!((text.as_str(), descriptor.is_none()), ("third", true));
    }

    #[test]
    fn a_long_message_passes_both_ways_at_once() {
        let (one, other) = Connection::pair().unwrap();
        let long = "x".repeat(3 << 20);
        std::thread::scope(|scope| {
            scope.spawn(|| one.send(&long, None).unwrap());
            scope.spawn(|| other.send(&long, None).unwrap());
            assert_eq!(other.recv::<String>().unwrap().0.len(), long.len());
            assert_eq!(one.recv::<String>().unwrap().0.len(), long.len());
        });
    }

    #[test]
    fn a_frame_that_is_too_long_closes_the_link() {
        let (link, mut raw) = pair_with_raw();
        raw.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let error = link.recv::<String>().unwrap_err();
        assert!(matches!(error, LinkError::TooLong { len: 0xffff_ffff }), "{error}");
        assert!(link.is_closed());
        assert_eq!(raw.read(&mut [0; 8]).unwrap(), 0, "the peer sees the end");
        assert!(matches!(link.send(&"x", None), Err(LinkError::Closed)));
    }

    #[test]
    fn a_frame_of_no_json_closes_the_link() {
        for body in [&b"{"[..], b"", b"\xff\xff", b"\"x\" trailing", b"17"] {
            let (link, mut raw) = pair_with_raw();
            raw.write_all(&(body.len() as u32).to_le_bytes()).unwrap();
            raw.write_all(body).unwrap();
            let error = link.recv::<String>().unwrap_err();
            assert!(matches!(error, LinkError::Malformed { .. }), "{error}");
            assert!(link.is_closed());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_a_message_or_an_error(
            frames in proptest::collection::vec(
                (proptest::prelude::any::<u8>(), proptest::collection::vec(0_u8.., 0..64)), 0..4,
            ),
        ) {
            let (link, mut raw) = pair_with_raw();
            for (len, body) in frames {
                raw.write_all(&u32::from(len).to_le_bytes()).unwrap();
                raw.write_all(&body).unwrap();
            }
            drop(raw);
            // The end comes at last, whatever came before.
            while link.recv::<serde_json::Value>().is_ok() {}
            proptest::prop_assert!(link.is_closed());
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_overflowing_the_stack() {
        let (link, mut raw) = pair_with_raw();
        let body = vec![b'['; 100_000];
        raw.write_all(&(body.len() as u32).to_le_bytes()).unwrap();
        raw.write_all(&body).unwrap();
        assert!(link.recv::<serde_json::Value>().is_err());
    }

    #[test]
    fn half_a_frame_and_an_end_close_the_link() {
        for bytes in [&[1u8, 0][..], &[9, 0, 0, 0, b'"'][..]] {
            let (link, mut raw) = pair_with_raw();
            raw.write_all(bytes).unwrap();
            drop(raw);
            assert!(matches!(link.recv::<String>(), Err(LinkError::Closed)));
        }
    }

    #[test]
    fn waiting_in_vain_leaves_the_link_open() {
        let (one, other) = Connection::pair().unwrap();
        let error = one.recv_timeout::<String>(Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, LinkError::Timeout), "{error}");
        other.send(&"late", None).unwrap();
        assert_eq!(one.recv::<String>().unwrap().0, "late");
    }

    #[test]
    fn several_descriptors_on_a_frame_close_the_link() {
        let (link, raw) = pair_with_raw();
        let file = tempfile::tempfile().unwrap();
        let descriptors = [file.as_fd(), file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let frame = [2, 0, 0, 0, b'"', b'"'];
        sendmsg(&raw, &[IoSlice::new(&frame)], &mut control, SendFlags::empty()).unwrap();
        assert!(matches!(link.recv::<String>(), Err(LinkError::TooManyDescriptors)));
    }

    #[test]
    fn a_listener_that_accepts_nobody_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert!(matches!(Connection::connect(&path), Err(LinkError::Io { .. })));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let links: Vec<_> = (0..8).map(|_| Connection::connect(&path)).collect();
        assert!(links.iter().any(Result::is_ok));
        assert!(links.iter().any(Result::is_err), "the queue is full");
    }

    #[test]
    fn closing_wakes_whoever_waits() {
        let (one, other) = Connection::pair().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| other.recv::<String>());
            one.close();
            assert!(matches!(waiting.join().unwrap(), Err(LinkError::Closed)));
        });
    }

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (one, _other) = Connection::pair().unwrap();
        let peer = one.check_peer().unwrap();
        assert_eq!(peer.pid, std::process::id());
    }
}
