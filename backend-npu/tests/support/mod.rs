//! The stand-in for libmspti and its companions, as a test drives it.
#![expect(unsafe_code, reason = "plays an application that calls a C library")]
#![allow(dead_code, reason = "each test crate uses a part")]

pub(crate) mod kept;
pub(crate) mod session;

use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use backend_npu::NpuBackend;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// What a record says; as the stand-in and its C source have it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activity {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) correlation: u64,
    pub(crate) bytes: u64,
    pub(crate) address: u64,
    pub(crate) id: u64,
    pub(crate) count: u64,
    pub(crate) bandwidth: f64,
    pub(crate) name: *const c_char,
    pub(crate) kernel_type: *const c_char,
    pub(crate) domain: *const c_char,
    pub(crate) algorithm: *const c_char,
    pub(crate) communicator: *const c_char,
    pub(crate) flag: u32,
    pub(crate) source: u32,
    pub(crate) process: u32,
    pub(crate) thread: u32,
    pub(crate) device: u32,
    pub(crate) stream: u32,
    pub(crate) value: u32,
    pub(crate) operation: u32,
    pub(crate) memory_kind: u32,
    pub(crate) copy_kind: u32,
    pub(crate) data_type: u32,
    pub(crate) external_kind: u32,
    pub(crate) is_async: u32,
    pub(crate) growth: u32,
}

impl Activity {
    /// An activity of now that took a microsecond.
    pub(crate) fn now() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let start = now.expect("after 1970").as_nanos() as u64;
        Self {
            start,
            end: start + 1_000,
            correlation: 0,
            bytes: 0,
            address: 0,
            id: 0,
            count: 0,
            bandwidth: 0.0,
            name: std::ptr::null(),
            kernel_type: std::ptr::null(),
            domain: std::ptr::null(),
            algorithm: std::ptr::null(),
            communicator: std::ptr::null(),
            flag: 0,
            source: 0,
            process: std::process::id(),
            thread: 1,
            device: 0,
            stream: 0,
            value: 0,
            operation: 0,
            memory_kind: 0,
            copy_kind: 0,
            data_type: 0,
            external_kind: 0,
            is_async: 0,
            growth: 0,
        }
    }
}

/// An installation that consists of stand-ins.
#[derive(Debug)]
pub(crate) struct FakeCann {
    /// `ASCEND_HOME_PATH`.
    pub(crate) home: PathBuf,
    /// The folder of a machine that has one device.
    pub(crate) root: PathBuf,
}

impl FakeCann {
    /// The stand-in for libmspti.
    pub(crate) fn library(&self) -> PathBuf {
        self.home.join("lib64/libmspti.so")
    }
}

/// Builds the stand-ins and lays them out as an installation, anew for each caller.
pub(crate) fn install(name: &str) -> FakeCann {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fakes");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--manifest-path", manifest])
        .args(["-p", "fake-mspti", "-p", "fake-ascend", "--target-dir"])
        .arg(&target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the stand-ins build");
    let place = target.join(format!("{}-{name}", std::process::id()));
    let (home, root) = (place.join("cann"), place.join("root"));
    let lib = home.join("lib64");
    std::fs::create_dir_all(&lib).expect("a folder");
    let copy = |from: &str, to: &str| {
        let to = lib.join(to);
        drop(std::fs::remove_file(&to));
        std::fs::copy(target.join("debug").join(from), to).expect("a copy of the stand-in");
    };
    copy("libfake_mspti.so", "libmspti.so");
    for companion in [
        "libprofapi.so",
        "libascendalog.so",
        "libascend_hal.so",
        "libascendcl.so",
        "libmsprofiler.so",
        "libtorch_npu.so",
    ] {
        copy("libfake_ascend.so", companion);
    }
    std::fs::create_dir_all(root.join("dev")).expect("a folder");
    for node in ["davinci0", "davinci_manager"] {
        std::fs::write(root.join("dev").join(node), "").expect("a node");
    }
    FakeCann { home, root }
}

/// Takes functions away from a library, as an older one does not have them: under their names they
/// are found no more.
pub(crate) fn hide(library: &Path, names: &[&str]) {
    let mut bytes = std::fs::read(library).expect("a library");
    let mut hidden = std::collections::BTreeSet::new();
    for text in bytes.split_mut(|byte| *byte == 0) {
        if let Some(name) = names.iter().find(|name| name.as_bytes() == text) {
            hidden.insert(*name);
            text[0] = b'_';
        }
    }
    assert_eq!(hidden.len(), names.len(), "{}: {hidden:?} of {names:?}", library.display());
    // A file that is mapped must not be written into.
    std::fs::remove_file(library).expect("removed");
    std::fs::write(library, bytes).expect("written");
}

/// The program that tries libraries; built where only this test was asked for.
pub(crate) fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let own = std::env::current_exe().expect("a path");
        let target = own.ancestors().nth(3).expect("the folder above debug/deps");
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--manifest-path", manifest, "--example", "probe-npu"])
            .arg("--target-dir")
            .arg(target)
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the program builds");
        target.join("debug/examples/probe-npu")
    };
    BUILT.get_or_init(build).clone()
}

/// The stand-in, loaded into this process.
pub(crate) struct FakeMspti {
    library: Library,
    /// Its installation.
    pub(crate) cann: FakeCann,
}

/// Builds and loads the stand-in, once a process.
pub(crate) fn fake() -> &'static FakeMspti {
    static FAKE: OnceLock<FakeMspti> = OnceLock::new();
    FAKE.get_or_init(|| {
        let cann = install("loaded");
        // SAFETY: every test of this process begins here, so that no other thread reads variables.
        unsafe { std::env::set_var("ASCEND_HOME_PATH", &cann.home) };
        // SAFETY: our own library, whose initialisers find their companions.
        let library = unsafe { Library::open(Some(cann.library()), RTLD_NOW | RTLD_LOCAL) };
        FakeMspti { library: library.expect("the stand-in loads"), cann }
    })
}

impl FakeMspti {
    /// The stand-in that this process has loaded already.
    pub(crate) fn loaded(cann: FakeCann) -> Self {
        let flags = RTLD_NOW | RTLD_LOCAL | libc::RTLD_NOLOAD;
        // SAFETY: nothing is loaded.
        let library = unsafe { Library::open(Some(cann.library()), flags) };
        Self { library: library.expect("it is loaded"), cann }
    }

    /// A backend on the stand-in's machine.
    pub(crate) fn backend(&self) -> NpuBackend {
        NpuBackend::at(&self.cann.root, None)
    }

    /// A function of the library; the caller names its type.
    pub(crate) fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: each caller below names the type that the stand-in gives the symbol.
        let symbol = unsafe { self.library.get::<T>(name.as_bytes()) };
        *symbol.expect("the stand-in has the symbol")
    }

    pub(crate) fn reset(&self) {
        self.symbol::<extern "C" fn()>("fake_reset")();
    }

    pub(crate) fn cann(&self, version: u32) {
        self.symbol::<extern "C" fn(u32)>("fake_cann")(version);
    }

    pub(crate) fn preload(&self, preloaded: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_preload")(preloaded);
    }

    pub(crate) fn channel(&self, works: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_channel")(works);
    }

    pub(crate) fn rival(&self, present: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_rival")(present);
    }

    pub(crate) fn rival_takes_the_slot(&self) {
        self.symbol::<extern "C" fn()>("fake_rival_takes_the_slot")();
    }

    pub(crate) fn fail(&self, call: &CStr, code: c_int) {
        let function = self.symbol::<unsafe extern "C" fn(*const c_char, c_int)>("fake_fail");
        // SAFETY: a C string.
        unsafe { function(call.as_ptr(), code) };
    }

    pub(crate) fn calls(&self, call: &CStr) -> u64 {
        let function = self.symbol::<unsafe extern "C" fn(*const c_char) -> u64>("fake_calls");
        // SAFETY: a C string.
        unsafe { function(call.as_ptr()) }
    }

    pub(crate) fn all_calls(&self) -> u64 {
        self.symbol::<extern "C" fn() -> u64>("fake_all_calls")()
    }

    pub(crate) fn enabled(&self) -> u64 {
        self.symbol::<extern "C" fn() -> u64>("fake_enabled")()
    }

    pub(crate) fn kinds_at_unsubscribe(&self) -> u64 {
        self.symbol::<extern "C" fn() -> u64>("fake_kinds_at_unsubscribe")()
    }

    /// `count` kernels that began at `start` are handed over at the `flushes`-th flush from now; with
    /// `is_endless`, as many at each after it.
    pub(crate) fn arrives(&self, count: u64, start: u64, flushes: u64, is_endless: bool) {
        type Arrives = extern "C" fn(*const c_char, u64, u64, u64, bool);
        let name = c"late".as_ptr();
        self.symbol::<Arrives>("fake_arrives")(name, count, start, flushes, is_endless);
    }

    /// How many such kernels were recorded.
    pub(crate) fn arrived(&self) -> u64 {
        self.symbol::<extern "C" fn() -> u64>("fake_arrived")()
    }

    /// Another tool flushes.
    pub(crate) fn flush_all(&self) {
        self.symbol::<extern "C" fn(u32) -> c_int>("msptiActivityFlushAll")(1);
    }

    pub(crate) fn register_kernel(&self, name: &CStr) {
        let function = self.symbol::<unsafe extern "C" fn(*const c_char)>("fake_register");
        // SAFETY: a C string.
        unsafe { function(name.as_ptr()) };
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.symbol::<extern "C" fn() -> u64>("fake_dropped")()
    }

    pub(crate) fn emit(&self, kind: u32, activity: &Activity) -> bool {
        let function =
            self.symbol::<unsafe extern "C" fn(u32, *const Activity) -> c_int>("fake_emit");
        // SAFETY: names are literals.
        unsafe { function(kind, activity) == 0 }
    }

    pub(crate) fn unknown(&self, kind: u32) {
        self.symbol::<extern "C" fn(u32)>("fake_unknown")(kind);
    }

    pub(crate) fn grow(&self, bytes: usize) {
        self.symbol::<extern "C" fn(usize)>("fake_grow")(bytes);
    }

    pub(crate) fn launch(&self, name: &'static CStr, count: u64, stream: u32) {
        let function =
            self.symbol::<extern "C" fn(*const c_char, *const c_char, u64, u32)>("fake_launch");
        function(name.as_ptr(), c"KERNEL_AICORE".as_ptr(), count, stream);
    }

    pub(crate) fn burst(&self, name: &'static CStr, count: u64) {
        let function =
            self.symbol::<extern "C" fn(*const c_char, *const c_char, u64)>("fake_burst");
        function(name.as_ptr(), c"KERNEL_AIVEC".as_ptr(), count);
    }

    pub(crate) fn push_external(&self, kind: u32, id: u64) {
        let name = "msptiActivityPushExternalCorrelationId";
        self.symbol::<extern "C" fn(u32, u64) -> c_int>(name)(kind, id);
    }

    pub(crate) fn pop_external(&self, kind: u32) -> c_int {
        let name = "msptiActivityPopExternalCorrelationId";
        let mut last = 0_u64;
        let function = self.symbol::<unsafe extern "C" fn(u32, *mut u64) -> c_int>(name);
        // SAFETY: the number can be written.
        unsafe { function(kind, &raw mut last) }
    }
}

/// A file that is no libmspti, under its name.
pub(crate) fn other_library(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("libmspti.so");
    std::fs::write(&path, bytes).expect("a file");
    path
}
