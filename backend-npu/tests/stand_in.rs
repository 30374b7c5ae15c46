//! The stand-in itself, driven as a client of the vendor's drives the library: that it does what the
//! library was seen to do. What is proved on it is worth no more than that.
#![expect(unsafe_code, reason = "calls a C library")]

mod support;

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::session::{Alone, alone};
use support::{Activity, FakeMspti};

const API: u32 = 3;
const BUFFER_BYTES: usize = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

type Request = extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
type Complete = extern "C" fn(*mut u8, usize, usize);

/// A buffer that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Back {
    address: usize,
    size: usize,
    valid: usize,
    thread: ThreadId,
}

static BACK: Mutex<Vec<Back>> = Mutex::new(Vec::new());
static ASKED: AtomicUsize = AtomicUsize::new(0);
static DECLINES: AtomicBool = AtomicBool::new(false);

/// A completion that tells when it has begun, and waits until it may end.
static GATE: Mutex<Option<(Sender<()>, Receiver<()>)>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn request(buffer: *mut *mut u8, size: *mut usize, most: *mut usize) {
    ASKED.fetch_add(1, Ordering::SeqCst);
    let (address, bytes) = if DECLINES.load(Ordering::SeqCst) {
        (std::ptr::null_mut(), 0)
    } else {
        (Box::leak(vec![0_u8; BUFFER_BYTES].into_boxed_slice()).as_mut_ptr(), BUFFER_BYTES)
    };
    // SAFETY: the library passes three places to write to.
    unsafe { *buffer = address };
    // SAFETY: as above.
    unsafe { *size = bytes };
    // SAFETY: as above.
    unsafe { *most = 0 };
}

extern "C" fn complete(buffer: *mut u8, size: usize, valid: usize) {
    let gate = lock(&GATE).take();
    if let Some((entered, leave)) = gate {
        entered.send(()).expect("somebody listens");
        leave.recv_timeout(PATIENCE).expect("the gate is opened");
    }
    let address = buffer.expose_provenance();
    lock(&BACK).push(Back { address, size, valid, thread: std::thread::current().id() });
}

/// The vendor's functions.
impl FakeMspti {
    fn call(&self, name: &str, argument: u32) -> c_int {
        self.symbol::<extern "C" fn(u32) -> c_int>(name)(argument)
    }

    fn subscribe(&self, handle: *mut *mut c_void) -> c_int {
        type Subscribe =
            unsafe extern "C" fn(*mut *mut c_void, *const c_void, *mut c_void) -> c_int;
        let subscribe = self.symbol::<Subscribe>("msptiSubscribe");
        // SAFETY: the handle is null or can be written.
        unsafe { subscribe(handle, std::ptr::null(), std::ptr::null_mut()) }
    }

    fn unsubscribe(&self, handle: *mut c_void) -> c_int {
        self.symbol::<extern "C" fn(*mut c_void) -> c_int>("msptiUnsubscribe")(handle)
    }

    fn register(&self) -> c_int {
        let name = "msptiActivityRegisterCallbacks";
        self.symbol::<extern "C" fn(Request, Complete) -> c_int>(name)(request, complete)
    }

    /// One step of this thread's walk: the code, and where the record lies in the buffer.
    fn next(&self, back: Back) -> (c_int, usize) {
        type Next = unsafe extern "C" fn(*mut u8, usize, *mut *mut u8) -> c_int;
        let next = self.symbol::<Next>("msptiActivityGetNextRecord");
        let buffer: *mut u8 = std::ptr::with_exposed_provenance_mut(back.address);
        let mut record = std::ptr::null_mut();
        // SAFETY: a buffer that came back and is never freed, or null.
        let code = unsafe { next(buffer, back.valid, &raw mut record) };
        (code, record.addr().wrapping_sub(back.address))
    }

    /// Emits so many API records.
    fn calls_of_api(&self, count: usize) {
        let call = Activity { name: c"aclrtMalloc".as_ptr(), ..Activity::now() };
        for _ in 0..count {
            assert!(self.emit(API, &call));
        }
    }

    /// Hands over what there is; the one buffer that came back.
    fn flushed(&self) -> Back {
        lock(&BACK).clear();
        assert_eq!(self.call("msptiActivityFlushAll", 1), 0);
        let back = std::mem::take(&mut *lock(&BACK));
        let [back] = back[..] else { panic!("{back:?}") };
        back
    }
}

/// A client that has API records on, and the callback slot.
fn client() -> Alone {
    static FIRST: OnceLock<()> = OnceLock::new();
    let alone = alone();
    FIRST.get_or_init(|| {
        // Before anybody has the slot.
        assert_eq!(alone.fake.call("msptiActivityFlushAll", 1), 0);
    });
    assert_eq!(alone.fake.register(), 0);
    assert_eq!(alone.fake.call("msptiActivityEnable", API), 0, "it works without a subscription");
    DECLINES.store(false, Ordering::SeqCst);
    lock(&BACK).clear();
    alone
}

#[test]
fn a_buffer_is_asked_for_at_the_first_record_and_goes_back_at_80_percent_on_another_thread() {
    let alone = client();
    let asked = ASKED.load(Ordering::SeqCst);
    assert_eq!(alone.fake.call("msptiActivityFlushAll", 1), 0);
    assert!(lock(&BACK).is_empty(), "nothing was recorded, nothing comes back");
    alone.fake.calls_of_api(34_952);
    assert_eq!(alone.fake.call("msptiActivityFlushPeriod", 1), 0);
    assert!(lock(&BACK).is_empty(), "neither full nor flushed");
    alone.fake.calls_of_api(1);
    let deadline = Instant::now() + PATIENCE;
    while lock(&BACK).is_empty() {
        assert!(Instant::now() < deadline, "the full buffer does not come back");
        std::thread::yield_now();
    }
    let back = lock(&BACK)[0];
    assert_eq!((back.size, back.valid), (BUFFER_BYTES, 1_677_744), "as observed");
    assert_ne!(back.thread, std::thread::current().id());
    assert_eq!(ASKED.load(Ordering::SeqCst), asked + 1);
    alone.fake.calls_of_api(1);
    assert_eq!(ASKED.load(Ordering::SeqCst), asked + 2);
    let back = alone.fake.flushed();
    assert_eq!((back.valid, back.thread), (48, std::thread::current().id()));
}

#[test]
fn recording_threads_wait_while_a_flush_completes() {
    let alone = client();
    let fake = alone.fake;
    fake.calls_of_api(1);
    let (entered, is_entered) = channel();
    let (leave, may_leave) = channel();
    *lock(&GATE) = Some((entered, may_leave));
    let (tell, thread) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| fake.call("msptiActivityFlushAll", 1));
        is_entered.recv_timeout(PATIENCE).expect("the completion begins");
        let recording = scope.spawn(move || {
            // SAFETY: takes nothing and cannot fail.
            tell.send(unsafe { libc::gettid() }).expect("somebody listens");
            fake.calls_of_api(1);
        });
        let thread = thread.recv_timeout(PATIENCE).expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(!recording.is_finished(), "it recorded beside a completion");
            let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall"));
            // A futex, which is all that it can wait for.
            let futex = format!("{} ", libc::SYS_futex);
            if status.is_ok_and(|status| status.starts_with(&futex)) {
                break;
            }
            assert!(Instant::now() < deadline, "it neither records nor waits");
            std::thread::yield_now();
        }
        leave.send(()).expect("the completion waits");
    });
    assert_eq!(lock(&BACK)[0].valid, 48);
    assert_eq!(fake.flushed().valid, 48, "the other thread's record came into the next");
}

#[test]
fn a_walk_that_is_given_up_makes_the_threads_next_one_begin_inside_the_buffer() {
    let alone = client();
    let fake = alone.fake;
    let four = || {
        fake.calls_of_api(4);
        fake.flushed()
    };
    let whole = |back: Back| {
        let places: Vec<_> =
            (0..5).map(|_| fake.next(back)).take_while(|step| step.0 == 0).collect();
        places.iter().map(|(_, place)| *place).collect::<Vec<_>>()
    };
    assert_eq!(fake.next(four()), (0, 0));
    assert_eq!(whole(four()), [48, 96, 144], "three of four");
    assert_eq!(whole(four()), [0, 48, 96, 144], "the end has reset it");
    assert_eq!(fake.next(four()), (0, 0));
    let back = four();
    std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| whole(back)).join().expect("it walks");
        assert_eq!(elsewhere, [0, 48, 96, 144], "another thread has its own");
    });
    assert_eq!(whole(back).len(), 3);

    let nothing = Back { address: 0, ..back };
    assert_eq!(fake.next(nothing).0, 1);
    fake.calls_of_api(1);
    fake.unknown(13);
    let back = fake.flushed();
    assert_eq!([fake.next(back).0, fake.next(back).0, fake.next(back).0], [0, 999, 999]);
    // The cursor stands there still; a buffer that ends before it is at its end.
    assert_eq!(fake.next(Back { valid: 48, ..back }).0, 3);
}

#[test]
fn without_a_buffer_a_record_is_dropped_and_null_completed() {
    let alone = client();
    DECLINES.store(true, Ordering::SeqCst);
    let before = alone.fake.dropped();
    alone.fake.calls_of_api(3);
    assert_eq!(alone.fake.dropped() - before, 3);
    let back = std::mem::take(&mut *lock(&BACK));
    let told: Vec<_> = back.iter().map(|back| (back.address, back.size, back.valid)).collect();
    assert_eq!(told, [(0, 0, 0); 3]);
    DECLINES.store(false, Ordering::SeqCst);
    alone.fake.calls_of_api(1);
    assert_eq!(alone.fake.flushed().valid, 48, "it asks again, and goes on");
}

/// A digit for each kind from 0 to 13.
#[test]
fn which_kinds_are_allowed_depends_on_version_and_preload() {
    let alone = client();
    let fake = alone.fake;
    for (cann, is_preloaded, expected) in [
        (80, false, "10000111111111"),
        (80, true, "10000111111111"),
        (81, false, "10000000011111"),
        (81, true, "10000000011111"),
        (82, false, "10000000001111"),
        (82, true, "10000000001111"),
        (90, false, "10006666000001"),
        (90, true, "10000000000001"),
        (91, false, "10006666000001"),
        (91, true, "10000000000001"),
    ] {
        fake.cann(cann);
        fake.preload(is_preloaded);
        let codes = (0..=13).map(|kind| fake.call("msptiActivityEnable", kind).to_string());
        assert_eq!(codes.collect::<String>(), expected, "CANN {cann}, preload {is_preloaded}");
        for kind in 1..=12 {
            fake.call("msptiActivityDisable", kind);
        }
        assert_eq!(fake.enabled(), 0);
        type OfCallbacks = extern "C" fn(u32, *mut c_void, u32, u32) -> c_int;
        let enable = fake.symbol::<OfCallbacks>("msptiEnableCallback");
        let expected = if is_preloaded { 0 } else { 6 };
        assert_eq!(enable(1, std::ptr::null_mut(), 1, 10), expected);
    }
}

/// Devices are found without the interposer only from CANN 9.0 on; a channel that does not start is
/// no error.
#[test]
fn whether_a_device_records_is_not_told_by_the_result_of_enable() {
    let alone = client();
    let fake = alone.fake;
    for (cann, is_preloaded, has_channel, records) in [
        (82, false, true, false),
        (82, true, true, true),
        (91, false, true, true),
        (91, false, false, false),
    ] {
        fake.cann(cann);
        fake.preload(is_preloaded);
        fake.channel(has_channel);
        assert_eq!(fake.call("msptiActivityEnable", 2), 0);
        assert_eq!(fake.emit(2, &Activity::now()), records, "CANN {cann}, {is_preloaded}");
        assert!(fake.emit(API, &Activity::now()), "the host's records come in any case");
    }
    assert_eq!(fake.call("msptiActivityDisable", 2), 0);
}

#[test]
fn one_subscriber_and_kinds_that_outlive_it() {
    let alone = client();
    let fake = alone.fake;
    let (mut handle, mut second) = (std::ptr::null_mut(), std::ptr::null_mut());
    assert_eq!(fake.subscribe(std::ptr::null_mut()), 1);
    assert_eq!(fake.subscribe(&raw mut handle), 0);
    assert_eq!(fake.subscribe(&raw mut second), 2);
    assert_eq!(fake.unsubscribe(std::ptr::null_mut()), 1);
    assert_eq!((fake.unsubscribe(handle), fake.unsubscribe(handle)), (0, 0));
    assert_eq!((fake.kinds_at_unsubscribe(), fake.enabled()), (1, 1), "kinds stay on");
    fake.calls_of_api(1);
    assert_eq!(fake.flushed().valid, 48, "and record");
}

#[test]
fn external_ids_are_one_stack_a_kind_for_the_process() {
    let alone = client();
    let fake = alone.fake;
    type Pop = unsafe extern "C" fn(u32, *mut u64) -> c_int;
    let function = fake.symbol::<Pop>("msptiActivityPopExternalCorrelationId");
    let pop = |kind: u32| {
        let mut last = 0;
        // SAFETY: the number can be written.
        let code = unsafe { function(kind, &raw mut last) };
        (code, last)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| fake.push_external(2, 77));
    });
    fake.push_external(9_999, 78);
    // SAFETY: null is refused, though the documentation allows it.
    let code = unsafe { function(2, std::ptr::null_mut()) };
    assert_eq!(code, 1);
    assert_eq!(pop(2), (0, 77), "of another thread");
    assert_eq!(pop(2), (5, 0));
    assert_eq!(pop(9_999), (0, 78), "any kind");
}

#[test]
fn instants_are_those_of_the_host_since_1970() {
    let alone = client();
    let now =
        || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let before = now();
    alone.fake.launch(c"k", 1, 1);
    let after = now();
    let back = alone.fake.flushed();
    // SAFETY: a buffer that came back, and is never freed.
    let bytes = unsafe {
        std::slice::from_raw_parts(
            std::ptr::with_exposed_provenance::<u8>(back.address),
            back.valid,
        )
    };
    let start = u64::from_ne_bytes(bytes[4..12].try_into().expect("8 bytes"));
    assert!((before..=after).contains(&start), "{before} {start} {after}");
}
