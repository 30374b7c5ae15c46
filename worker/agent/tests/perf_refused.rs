//! A capture of the host behind a filter of system calls that refuses perf events, as container
//! runtimes install it.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "../../../backend-cpu/tests/filter/mod.rs"]
mod filter;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::{arm, connect, eventually, kinds, rows, spool_file};
use profiler_agent::Agent;
use profiler_core::probe::ProbeReport;
use profiler_core::record::{Counter, Fact, Sample, Span};

/// Set for the process behind the filter: what the filter answers.
const ERRNO: &str = "OMNIPROF_TEST_ERRNO";

#[test]
fn counters_and_spans_go_on_and_the_reason_names_the_setting() {
    for errno in [libc::EACCES, libc::EPERM] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["behind_the_filter", "--exact", "--nocapture"]);
        command.env(ERRNO, errno.to_string());
        let answer = libc::SECCOMP_RET_ERRNO | errno as u32;
        filter::filter(&mut command, &[libc::SYS_perf_event_open], answer);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}{failed}", output.status);
        assert!(said.contains("1 passed"), "{said}");
    }
}

/// Does nothing where it is run as a test like others.
#[test]
fn behind_the_filter() {
    let Ok(errno) = std::env::var(ERRNO) else { return };
    let refused = std::io::Error::from_raw_os_error(errno.parse().unwrap());
    let refused = format!("perf_event_open is refused ({refused})");
    let (_agent, mut controller, hello) = connect(Agent::builder());
    let cpu = hello.backends.iter().find(|backend| backend.id.as_str() == "cpu").unwrap();
    let ProbeReport::Available { notes, .. } = &cpu.report else { panic!("{:?}", cpu.report) };
    assert!(notes.iter().any(|note| names_the_setting(note)), "{notes:?}");

    // Left to itself the backend samples by other means; asked for perf events, it has none.
    for (fence, asked, used) in [(1, None, "signal_timer"), (2, Some("perf_event"), "none")] {
        let spool = spool_file();
        let mut host = arm(fence);
        host.capture.host = true;
        if let Some(sampler) = asked {
            host.capture.session.options.insert("cpu.sampler".to_owned(), sampler.into());
        }
        controller.arm(host, Some(&spool.file)).unwrap();
        controller.commit(fence).unwrap();
        let mut spans = 0;
        // The last spans come after counters, and counters after the first spans.
        assert!(eventually(|| {
            drop(profiler_agent::span("work").enter());
            spans += 1;
            readings(&spool.path).len() >= 5
        }));
        controller.stop(fence).unwrap();
        let (result, _) = controller.finished();
        assert_eq!(result.error, None);
        assert!(result.notes.iter().any(|note| names_the_setting(note)), "{:?}", result.notes);

        assert_eq!(fact(&spool.path, "cpu.sampler").unwrap(), used);
        let reason = fact(&spool.path, "cpu.sampler.reason").unwrap();
        assert!(reason.contains(&refused) && names_the_setting(&reason), "{reason}");
        assert_eq!(kinds(&spool.path)[&<Span as profiler_core::record::Row>::KIND], spans);
        let counted = readings(&spool.path);
        let begun: Vec<u64> = rows::<Span>(&spool.path).iter().map(|row| row.1.start).collect();
        let (first, last) = (counted.first().unwrap(), counted.last().unwrap());
        assert!(begun.iter().min() < Some(last) && begun.iter().max() > Some(first));
        if used == "none" {
            assert!(rows::<Sample>(&spool.path).is_empty());
        }
    }
}

/// When counters were read.
fn readings(spool: &Path) -> BTreeSet<u64> {
    rows::<Counter>(spool).iter().map(|(_, counter, _)| counter.time).collect()
}

fn fact(spool: &Path, key: &str) -> Option<String> {
    rows::<Fact>(spool).into_iter().find_map(|(_, row, heap)| {
        (row.key.text(&heap)? == key).then(|| row.value.text(&heap).unwrap().into_owned())
    })
}

/// Whether a text says what to change: the kernel's setting where that forbids it, else the
/// filter's profile.
fn names_the_setting(text: &str) -> bool {
    let level = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap();
    let level: i32 = level.trim().parse().unwrap();
    let remedy = match level {
        3.. => "`sysctl kernel.perf_event_paranoid=2`",
        _ => "allow perf_event_open in the container's seccomp profile",
    };
    let setting = format!("kernel.perf_event_paranoid is {level}");
    [&setting, remedy, "CAP_PERFMON"].iter().all(|words| text.contains(words))
}
