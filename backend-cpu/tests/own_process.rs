//! Recording the own process by perf events.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails, and says what it skips"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::record::LossCause;
use profiler_core::sink::Loss;
use support::*;

const DRAIN: Duration = Duration::from_millis(500);

#[test]
fn a_busy_function_is_sampled_as_often_as_it_used_the_processor() {
    each_layout(|layout| {
        let sink = MemorySink::new();
        let mut session = start(&sink, &in_layout(layout)).unwrap();
        let before = thread_cpu();
        std::hint::black_box(burn(Duration::from_secs(1)));
        let used = thread_cpu() - before;
        session.stop(DRAIN).unwrap();

        let written = sink.written();
        assert_eq!(written.facts["cpu.sampler"], "perf_event");
        assert_eq!(written.facts["cpu.sampler.layout"], layout);
        let mine: Vec<_> = written.stacks().filter(|(s, _)| s.thread == thread_id()).collect();
        let expected = 99.0 * used.as_secs_f64();
        let count = mine.len() as f64;
        assert!((expected * 0.5..expected * 1.3).contains(&count), "{count} of {expected}");
        let weight: u64 = mine.iter().map(|(sample, _)| sample.weight_ns).sum();
        let share = weight as f64 / used.as_nanos() as f64;
        assert!((0.5..1.3).contains(&share), "samples stand for {share} of the time");

        let in_spin = mine.iter().filter(|(_, frames)| {
            let caller = frames.get(1).is_some_and(|frame| burn_range().contains(frame));
            spin_range().contains(&frames[0]) && caller
        });
        let in_spin = in_spin.count() as f64;
        assert!(in_spin > count * 0.8, "{in_spin} of {count} in `spin`, called by `burn`");
        let (module, path, build_id) = written.module(spin_range().start).unwrap();
        assert_eq!(path, std::env::current_exe().unwrap().to_str().unwrap());
        assert_eq!(module.process, std::process::id());
        assert!(build_id.is_empty() || build_id.len() >= 8);
        assert!(written.samples.iter().all(|sample| sample.time > 0));
        let undecodable = |loss: &Loss| loss.cause == LossCause::Undecodable;
        assert!(!written.losses.iter().any(undecodable), "{:?}", written.losses);
    });
}

#[test]
fn a_deep_stack_is_followed_to_the_threads_start() {
    #[inline(never)]
    fn deeper(depth: u32, time: Duration) -> u64 {
        match depth {
            0 => burn(time),
            _ => std::hint::black_box(deeper(depth - 1, time) ^ 1),
        }
    }
    each_layout(|layout| {
        let sink = MemorySink::new();
        let mut session = start(&sink, &in_layout(layout)).unwrap();
        std::hint::black_box(deeper(40, Duration::from_millis(300)));
        session.stop(DRAIN).unwrap();
        let written = sink.written();
        let deepest = written
            .stacks()
            .filter(|(sample, _)| sample.thread == thread_id())
            .map(|(_, frames)| frames.len())
            .max();
        assert!(deepest.is_some_and(|deepest| deepest > 45), "{deepest:?} frames at most");
    });
}

#[test]
fn threads_are_named_and_the_profilers_own_are_left_out() {
    each_layout(|layout| {
        let sink = MemorySink::new();
        let mut session = start(&sink, &in_layout(layout)).unwrap();
        let busy = |name: &str| {
            let body = || {
                // Longer than a new thread may stay unseen in either layout.
                burn(Duration::from_millis(1500));
                thread_id()
            };
            std::thread::Builder::new().name(name.to_owned()).spawn(body).unwrap()
        };
        let (app, ours) = (busy("app-busy"), busy("omniprof-busy"));
        let (app, ours) = (app.join().unwrap(), ours.join().unwrap());
        session.stop(DRAIN).unwrap();
        let written = sink.written();
        assert_eq!(written.threads.get(&app).map(String::as_str), Some("app-busy"));
        let of = |thread| written.samples.iter().filter(|s| s.thread == thread).count();
        assert!(of(app) > 20, "{} samples of the application's thread", of(app));
        assert_eq!(of(ours), 0);
        assert!(!written.threads.values().any(|name| name.starts_with("omniprof-")));
    });
}

#[test]
fn threads_that_come_and_go_leave_samples_and_no_errors() {
    each_layout(|layout| {
        let sink = MemorySink::new();
        let mut session = start(&sink, &in_layout(layout)).unwrap();
        let mut ids = Vec::new();
        for _ in 0..40 {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let body = || {
                        burn(Duration::from_millis(15));
                        thread_id()
                    };
                    std::thread::Builder::new().spawn(body).unwrap()
                })
                .collect();
            ids.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        }
        session.stop(DRAIN).unwrap();
        let written = sink.written();
        if layout == "inherited" {
            let of_them = written.samples.iter().filter(|s| ids.contains(&s.thread)).count();
            assert!(of_them > 40, "{of_them} samples of 2.4 s in short threads");
        }
    });
}

#[test]
fn a_thousand_idle_threads_are_attached_and_let_go() {
    each_layout(|layout| {
        let gate = Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
        let threads: Vec<_> = (0..1000)
            .map(|_| {
                let gate = Arc::clone(&gate);
                let body = move || {
                    let mut open = gate.0.lock().unwrap();
                    while !*open {
                        open = gate.1.wait(open).unwrap();
                    }
                };
                std::thread::Builder::new().stack_size(64 << 10).spawn(body).unwrap()
            })
            .collect();
        let sink = MemorySink::new();
        let started = start(&sink, &in_layout(layout));
        let stopped = started.map(|mut session| {
            burn(Duration::from_millis(300));
            session.stop(DRAIN).unwrap()
        });
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        for thread in threads {
            thread.join().unwrap();
        }
        let summary = stopped.unwrap();
        let written = sink.written();
        let mine = written.samples.iter().filter(|s| s.thread == thread_id()).count();
        // Where descriptors ran out some threads are missed, and the summary says so.
        assert!(mine > 5 || !summary.notes.is_empty(), "{mine} samples, {:?}", summary.notes);
    });
}

#[test]
fn a_flush_makes_visible_what_was_sampled() {
    each_layout(|layout| {
        let sink = MemorySink::new();
        let mut session = start(&sink, &in_layout(layout)).unwrap();
        burn(Duration::from_millis(400));
        session.flush().unwrap();
        wait_for("the flushed samples", || sink.sample_count() > 20);
        session.stop(DRAIN).unwrap();
    });
}

#[test]
fn code_that_is_mapped_later_gets_a_module_row() {
    each_layout(|layout| {
        let file = tempfile::tempdir().unwrap();
        let path = file.path().join("later.so");
        std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
        let sink = MemorySink::new();
        let mut session = start(&sink, &in_layout(layout)).unwrap();
        session.flush().unwrap();
        let mapped = map_code(&path);
        // The record lies in the ring of the processor; the next round reads the maps.
        let path = path.to_str().unwrap().to_owned();
        wait_for("the module's row", || {
            session.flush().unwrap();
            sink.written().modules.iter().any(|(_, found, _)| *found == path)
        });
        drop(mapped);
        session.stop(DRAIN).unwrap();
    });
}

#[test]
fn counters_have_names_units_and_plausible_values() {
    let sink = MemorySink::new();
    let config = SessionConfig { samples: false, ..SessionConfig::default() };
    let mut session = start(&sink, &config).unwrap();
    burn(Duration::from_millis(350));
    session.stop(DRAIN).unwrap();
    let written = sink.written();
    let names = written.counter_names();
    let value = |name: &str| names.get(name).unwrap_or_else(|| panic!("{name} in {names:?}")).0;
    assert!(value("cpu time") >= 350e6);
    assert!(value("resident memory") > 100e3);
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count() as f64;
    assert!((2.0..threads + 1100.0).contains(&value("threads")), "{threads} now");
    assert!(value("cpu utilisation") >= 0.0);
    assert!(value("minor page faults") > 0.0);
    assert!(value("voluntary context switches") >= 0.0);
    assert_eq!(names["cpu time"].1, "ns");
    assert_eq!(names["resident memory"].1, "bytes");
    assert_eq!(names.len(), 10);
    assert!(written.samples.is_empty());
    assert!(!written.facts.contains_key("cpu.sampler"));
    let names = written.counters.iter().map(|(stream, c)| &written.strings[&(*stream, c.name.0)]);
    // By name: other tests' threads come and go between two readings.
    assert!(names.filter(|name| *name == "threads").count() >= 2);
}

#[test]
fn a_refused_group_is_sent_with_its_definitions_again() {
    each_layout(|layout| {
        let sink = MemorySink::new();
        sink.change(|written| written.refuse = 3);
        let mut session = start(&sink, &in_layout(layout)).unwrap();
        // The sink asserts that every sample's stack is defined.
        burn(Duration::from_millis(800));
        session.stop(DRAIN).unwrap();
        let written = sink.written();
        assert_eq!(written.refuse, 0);
        assert!(written.samples.len() > 10);
        assert!(written.module(spin_range().start).is_some(), "module rows come again");
        assert!(written.processes.contains_key(&std::process::id()));
    });
}

#[test]
fn a_closed_sink_ends_the_producing() {
    let sink = MemorySink::new();
    let mut session = start(&sink, &SessionConfig::default()).unwrap();
    sink.change(|written| written.closed = true);
    burn(Duration::from_millis(300));
    session.flush().unwrap();
    let samples = sink.sample_count();
    burn(Duration::from_millis(100));
    session.stop(DRAIN).unwrap();
    assert_eq!(sink.sample_count(), samples);
}

#[test]
fn a_panic_in_the_sink_ends_the_session_and_nothing_else() {
    let sink = MemorySink::new();
    let mut session = start(&sink, &SessionConfig::default()).unwrap();
    sink.change(|written| written.panic = true);
    burn(Duration::from_millis(300));
    let error = session.stop(DRAIN).unwrap_err();
    assert_eq!(error.code(), "backend_panicked");
    assert!(error.to_string().contains("told to panic"), "{error}");
    sink.change(|written| written.panic = false);
    start(&sink, &SessionConfig::default()).unwrap().stop(DRAIN).unwrap();
}

#[test]
fn calls_out_of_order_are_refused() {
    let open = || {
        let sink = MemorySink::new();
        let clock = Arc::new(SystemClock::new());
        backend_cpu::CpuBackend::new().open(&SessionConfig::default(), sink, clock).unwrap()
    };
    let mut session = open();
    assert_eq!(session.flush().unwrap_err().code(), "not_started");
    assert_eq!(session.stop(DRAIN).unwrap_err().code(), "not_started");
    session.start().unwrap();
    assert_eq!(session.start().unwrap_err().code(), "already_started");
    session.stop(DRAIN).unwrap();
    assert_eq!(session.stop(DRAIN).unwrap_err().code(), "not_started");
    assert_eq!(session.start().unwrap_err().code(), "already_started");

    drop(open());
    let mut dropped = open();
    dropped.start().unwrap();
    drop(dropped);
}

#[test]
fn two_sessions_record_at_once() {
    each_layout(|layout| {
        let (one, two) = (MemorySink::new(), MemorySink::new());
        let mut first = start(&one, &in_layout(layout)).unwrap();
        let mut second = start(&two, &in_layout(layout)).unwrap();
        burn(Duration::from_millis(500));
        first.stop(DRAIN).unwrap();
        let samples = one.sample_count();
        burn(Duration::from_millis(300));
        second.stop(DRAIN).unwrap();
        assert!(samples > 10 && two.sample_count() > samples, "{samples} {}", two.sample_count());
        assert_eq!(one.sample_count(), samples, "nothing comes after stop");
    });
}

#[test]
fn many_sessions_in_turn_leave_nothing_behind() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let sink = MemorySink::new();
    start(&sink, &SessionConfig::default()).unwrap().stop(DRAIN).unwrap();
    let before = open();
    for _ in 0..20 {
        start(&sink, &SessionConfig::default()).unwrap().stop(DRAIN).unwrap();
    }
    // Other tests of this process may hold some of theirs.
    wait_for("descriptors to be closed", || open() <= before + 64);
}

#[test]
fn the_file_of_a_jit_compiler_is_named() {
    let path = format!("/tmp/perf-{}.map", std::process::id());
    std::fs::write(&path, "1000 20 compiled\n").unwrap();
    let sink = MemorySink::new();
    start(&sink, &SessionConfig::default()).unwrap().stop(DRAIN).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(sink.written().facts["cpu.perf_map"], path);
    let sink = MemorySink::new();
    start(&sink, &SessionConfig::default()).unwrap().stop(DRAIN).unwrap();
    assert!(!sink.written().facts.contains_key("cpu.perf_map"));
}
