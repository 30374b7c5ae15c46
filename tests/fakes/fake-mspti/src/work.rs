//! Work that nobody drives: for processes that only load the library.
//!
//! With `FAKE_MSPTI_WORK=N` a thread launches N kernels every two milliseconds from the moment in
//! which kernels are enabled until they are disabled. With `FAKE_MSPTI_LEDGER=DIR` it then appends
//! a line for each record to `DIR/<pid>.csv`: kind, name, when it was launched, began and ended. The
//! process has its device open from then on, as any that runs kernels: the node below
//! `OMNIPROF_NPU_ROOT`.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::play::{launch, next_correlation, now, thread};
use crate::record;
use crate::records::Activity;

static THREAD: Mutex<Option<JoinHandle<()>>> = Mutex::new(None);
static ENDING: AtomicBool = AtomicBool::new(false);
static DEVICE: OnceLock<Option<File>> = OnceLock::new();

const EVERY: Duration = Duration::from_millis(2);
const KERNELS: [(&CStr, &CStr); 5] = [
    (c"MatMulV2_ND_bf16", c"KERNEL_AICORE"),
    (c"FlashAttentionScore_bf16", c"KERNEL_MIX_AIC"),
    (c"RmsNorm_bf16", c"KERNEL_AIVEC"),
    (c"SwiGlu_bf16", c"KERNEL_AIVEC"),
    (c"ScatterPaKvCache", c"KERNEL_AICPU"),
];

/// Kernels are enabled.
pub(crate) fn begin() {
    let Some(count) = std::env::var("FAKE_MSPTI_WORK").ok().and_then(|text| text.parse().ok())
    else {
        return;
    };
    DEVICE.get_or_init(|| {
        let root = std::env::var_os("OMNIPROF_NPU_ROOT")?;
        File::open(PathBuf::from(root).join("dev/davinci0")).ok()
    });
    let mut running = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if running.is_some() {
        return;
    }
    ENDING.store(false, Ordering::Relaxed);
    *running = std::thread::Builder::new()
        .name("fake-npu".to_owned())
        .spawn(move || work_until_ended(count))
        .ok();
}

/// Kernels are about to be disabled: what was launched is recorded.
pub(crate) fn end() {
    let running = THREAD.lock().unwrap_or_else(PoisonError::into_inner).take();
    ENDING.store(true, Ordering::Relaxed);
    if let Some(running) = running {
        drop(running.join());
    }
}

fn work_until_ended(count: u64) {
    let mut ledger = String::new();
    let mut note = |kind: &str, name: &CStr, launched: u64, start: u64, end: u64| {
        let name = name.to_string_lossy();
        ledger.push_str(&format!("{kind},{name},{launched},{start},{end}\n"));
    };
    let mut range = 0;
    while !ENDING.load(Ordering::Relaxed) {
        let began = now();
        range += 1;
        mark(2, range, began, c"decode", c"default");
        for number in 0..count {
            let (name, kernel_type) = KERNELS[(number % KERNELS.len() as u64) as usize];
            let at = began + number * 2_000;
            let duration = 1_000 + (range * 37 + number * 11) % 900;
            let id = next_correlation();
            let stream = (number % 2) as u32;
            let started = launch(name.as_ptr(), kernel_type.as_ptr(), stream, id, at, duration);
            if let Some(start) = started {
                note("kernel", name, at, start, start + duration);
            }
        }
        let at = began + count * 2_000;
        let communication = Activity {
            start: at,
            end: at + 4_000,
            correlation: next_correlation(),
            count: 4096,
            data_type: 11,
            stream: 9,
            name: c"hcom_allReduce_".as_ptr(),
            algorithm: c"Mesh-Ring".as_ptr(),
            communicator: c"tp-group-0".as_ptr(),
            ..Activity::NOTHING
        };
        if record(9, &communication) {
            note("communication", c"hcom_allReduce_", at, at, at + 4_000);
        }
        mark(4, range, at, c"", c"");
        std::thread::sleep(EVERY);
    }
    let Some(directory) = std::env::var_os("FAKE_MSPTI_LEDGER") else { return };
    let path = PathBuf::from(directory).join(format!("{}.csv", std::process::id()));
    let file = File::options().create(true).append(true).open(path);
    if let Ok(mut file) = file {
        drop(file.write_all(ledger.as_bytes()));
    }
}

fn mark(flag: u32, id: u64, at: u64, name: &CStr, domain: &CStr) {
    record(
        1,
        &Activity {
            start: at,
            id,
            flag,
            name: name.as_ptr(),
            domain: domain.as_ptr(),
            process: std::process::id(),
            thread: thread(),
            ..Activity::NOTHING
        },
    );
}
