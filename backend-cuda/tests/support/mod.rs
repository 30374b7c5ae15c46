//! The stand-in for libcupti, as a test drives it.
#![expect(unsafe_code, reason = "plays an application that calls a C library")]
#![allow(dead_code, reason = "each test crate uses a part")]

use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::backend::SessionConfig;

/// The stand-in, loaded once a process.
pub(crate) struct FakeCupti {
    library: Library,
    /// Where the file lies; its name is the vendor's.
    pub(crate) path: PathBuf,
}

/// A session that does not wait for the driver: the stand-in comes without one.
pub(crate) fn attached() -> SessionConfig {
    let mut config = SessionConfig::default();
    config.options.insert("cuda.attach".to_owned(), "at_once".into());
    config
}

/// Builds and loads the stand-in.
pub(crate) fn fake() -> &'static FakeCupti {
    static FAKE: OnceLock<FakeCupti> = OnceLock::new();
    FAKE.get_or_init(|| {
        let path = build();
        // SAFETY: our own library, which has no initialisers.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        FakeCupti { library: library.expect("the stand-in loads"), path }
    })
}

fn build() -> PathBuf {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fakes/fake-cupti/Cargo.toml");
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fakes");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--manifest-path", manifest, "--target-dir"])
        .arg(&target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the stand-in builds");
    let built = target.join("debug/libfake_cupti.so");
    let named = target.join(format!("{}/libcupti.so.13", std::process::id()));
    std::fs::create_dir_all(named.parent().expect("has a folder")).expect("a folder");
    std::fs::copy(built, &named).expect("a copy of the stand-in");
    named
}

impl FakeCupti {
    fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: each caller below names the type that the stand-in gives the symbol.
        let symbol = unsafe { self.library.get::<T>(name.as_bytes()) };
        *symbol.expect("the stand-in has the symbol")
    }

    pub(crate) fn version(&self, version: u32) {
        self.symbol::<extern "C" fn(u32)>("fake_version")(version);
    }

    pub(crate) fn rival(&self, present: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_rival")(present);
    }

    pub(crate) fn fail(&self, call: &CStr, code: c_int) {
        let function = self.symbol::<unsafe extern "C" fn(*const c_char, c_int)>("fake_fail");
        // SAFETY: a C string.
        unsafe { function(call.as_ptr(), code) };
    }

    pub(crate) fn all_calls(&self) -> u64 {
        self.symbol::<extern "C" fn() -> u64>("fake_all_calls")()
    }

    pub(crate) fn flushed_at_once(&self) -> u32 {
        self.symbol::<extern "C" fn() -> u32>("fake_flushed_at_once")()
    }

    pub(crate) fn hold(&self, holding: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_hold")(holding);
    }

    pub(crate) fn drop_records(&self, count: usize) {
        self.symbol::<extern "C" fn(usize)>("fake_drop")(count);
    }

    pub(crate) fn launch(&self, name: &'static CStr, count: u64, stream: u32, grid: u32) {
        let function = self.symbol::<extern "C" fn(*const c_char, u64, u32, u32)>("fake_launch");
        function(name.as_ptr(), count, stream, grid);
    }

    pub(crate) fn copy(&self, bytes: u64, stream: u32) {
        self.symbol::<extern "C" fn(u64, u32)>("fake_copy")(bytes, stream);
    }

    pub(crate) fn unknown(&self, kind: u32) {
        self.symbol::<extern "C" fn(u32)>("fake_unknown")(kind);
    }
}
