//! What stands around the events: devices, ranks, names and the order of tracks.

use std::io::Write;

use super::text::{double, escape, number, time};
use super::{
    COMMUNICATION_TID, Kineto, LANE_TID, LaneIds, OVERHEAD_TID, OWN_TID, REST_TID, STEPS_TID,
    SYNCHRONIZATION_TID, WorkerIds,
};
use crate::capture::{Place, Worker};
use crate::pftrace::capture_facts;
use crate::pids::Pids;
use crate::timeline::{Lane, TimelineCounts, TrackKind};
use profiler_core::record::{Counter, DeviceDef, DeviceVendor};

/// Where the device numbers of further workers begin.
const DEVICE_OFFSET: u32 = 1_000_000_000;
const DEVICES_A_WORKER: u32 = 1_000;
/// Kineto sorts devices behind all processes.
const DEVICE_SORT_INDEX: u64 = 5_000_000;

impl<W: Write> Kineto<W> {
    /// Writes everything before the events.
    pub(super) fn write_top(&mut self, workers: &[Worker]) {
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(b"{\n\"schemaVersion\":1,\n\"deviceProperties\":[");
        let mut first = true;
        for worker in workers {
            for (device, info) in &worker.devices {
                if !std::mem::take(&mut first) {
                    buffer.push(b',');
                }
                let row = &info.row;
                buffer.extend_from_slice(b"\n{\"id\":");
                let offset = device_offset(worker, workers);
                number(buffer, u64::from(offset) + u64::from(*device));
                buffer.extend_from_slice(b",\"name\":");
                escape(buffer, &info.name);
                for (name, value) in [
                    ("totalGlobalMem", row.memory_bytes),
                    ("computeMajor", u64::from(row.capability_major)),
                    ("computeMinor", u64::from(row.capability_minor)),
                    ("maxThreadsPerBlock", u64::from(row.max_threads_per_block)),
                    ("maxThreadsPerMultiprocessor", u64::from(row.max_threads_per_multiprocessor)),
                    ("regsPerBlock", u64::from(row.registers_per_block)),
                    ("warpSize", u64::from(row.warp_size)),
                    ("sharedMemPerBlock", u64::from(row.shared_bytes_per_block)),
                    ("numSms", u64::from(row.multiprocessors)),
                    ("regsPerMultiprocessor", u64::from(row.registers_per_multiprocessor)),
                    ("sharedMemPerBlockOptin", u64::from(shared_bytes_optin(row))),
                    ("sharedMemPerMultiprocessor", u64::from(row.shared_bytes_per_multiprocessor)),
                ] {
                    buffer.extend_from_slice(format!(",\"{name}\":{value}").as_bytes());
                }
                buffer.push(b'}');
            }
            self.configs.learn(worker);
        }
        buffer.extend_from_slice(b"],\n");
        if let [worker] = workers
            && let Some(rank) = worker.identity.rank
        {
            let size = worker.facts.get("distributed.world_size").and_then(|v| v.parse().ok());
            // With spaces: HTA finds the rank by a pattern that asks for one.
            buffer.extend_from_slice(br#""distributedInfo": {"backend": "", "rank": "#);
            number(buffer, u64::from(rank));
            buffer.extend_from_slice(br#", "world_size": "#);
            number(buffer, size.unwrap_or(u64::from(rank) + 1));
            buffer.extend_from_slice(b", \"pg_count\": 0, \"pg_config\": []},\n");
        }
        if let [worker] = workers
            && let Some(version) = worker.facts.get("cuda.libcupti_version")
            && let Ok(version) = version.parse()
        {
            buffer.extend_from_slice(br#""cupti_version":"#);
            number(buffer, version);
            buffer.extend_from_slice(b",\n");
        }
        buffer.extend_from_slice(b"\"displayTimeUnit\":\"ms\",\n\"baseTimeNanoseconds\":");
        number(buffer, self.base);
        buffer.extend_from_slice(b",\n\"traceEvents\":[");
    }

    /// Writes everything behind the events.
    pub(super) fn write_end(&mut self, workers: &[Worker], counts: &TimelineCounts) {
        let mut last = 0;
        for worker in workers {
            last = last.max(worker.end);
            for window in &worker.windows {
                if let Some(warmup) = window.warmup.filter(|warmup| *warmup < window.begin) {
                    let name = format!("warm-up {}", window.window);
                    self.trace_slice(worker, &name, warmup, window.begin);
                }
                let end = window.end.unwrap_or(worker.end).max(window.begin);
                self.trace_slice(worker, &format!("window {}", window.window), window.begin, end);
            }
            self.write_losses(worker);
        }
        self.begin_event();
        let at = self.since_base(last);
        let buffer = &mut self.buffer;
        let pid = self.workers.first().map_or(0, |worker| worker.pid);
        buffer.extend_from_slice(br#"{"ph":"i","s":"g","name":"Record Window End","pid":"#);
        of_no_thread(buffer, pid, at);
        buffer.extend_from_slice(b"}\n],\n\"traceName\":");
        escape(buffer, &self.name);
        buffer.extend_from_slice(b",\n\"omniprof\":[");
        for (index, worker) in workers.iter().enumerate() {
            let separator: &[u8] = if index == 0 { b"\n{" } else { b",\n{" };
            buffer.extend_from_slice(separator);
            for (place, (key, value)) in capture_facts(worker, counts).iter().enumerate() {
                if place > 0 {
                    buffer.push(b',');
                }
                escape(buffer, key);
                buffer.push(b':');
                escape(buffer, value);
            }
            buffer.push(b'}');
        }
        buffer.extend_from_slice(b"]\n}\n");
    }

    fn write_losses(&mut self, worker: &Worker) {
        let first = worker.windows.first().map_or(worker.end, |window| window.begin);
        for loss in &worker.losses {
            let kind = loss.kind.map_or("rows".to_owned(), |kind| format!("{kind} rows"));
            let name = format!("{} {kind} lost: {}", loss.count, loss.cause_text());
            let at = if loss.from == 0 { first } else { loss.from };
            self.begin_event();
            let since = self.since_base(at);
            let pid = self.workers[worker.index].pid;
            let buffer = &mut self.buffer;
            buffer.extend_from_slice(br#"{"ph":"i","s":"p","cat":"lost","name":"#);
            escape(buffer, &name);
            buffer.extend_from_slice(br#","pid":"#);
            of_no_thread(buffer, pid, since);
            buffer.extend_from_slice(br#","args":{"lost":"#);
            number(buffer, loss.count);
            buffer.extend_from_slice(b"}}");
        }
    }

    fn trace_slice(&mut self, worker: &Worker, name: &str, from: u64, to: u64) {
        self.begin_event();
        let since = self.since_base(from);
        let pid = self.workers[worker.index].pid;
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(br#"{"ph":"X","cat":"Trace","name":"#);
        escape(buffer, name);
        buffer.extend_from_slice(br#","pid":"#);
        of_no_thread(buffer, pid, since);
        buffer.extend_from_slice(br#","dur":"#);
        time(buffer, to.saturating_sub(from));
        buffer.extend_from_slice(br#","args":{}}"#);
    }

    /// Writes a process's names.
    pub(super) fn describe_worker(&mut self, worker: &Worker, workers: &[Worker]) {
        let pids = Pids::of(worker, workers);
        let pid = pids.process(worker.identity.pid);
        let ids = WorkerIds {
            pids,
            pid,
            device_offset: device_offset(worker, workers),
            devices: Vec::new(),
        };
        self.workers.push(ids);
        let name = format!("{} ({})", worker.title(), worker.identity.program);
        self.name_process(u64::from(pid), &name, "CPU", worker.index as u64);
        self.name_thread(u64::from(pid), OWN_TID, "capture", 0);
    }

    fn name_process(&mut self, pid: u64, name: &str, label: &str, sort_index: u64) {
        self.metadata("process_name", pid, 0, "name", |out| escape(out, name));
        self.metadata("process_labels", pid, 0, "labels", |out| escape(out, label));
        self.metadata("process_sort_index", pid, 0, "sort_index", |out| number(out, sort_index));
    }

    fn name_thread(&mut self, pid: u64, tid: u64, name: &str, sort_index: u64) {
        self.metadata("thread_name", pid, tid, "name", |out| escape(out, name));
        self.metadata("thread_sort_index", pid, tid, "sort_index", |out| number(out, sort_index));
    }

    fn metadata(
        &mut self,
        what: &str,
        pid: u64,
        tid: u64,
        key: &str,
        value: impl FnOnce(&mut Vec<u8>),
    ) {
        self.begin_event();
        let buffer = &mut self.buffer;
        let head = format!(
            r#"{{"ph":"M","name":"{what}","pid":{pid},"tid":{tid},"ts":0.000,"args":{{"{key}":"#
        );
        buffer.extend_from_slice(head.as_bytes());
        value(buffer);
        buffer.extend_from_slice(b"}}");
    }

    /// Gives a new lane its ids and writes its names.
    pub(super) fn describe_lane(&mut self, lane: &Lane, worker: &Worker) {
        let ids = &self.workers[worker.index];
        let (host, offset) = (u64::from(ids.pid), ids.device_offset);
        let of_device = |device: u32| u64::from(offset) + u64::from(device);
        let further = u64::from(lane.nth) * LANE_TID;
        let (pid, tid, name) = match lane.track.kind {
            TrackKind::Stream { device, stream } => {
                (of_device(device), u64::from(stream), format!("stream {stream} "))
            }
            TrackKind::Communication { device, stream } => (
                of_device(device),
                u64::from(stream) + COMMUNICATION_TID,
                format!("stream {stream} (communication)"),
            ),
            TrackKind::Synchronization { device, stream } => (
                of_device(device),
                u64::from(stream) + SYNCHRONIZATION_TID,
                format!("stream {stream} (sync)"),
            ),
            TrackKind::Thread { thread } => {
                let known = worker.threads.get(&thread).map_or("", |info| info.name.as_str());
                let tid = u64::from(ids.pids.thread(thread));
                let name = match known {
                    "" => format!("thread {thread}"),
                    known => format!("thread {thread} ({known})"),
                };
                (host, tid, name)
            }
            TrackKind::Overhead => (host, OVERHEAD_TID, "overhead".to_owned()),
            TrackKind::Steps => (host, STEPS_TID, "steps".to_owned()),
            TrackKind::Rest => (host, REST_TID, "further".to_owned()),
        };
        let tid = tid + further;
        if let TrackKind::Stream { device, .. }
        | TrackKind::Communication { device, .. }
        | TrackKind::Synchronization { device, .. } = lane.track.kind
        {
            self.describe_device(device, pid, worker);
        }
        // Those of no thread stand first.
        let sort_index = if tid >= OWN_TID { tid - OWN_TID } else { tid };
        self.name_thread(pid, tid, &name, sort_index);
        let place = format!(r#"{pid},"tid":{tid},"ts":"#);
        self.lanes.push(LaneIds { place: place.into_bytes() });
    }

    fn describe_device(&mut self, device: u32, pid: u64, worker: &Worker) {
        let ids = &mut self.workers[worker.index];
        if ids.devices.contains(&device) {
            return;
        }
        ids.devices.push(device);
        let name = format!("{} ({})", worker.title(), worker.identity.program);
        let sort_index = DEVICE_SORT_INDEX
            + worker.index as u64 * u64::from(DEVICES_A_WORKER)
            + u64::from(device % DEVICES_A_WORKER);
        self.name_process(pid, &name, &format!("GPU {device}"), sort_index);
    }

    /// Writes a counter's value.
    pub(super) fn counter(&mut self, place: &Place<'_>, row: &Counter) {
        self.begin_event();
        let at = self.since_base(row.time);
        let ids = &self.workers[place.worker.index];
        let pid = match row.device {
            u32::MAX => u64::from(ids.pid),
            device => u64::from(ids.device_offset) + u64::from(device),
        };
        let mut name = place.definitions.string(row.name).to_owned();
        if row.thread != 0 {
            name.push_str(&format!(" {}", row.thread));
        }
        let unit = place.definitions.string(row.unit);
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(br#"{"ph":"C","name":"#);
        escape(buffer, &name);
        buffer.extend_from_slice(br#","pid":"#);
        number(buffer, pid);
        buffer.extend_from_slice(br#","ts":"#);
        time(buffer, at);
        buffer.extend_from_slice(br#","args":{"#);
        escape(buffer, if unit.is_empty() { "value" } else { unit });
        buffer.push(b':');
        double(buffer, row.value);
        buffer.extend_from_slice(b"}}");
    }
}

/// The most shared memory that a block can ask for. CUPTI does not tell it: from capability 7 on it
/// is what a multiprocessor has, less what the driver keeps of each block's from 8 on.
fn shared_bytes_optin(device: &DeviceDef) -> u32 {
    const RESERVED_BYTES: u32 = 1024;
    let told = device.shared_bytes_per_block_optin;
    match device.capability_major {
        _ if told != 0 || device.vendor != DeviceVendor::Nvidia.number() => told,
        0..7 => device.shared_bytes_per_block,
        7 => device.shared_bytes_per_multiprocessor,
        _ => device.shared_bytes_per_multiprocessor.saturating_sub(RESERVED_BYTES),
    }
}

/// Writes the process of an event of no thread, and its instant: what stands behind `"pid":`.
fn of_no_thread(buffer: &mut Vec<u8>, pid: u32, since_base: u64) {
    number(buffer, u64::from(pid));
    buffer.extend_from_slice(br#","tid":"#);
    number(buffer, OWN_TID);
    buffer.extend_from_slice(br#","ts":"#);
    time(buffer, since_base);
}

/// Added to the device numbers of a worker for the process number in the trace. Alone, a worker
/// has the numbers that Kineto gives; they must not meet a process's.
fn device_offset(worker: &Worker, workers: &[Worker]) -> u32 {
    let is_alone = workers.len() == 1 && worker.identity.pid > 64;
    if is_alone { 0 } else { DEVICE_OFFSET + worker.index as u32 * DEVICES_A_WORKER }
}
