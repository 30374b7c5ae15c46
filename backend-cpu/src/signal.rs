//! The signal handler of the fallback sampler, and the timers that call it.
//!
//! The handler runs on whatever thread used its share of processor time, between any two of its
//! instructions. It takes no lock, allocates nothing and calls only what POSIX and the kernel allow
//! there: it claims a slot, copies registers and the top of the stack into it, and marks it full.
//! Slots, and the descriptor by which it wakes the reader, live as long as the process: a handler
//! may still run when its session has ended.

#![expect(unsafe_code, reason = "signal handlers and POSIX timers have no safe form")]

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use profiler_core::descriptor::Kept;

use crate::perf_record::RawSample;
use crate::registers::Registers;
use crate::wake::Wake;

/// The signal: the one that POSIX set aside for profilers.
pub(crate) const SIGNAL: c_int = libc::SIGPROF;

/// Bytes of the stack that are copied.
const STACK_BYTES: usize = crate::perf_sampler::STACK_BYTES as usize;

/// Samples that wait for the reader at most.
const SLOTS: usize = 256;

/// Slots that a handler tries before it gives the sample up.
const TRIES: usize = 16;

/// Sessions that can sample at once.
const POOLS: usize = 4;

/// A page: no stack ends inside one.
const PAGE: usize = 4096;

/// Where handlers leave samples.
pub(crate) struct Pool {
    slots: Box<[Slot]>,
    /// Where the next handler begins to look.
    cursor: AtomicUsize,
    waiting: AtomicUsize,
    dropped: AtomicU64,
    /// What handlers of this session have taken of the application's threads.
    spent_ns: AtomicU64,
    active: AtomicBool,
    /// Whether handlers may ask the kernel to copy the stack.
    kernel_copies: AtomicBool,
    taken: AtomicBool,
    period_ns: AtomicU64,
    wake: Wake,
}

struct Slot {
    /// Who owns the sample: [`FREE`], [`WRITING`] a handler, [`FULL`] the reader.
    state: AtomicU32,
    sample: UnsafeCell<SlotSample>,
}

const FREE: u32 = 0;
const WRITING: u32 = 1;
const FULL: u32 = 2;

// SAFETY: `sample` is touched only by the thread that moved `state` to WRITING or found it FULL;
// the acquire and release of `state` order those accesses.
unsafe impl Sync for Slot {}

struct SlotSample {
    time: u64,
    weight_ns: u64,
    thread: u32,
    cpu: u32,
    registers: Registers,
    stack_len: usize,
    stack: [u8; STACK_BYTES],
}

/// The pools that handlers may write to; an entry is set once and never cleared.
static REGISTERED: [AtomicPtr<Pool>; POOLS] = [const { AtomicPtr::new(ptr::null_mut()) }; POOLS];

/// The action that was there before ours; set before ours is installed, never freed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// How many sessions use the handler. Held while the action is changed.
static USERS: Mutex<usize> = Mutex::new(0);

impl Pool {
    /// A pool that no session uses; `None` = there are as many sessions as pools.
    ///
    /// # Errors
    ///
    /// Where no event descriptor can be had.
    pub(crate) fn take() -> io::Result<Option<&'static Self>> {
        for registered in &REGISTERED {
            let mut pool = registered.load(Ordering::Acquire);
            if pool.is_null() {
                let new = Box::into_raw(Box::new(Self::new()?));
                let set = Ordering::AcqRel;
                match registered.compare_exchange(ptr::null_mut(), new, set, Ordering::Acquire) {
                    Ok(_) => pool = new,
                    Err(other) => {
                        // SAFETY: `new` comes from `Box::into_raw` above and was published nowhere.
                        drop(unsafe { Box::from_raw(new) });
                        pool = other;
                    }
                }
            }
            // SAFETY: a registered pool was made by `Box::into_raw` and is never freed.
            let pool = unsafe { &*pool };
            if !pool.taken.swap(true, Ordering::AcqRel) {
                pool.dropped.store(0, Ordering::Relaxed);
                pool.spent_ns.store(0, Ordering::Relaxed);
                return Ok(Some(pool));
            }
        }
        Ok(None)
    }

    /// Gives the pool back.
    pub(crate) fn release(&self) {
        self.deactivate();
        self.taken.store(false, Ordering::Release);
    }

    /// Lets handlers write. A sample stands for `period_ns`; where the kernel must not copy
    /// stacks, a sample has no more than a page of its stack.
    pub(crate) fn activate(&self, period_ns: u64, kernel_copies: bool) {
        self.period_ns.store(period_ns, Ordering::Relaxed);
        self.kernel_copies.store(kernel_copies, Ordering::Relaxed);
        self.active.store(true, Ordering::Release);
    }

    /// Forbids handlers to write.
    pub(crate) fn deactivate(&self) {
        self.active.store(false, Ordering::Release);
    }

    /// Becomes readable when half of the slots are full.
    pub(crate) fn woken(&self) -> &Kept<OwnedFd> {
        self.wake.descriptor()
    }

    /// Samples dropped for want of a slot, since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// Processor time that handlers have taken of the application's threads; what the kernel takes
    /// to call them is not in it.
    pub(crate) fn spent_ns(&self) -> u64 {
        self.spent_ns.load(Ordering::Relaxed)
    }

    /// The memory of the slots.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.slots.len() * size_of::<Slot>()
    }

    /// Hands over all full slots.
    pub(crate) fn drain(&self, process: u32, mut sample: impl FnMut(RawSample<'_>)) {
        self.wake.take();
        for slot in &self.slots {
            if slot.state.load(Ordering::Acquire) != FULL {
                continue;
            }
            // SAFETY: the slot is FULL: no handler touches it until it is FREE again, and there is
            // one reader.
            let taken = unsafe { &*slot.sample.get() };
            sample(RawSample {
                time: taken.time,
                process,
                thread: taken.thread,
                cpu: taken.cpu,
                weight_ns: taken.weight_ns,
                registers: Some(taken.registers),
                address: taken.registers.ip,
                stack: taken.stack.get(..taken.stack_len).unwrap_or_default(),
            });
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            slot.state.store(FREE, Ordering::Release);
        }
    }

    fn new() -> io::Result<Self> {
        let mut slots = Vec::with_capacity(SLOTS);
        for _ in 0..SLOTS {
            // Written here, so that no handler has to wait for a page of it.
            slots.push(Slot {
                state: AtomicU32::new(FREE),
                sample: UnsafeCell::new(SlotSample {
                    time: 0,
                    weight_ns: 0,
                    thread: 0,
                    cpu: 0,
                    registers: Registers::default(),
                    stack_len: 0,
                    stack: [0xff; STACK_BYTES],
                }),
            });
        }
        Ok(Self {
            slots: slots.into(),
            cursor: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            spent_ns: AtomicU64::new(0),
            active: AtomicBool::new(false),
            kernel_copies: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            period_ns: AtomicU64::new(0),
            wake: Wake::new()?,
        })
    }

    /// Takes a sample; called by the handler.
    fn record(&self, registers: Registers, overruns: u32) {
        if !self.active.load(Ordering::Acquire) {
            return;
        }
        let Some(slot) = self.claim() else {
            self.dropped.fetch_add(u64::from(overruns) + 1, Ordering::Relaxed);
            return;
        };
        // SAFETY: `claim` moved the slot from FREE to WRITING, so that nobody else touches it.
        let sample = unsafe { &mut *slot.sample.get() };
        sample.time = monotonic_ns();
        sample.weight_ns =
            self.period_ns.load(Ordering::Relaxed).saturating_mul(u64::from(overruns) + 1);
        sample.thread = thread_id();
        sample.cpu = processor();
        sample.registers = registers;
        let kernel_copies = self.kernel_copies.load(Ordering::Relaxed);
        sample.stack_len = copy_stack(registers.sp as usize, &mut sample.stack, kernel_copies);
        // Counted before it can be taken, so that the count never falls below zero.
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        slot.state.store(FULL, Ordering::Release);
        if waiting == SLOTS / 2 {
            self.wake.ring();
        }
    }

    fn claim(&self) -> Option<&Slot> {
        let start = self.cursor.fetch_add(1, Ordering::Relaxed);
        for offset in 0..TRIES {
            let slot = self.slots.get(start.wrapping_add(offset) % SLOTS)?;
            let claimed =
                slot.state.compare_exchange(FREE, WRITING, Ordering::Acquire, Ordering::Relaxed);
            if claimed.is_ok() {
                return Some(slot);
            }
        }
        None
    }
}

/// Installs the handler, or counts one more user of it.
///
/// # Errors
///
/// The kernel's answer.
pub(crate) fn install() -> io::Result<()> {
    let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    let present = current_action()?;
    if !is_ours(&present) {
        // Handlers may read the old value at any time: it stays, some bytes a session at most.
        PREVIOUS.store(Box::into_raw(Box::new(present)), Ordering::Release);
        set_action(&our_action())?;
    }
    *users += 1;
    Ok(())
}

/// Ends one use. The last one restores a handler that was there before ours.
///
/// Where there was none ours stays and does nothing: a signal that is still on its way would end
/// the process if the default action were back.
pub(crate) fn uninstall() {
    let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    *users = users.saturating_sub(1);
    let previous = PREVIOUS.load(Ordering::Acquire);
    if *users > 0 || previous.is_null() {
        return;
    }
    // SAFETY: `PREVIOUS` is null or comes from `Box::into_raw`, and is never freed.
    let previous = unsafe { &*previous };
    let has_handler = !matches!(previous.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN);
    // An action that somebody installed after us is theirs.
    if has_handler && current_action().is_ok_and(|present| is_ours(&present)) {
        // The kernel has taken this very action before.
        let _restored: io::Result<()> = set_action(previous);
    }
}

fn our_action() -> libc::sigaction {
    libc::sigaction {
        sa_sigaction: handler_address(),
        sa_flags: libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK,
        ..no_action()
    }
}

fn no_action() -> libc::sigaction {
    // SAFETY: all-zero bytes are a valid `sigaction`: no handler, no flags, an empty mask.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn handler_address() -> usize {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle;
    handler as usize
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == handler_address()
}

fn current_action() -> io::Result<libc::sigaction> {
    let mut action = no_action();
    // SAFETY: `action` has room for the answer; nothing is changed.
    if unsafe { libc::sigaction(SIGNAL, ptr::null(), &raw mut action) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action)
}

fn set_action(action: &libc::sigaction) -> io::Result<()> {
    // SAFETY: `action` is initialised; its handler is ours, which is safe to run anywhere, or the
    // one that the process had before.
    if unsafe { libc::sigaction(SIGNAL, action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The beginning of `siginfo_t` for a signal of a timer, as the kernel lays it out on 64 bits.
#[repr(C)]
struct TimerInfo {
    signal: c_int,
    errno: c_int,
    code: c_int,
    pad: c_int,
    timer: c_int,
    overruns: c_int,
    value: *mut c_void,
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the thread's own `errno`, which lives as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; the interrupted code must find its value again.
    let saved = unsafe { *errno };
    if !record_timer(info, context) {
        chain(signal, info, context);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Takes a sample if the signal is one of our timers'.
fn record_timer(info: *mut libc::siginfo_t, context: *mut c_void) -> bool {
    // SAFETY: with SA_SIGINFO the kernel passes a `siginfo_t`, whose first bytes this is.
    let info = unsafe { &*info.cast::<TimerInfo>() };
    if info.code != libc::SI_TIMER {
        return false;
    }
    for registered in &REGISTERED {
        let pool = registered.load(Ordering::Acquire);
        if pool.is_null() || pool.cast() != info.value {
            continue;
        }
        // SAFETY: a registered pool is never freed.
        let pool = unsafe { &*pool };
        // SAFETY: with SA_SIGINFO the third argument is the interrupted context.
        let registers = registers(unsafe { &*context.cast::<libc::ucontext_t>() });
        let begin = thread_cpu_ns();
        pool.record(registers, info.overruns.max(0) as u32);
        let spent_ns = thread_cpu_ns().saturating_sub(begin);
        pool.spent_ns.fetch_add(spent_ns, Ordering::Relaxed);
        return true;
    }
    false
}

/// Hands a signal that is not ours to the handler that was there before.
fn chain(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    if previous.is_null() {
        return;
    }
    // SAFETY: `PREVIOUS` comes from `Box::into_raw` and is never freed.
    let previous = unsafe { &*previous };
    if matches!(previous.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN) {
        return;
    }
    if previous.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: with SA_SIGINFO the process gave a handler of this signature.
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal, info, context);
        return;
    }
    // SAFETY: without SA_SIGINFO the process gave a handler of this signature.
    let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(previous.sa_sigaction) };
    handler(signal);
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let values = &context.uc_mcontext.gregs;
    let value = |register: c_int| values.get(register as usize).map_or(0, |value| *value as u64);
    Registers {
        ip: value(libc::REG_RIP),
        sp: value(libc::REG_RSP),
        fp: value(libc::REG_RBP),
        lr: 0,
    }
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let machine = &context.uc_mcontext;
    let value = |register: usize| machine.regs.get(register).copied().unwrap_or_default();
    Registers { ip: machine.pc, sp: machine.sp, fp: value(29), lr: value(30) }
}

/// Copies the stack from `sp` upwards; answers how many bytes there were.
///
/// The kernel copies, so that the end of the stack is an answer and not a fault. Where it may not,
/// the rest of the page of `sp` is copied, which is mapped, since `sp` lies in it.
fn copy_stack(sp: usize, to: &mut [u8; STACK_BYTES], kernel_copies: bool) -> usize {
    let copied = if kernel_copies { copy_by_kernel(sp, to) } else { 0 };
    if copied > 0 {
        return copied;
    }
    let len = (PAGE - sp % PAGE).min(STACK_BYTES);
    let from = ptr::with_exposed_provenance::<u8>(sp);
    // SAFETY: the bytes lie in the page of the interrupted thread's stack pointer, its own stack;
    // `to` is longer than a page.
    unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), len) };
    len
}

fn copy_by_kernel(sp: usize, to: &mut [u8; STACK_BYTES]) -> usize {
    const PAGES: usize = STACK_BYTES / PAGE + 1;
    let mut remote = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PAGES];
    let mut address = sp;
    let Some(end) = sp.checked_add(STACK_BYTES) else { return 0 };
    // One vector a page: the kernel answers with the whole vectors that it could read.
    for vector in &mut remote {
        let page_end = (address | (PAGE - 1)).saturating_add(1).min(end);
        *vector = libc::iovec {
            iov_base: ptr::with_exposed_provenance_mut(address),
            iov_len: page_end - address,
        };
        address = page_end;
    }
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: STACK_BYTES };
    // SAFETY: asks for our own id and touches nothing.
    let pid = unsafe { libc::getpid() };
    // SAFETY: `local` is `to`, which we may write; addresses of the other side that are not mapped
    // are refused, never touched.
    let read =
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), PAGES as _, 0) };
    usize::try_from(read).unwrap_or(0).min(STACK_BYTES)
}

fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The processor time of the calling thread.
fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid `timespec` to write to; the call may be made in a handler.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn thread_id() -> u32 {
    // SAFETY: a system call without arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

fn processor() -> u32 {
    // SAFETY: a call without arguments, answered from memory the kernel shares.
    u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(u32::MAX)
}

/// A timer over the processor time of one thread of this process.
#[derive(Debug)]
pub(crate) struct Timer(libc::timer_t);

// SAFETY: a timer's id is a number of the process, usable on any thread.
unsafe impl Send for Timer {}

impl Timer {
    /// Starts a timer that signals `thread` each time it has used `period_ns`.
    ///
    /// # Errors
    ///
    /// The kernel's answer: `EAGAIN` = this user may have no more timers, `EINVAL` = no such
    /// thread.
    pub(crate) fn start(thread: u32, period_ns: u64, pool: &'static Pool) -> io::Result<Self> {
        // The kernel's numbering of processor clocks: the thread's id's complement, 4 for one
        // thread, 2 for scheduled time.
        let clock = (!(thread as libc::clockid_t)) << 3 | 6;
        let mut event = MaybeUninit::<libc::sigevent>::zeroed();
        // SAFETY: all-zero bytes are a valid `sigevent`.
        let event = unsafe { event.assume_init_mut() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGNAL;
        event.sigev_notify_thread_id = thread as c_int;
        event.sigev_value = libc::sigval { sival_ptr: ptr::from_ref(pool).cast_mut().cast() };
        let mut timer = ptr::null_mut();
        // SAFETY: `event` is initialised, `timer` has room for the id; our handler is installed.
        if unsafe { libc::timer_create(clock, event, &raw mut timer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let timer = Self(timer);
        let period = libc::timespec {
            tv_sec: (period_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (period_ns % 1_000_000_000) as libc::c_long,
        };
        let setting = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: the timer was made above; `setting` is initialised and outlives the call.
        if unsafe { libc::timer_settime(timer.0, 0, &raw const setting, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `start` and is deleted here alone.
        unsafe { libc::timer_delete(self.0) };
    }
}
