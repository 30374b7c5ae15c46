//! What is known of the process and its machine.

use profiler_core::control::Arm;
use profiler_core::identity::WorkerIdentity;
use profiler_core::process_facts::ProcessFacts;
use profiler_core::record::{HeapRef, ProcessDef};
use profiler_core::sink::{Batch, Emit, RecordSink};

use crate::session::OWN_STREAM;

/// Writes the facts that are known at arm.
pub(crate) fn write(
    sink: &dyn RecordSink,
    worker: &WorkerIdentity,
    arm: &Arm,
    joined_by: &str,
    facts: &ProcessFacts,
) {
    sink.fact("agent.version", env!("CARGO_PKG_VERSION"));
    sink.fact("agent.joined_by", joined_by);
    sink.fact("host.name", &worker.host);
    let system = rustix::system::uname();
    sink.fact("host.kernel", &system.release().to_string_lossy());
    sink.fact("host.architecture", &system.machine().to_string_lossy());
    if let Ok(cpus) = std::thread::available_parallelism() {
        sink.fact("host.usable_cpus", &cpus.to_string());
    }
    sink.fact("process.program", &worker.program);
    sink.fact("process.command_line", &facts.command_line.join(" "));
    define_process(sink, worker, &facts.command_line);
    for (key, value) in [
        ("worker.stage", worker.stage.map(|stage| stage.to_string())),
        ("worker.role", worker.role.clone()),
        ("worker.replica", worker.replica.map(|replica| replica.to_string())),
        ("worker.rank", worker.rank.map(|rank| rank.to_string())),
    ] {
        if let Some(value) = value {
            sink.fact(key, &value);
        }
    }
    for (key, value) in [
        ("process.name", &facts.name),
        ("process.executable", &facts.executable),
        ("process.control_group", &facts.control_group),
    ] {
        if !value.is_empty() {
            sink.fact(key, value);
        }
    }
    for (name, value) in &facts.environment {
        sink.fact(&format!("environment.{}", name.to_lowercase()), value);
    }
    for (key, json) in [
        ("config.capture", serde_json::to_string(&arm.capture)),
        ("config.schedule", serde_json::to_string(&arm.schedule)),
        ("config.limits", serde_json::to_string(&arm.limits)),
    ] {
        // Values that came as JSON go back to JSON.
        if let Ok(json) = json {
            sink.fact(key, &json);
        }
    }
}

/// Names the process, also where no backend for the host does.
fn define_process(sink: &dyn RecordSink, worker: &WorkerIdentity, command_line: &[String]) {
    let mut heap = Vec::new();
    let process = ProcessDef {
        name: HeapRef::push(&mut heap, worker.program.as_bytes()),
        command_line: HeapRef::push(&mut heap, command_line.join("\0").as_bytes()),
        process: worker.pid,
        parent: 0,
    };
    // Where the sink is full already, the facts say the same.
    let _emitted: Emit = sink.emit(&[Batch::with_heap(OWN_STREAM, &[process], &heap)]);
}
