//! What a just-in-time compiler says of its code is kept beside the spool and in the manifest.
#![cfg(feature = "cpu")]
#![expect(unsafe_code, reason = "a mapping is what tells of a jitdump")]

mod support;

use std::io::Read as _;

use profiler_agent::Agent;
use profiler_worker::controller::StopRequest;
use profiler_worker::manifest::FileState;
use profiler_worker::start_request::StartRequest;
use rustix::mm::{MapFlags, ProtFlags, mmap};

use support::{Bench, DEADLINE};

/// Removed when the test ends, however it does.
struct Removed(std::path::PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("the file was made by this test");
    }
}

#[test]
fn the_files_of_a_compiler_are_in_the_manifest() {
    let bench = Bench::new();
    let pid = std::process::id();
    let map = Removed(format!("/tmp/perf-{pid}.map").into());
    std::fs::write(&map.0, "1000 10 jitted\n").unwrap();
    let dump = bench.dir.path().join(format!("jit-{pid}.dump"));
    std::fs::write(&dump, [b'J'; 4096]).unwrap();
    let file = std::fs::File::open(&dump).unwrap();
    // Compilers map one page of it for profilers to see.
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing, and nobody
    // reads it.
    unsafe {
        let protection = ProtFlags::READ | ProtFlags::EXEC;
        mmap(std::ptr::null_mut(), 4096, protection, MapFlags::PRIVATE, &file, 0)
    }
    .unwrap();

    let controller = bench.patient();
    let dir = controller.socket_dir().unwrap();
    let _agent = Agent::builder().stage(0).role("jit").socket_dir(dir).connect().unwrap();
    assert!(controller.wait_for_workers(1, DEADLINE));
    controller.start(&StartRequest::default()).unwrap();
    std::hint::black_box((0..50_000_000_u64).fold(1, |sum: u64, n| sum.rotate_left(3) ^ n));
    let wait = StopRequest { wait_ms: 30_000, ..StopRequest::default() };
    let manifest = controller.stop(&wait).unwrap();
    let line = &manifest.workers[0];
    assert_eq!(line.error, None, "{line:#?}");
    for (format, content) in
        [("perf-map", b"1000 10 jitted\n".to_vec()), ("jitdump", vec![b'J'; 4096])]
    {
        let file = line.files.iter().find(|file| file.format == format);
        let file = file.unwrap_or_else(|| panic!("no {format}: {line:#?}"));
        assert_eq!(file.state, FileState::Complete);
        assert_eq!(file.bytes, Some(content.len() as u64));
        let mut kept = Vec::new();
        let mut opened = controller.open_file(&manifest.session, &file.path).unwrap();
        opened.read_to_end(&mut kept).unwrap();
        assert_eq!(kept, content, "{format}");
    }
}
