//! The checks, one a function.

use std::fs;
use std::path::Path;

use profiler_core::error::chain;
use profiler_core::probe::ProbeReport;
use profiler_core::socket_path::{SocketEnvironment, SocketOrigin, SocketPath, SocketPathError};
use profiler_core::trace_path::{TraceRoot, TraceRootError};

use super::{Finding, Verdict};
use crate::cli::bytes_text;
use crate::config::Resolved;

/// Below this share of free space a capture ends soon.
const LITTLE_FREE_PERCENT: u64 = 10;

pub(super) fn all(resolved: &Resolved, root: &Path, plugin_dir: Option<&Path>) -> Vec<Finding> {
    let mut findings = vec![versions(), clock(), perf()];
    findings.extend(backends(plugin_dir));
    findings.extend(traces(root));
    findings.push(socket(root));
    findings.push(exporter());
    findings.extend(configuration(resolved));
    findings
}

fn versions() -> Finding {
    let uname = rustix::system::uname();
    let found = format!(
        "omniprof {}, Linux {}, {}, protocol {}",
        env!("CARGO_PKG_VERSION"),
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy(),
        profiler_core::control::PROTOCOL_VERSION,
    );
    Finding::good("versions", found)
}

fn clock() -> Finding {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = read(source).unwrap_or_else(|| "unknown".to_owned());
    match source.as_str() {
        "tsc" | "arch_sys_counter" | "unknown" => {
            Finding::good("clock", format!("clock source {source}"))
        }
        _ => Finding::new(
            "clock",
            Verdict::Less,
            format!("clock source {source}: reading the time costs a system call"),
            "boot with tsc=reliable if the processor's counter is",
        ),
    }
}

fn perf() -> Finding {
    let Some(text) = read("/proc/sys/kernel/perf_event_paranoid") else {
        return Finding::new(
            "perf events",
            Verdict::Less,
            "the kernel has no perf events, or /proc is not mounted",
            "counters, spans and signal sampling of embedding processes go on without",
        );
    };
    let level: i64 = text.parse().unwrap_or(i64::MAX);
    let privileged = rustix::process::geteuid().is_root();
    if level <= 2 || privileged {
        return Finding::good("perf events", format!("kernel.perf_event_paranoid = {text}"));
    }
    Finding::new(
        "perf events",
        Verdict::Less,
        format!("kernel.perf_event_paranoid = {text}: this user may not sample by perf"),
        "sysctl kernel.perf_event_paranoid=2, or give CAP_PERFMON; in a container the seccomp \
         profile must allow perf_event_open too",
    )
}

fn backends(plugin_dir: Option<&Path>) -> Vec<Finding> {
    let registry = profiler_agent::backends(plugin_dir);
    let mut findings = Vec::new();
    for registered in registry.iter() {
        let check = format!("backend {}", registered.id());
        findings.push(match registered.backend.probe() {
            ProbeReport::Available { devices, notes } => {
                let names: Vec<String> = devices.into_iter().map(|device| device.name).collect();
                let mut found =
                    if names.is_empty() { "available".to_owned() } else { names.join(", ") };
                let origin = registry.origin(&registered.id()).map(ToString::to_string);
                for note in notes.iter().chain(&origin) {
                    found.push_str("; ");
                    found.push_str(note);
                }
                Finding::good(&check, found)
            }
            ProbeReport::Unavailable { reason } => {
                let mut found = format!("{} [{}]", reason.message, reason.code);
                if let Some(origin) = registry.origin(&registered.id()) {
                    found.push_str(&format!("; {origin}"));
                }
                Finding::new(&check, Verdict::Less, found, reason.remedy)
            }
            _ => Finding::new(&check, Verdict::Less, "an answer of a newer version", ""),
        });
    }
    if findings.is_empty() {
        findings.push(Finding::new(
            "backends",
            Verdict::Less,
            "this binary has none; workers bring their own",
            "build with the features cpu, cuda, npu, or name a directory of plugins with \
             OMNIPROF_PLUGIN_DIR",
        ));
    }
    findings.extend(registry.refused_plugins().iter().map(|refused| {
        let found = format!("{} [{}]", refused.reason, refused.code);
        // A duplicate is no fault: the linked backend records.
        let verdict = if refused.code == "duplicate" { Verdict::Less } else { Verdict::Bad };
        Finding::new("plugin", verdict, found, "")
    }));
    findings
}

fn traces(path: &Path) -> Vec<Finding> {
    let root = match TraceRoot::open(path) {
        Ok(root) => root,
        Err(TraceRootError::NotFound { .. }) => {
            let found = format!("{} does not exist yet; it will be made", path.display());
            return vec![Finding::good("traces", found)];
        }
        Err(error) => return vec![Finding::new("traces", Verdict::Bad, chain(&error), "")],
    };
    let mut findings = Vec::new();
    let found = match root.sessions() {
        Ok(sessions) => {
            let bytes = sessions.iter().map(|session| session.bytes).sum();
            let live = sessions.iter().filter(|session| session.live).count();
            format!(
                "{}: {} sessions, {live} of them live, {}",
                root.path().display(),
                sessions.len(),
                bytes_text(bytes)
            )
        }
        Err(error) => return vec![Finding::new("traces", Verdict::Bad, chain(&error), "")],
    };
    findings.push(Finding::good("traces", found));
    if let Ok(Some(holder)) = root.claimed_by() {
        findings.push(Finding::good("controller", format!("live: {holder}")));
    }
    findings.push(disk(&root));
    findings
}

fn disk(root: &TraceRoot) -> Finding {
    let space = match root.space() {
        Ok(space) => space,
        Err(error) => return Finding::new("disk", Verdict::Less, chain(&error), ""),
    };
    if space.read_only {
        let remedy = "give another directory with `--dir` or OMNIPROF_DIR";
        return Finding::new("disk", Verdict::Bad, "mounted read-only", remedy);
    }
    let percent = space.free_bytes.saturating_mul(100) / space.total_bytes.max(1);
    let found = format!("{} free, {percent} %", bytes_text(space.free_bytes));
    if percent >= LITTLE_FREE_PERCENT {
        return Finding::good("disk", found);
    }
    let remedy = "a capture ends where `min_free_percent` is reached: free space, or \
                  `omniprof prune`";
    Finding::new("disk", Verdict::Less, found, remedy)
}

fn socket(root: &Path) -> Finding {
    let place = match SocketPath::resolve(root, &SocketEnvironment::of_this_process()) {
        Ok(place) => place,
        Err(error) => return Finding::new("socket", Verdict::Bad, chain(&error), ""),
    };
    let by = match place.origin() {
        SocketOrigin::Variable => "by OMNIPROF_SOCKET",
        SocketOrigin::RuntimeDir => "by XDG_RUNTIME_DIR",
        _ => "in the temporary folder",
    };
    let found = format!("{} ({by})", place.socket().display());
    match place.check() {
        Ok(()) => Finding::good("socket", found),
        Err(SocketPathError::Missing { .. }) if place.origin() != SocketOrigin::Variable => {
            Finding::good("socket", format!("{found}, not there yet"))
        }
        Err(error) => Finding::new("socket", Verdict::Bad, chain(&error), ""),
    }
}

fn exporter() -> Finding {
    match profiler_worker::locate() {
        Some(path) => Finding::good("exporter", path.display().to_string()),
        None => Finding::new(
            "exporter",
            Verdict::Less,
            "no `omniprof` is found: manifests will say `pending` with the command",
            "put it into PATH, or set OMNIPROF_BIN_DIR",
        ),
    }
}

fn configuration(resolved: &Resolved) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (stage, refused) in resolved.refused() {
        let place = stage.map_or_else(|| "all stages".to_owned(), |n| format!("stage {n}"));
        let found = format!("{place}: `{}` = {} is not applied", refused.field, refused.value);
        findings.push(Finding::new("configuration", Verdict::Less, found, refused.reason));
    }
    for name in &resolved.unknown_variables {
        let found = format!("the variable {name} means nothing to omniprof");
        findings.push(Finding::new("environment", Verdict::Less, found, "unset it"));
    }
    findings
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
