//! What stands around the slices: clocks, processes, tracks, windows and losses.

use std::collections::BTreeMap;
use std::io::Write;

use super::{LaneState, Pftrace, args, field};
use crate::capture::{JoinedBy, Worker};
use crate::label::CATEGORIES;
use crate::pids::Pids;
use crate::proto::{Proto as _, message};
use crate::timeline::{Lane, TimelineCounts, TrackKind};

/// The tracks of a worker beside its lanes.
pub(super) struct WorkerTracks {
    pub(super) process: u64,
    pub(super) pids: Pids,
    /// The group of a device's streams.
    devices: BTreeMap<u32, u64>,
    /// The track of each thread, the parent of its further lanes.
    threads: BTreeMap<u32, u64>,
    /// The sequence of what is written out of order.
    pub(super) sequence: u32,
}

/// The places of a process's tracks, top to bottom.
mod rank {
    pub(super) const CAPTURE: u64 = 0;
    pub(super) const STEPS: u64 = 1;
    pub(super) const LOST: u64 = 2;
    pub(super) const DEVICE: u64 = 10;
    pub(super) const OVERHEAD: u64 = 1_000_000;
}

struct Described<'a> {
    name: &'a str,
    parent: u64,
    rank: u64,
    orders_children: bool,
}

impl<W: Write> Pftrace<W> {
    /// Writes what is known of a worker before its rows.
    pub(super) fn describe_worker(&mut self, worker: &Worker, workers: &[Worker]) {
        if !self.clock_written {
            self.clock_written = true;
            self.clock_snapshot(worker);
        }
        let pids = Pids::of(worker, workers);
        let process = self.uuid();
        let sequence = self.sequence();
        let identity = &worker.identity;
        let name = short_title(worker);
        let command = worker.processes.get(&identity.pid).map(|p| p.command_line.clone());
        self.packet(|packet| {
            packet.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
            // Counters and the like are written as they come, with their whole instants.
            packet.uint(field::packet::SEQUENCE_FLAGS, field::packet::FLAG_STATE_CLEARED);
            message(packet, field::packet::DEFAULTS, |defaults| {
                defaults.uint(field::defaults::CLOCK_ID, field::clock_snapshot::MONOTONIC);
            });
            message(packet, field::packet::TRACK_DESCRIPTOR, |track| {
                track.uint(field::track::UUID, process);
                message(track, field::track::PROCESS, |fields| {
                    fields.uint(field::process::PID, u64::from(pids.process(identity.pid)));
                    fields.text(field::process::NAME, &name);
                    for part in command.iter().flatten() {
                        fields.text(field::process::COMMAND_LINE, part);
                    }
                    fields.uint(field::process::SORT_INDEX, worker.index as u64);
                });
                track.uint(field::track::CHILD_ORDERING, field::track::ORDERING_EXPLICIT);
                track.uint(field::track::SIBLING_RANK, worker.index as u64);
            });
        });
        self.workers.push(WorkerTracks {
            process,
            pids,
            devices: BTreeMap::new(),
            threads: BTreeMap::new(),
            sequence,
        });
    }

    fn clock_snapshot(&mut self, worker: &Worker) {
        // Without this, readers take every instant for CLOCK_BOOTTIME.
        let at = worker.windows.first().map_or(worker.end, |window| window.begin).max(1);
        let realtime = at.saturating_add_signed(worker.clock.realtime_offset_ns);
        let boottime = at.saturating_add_signed(worker.clock.boottime_offset_ns);
        let sequence = self.sequence();
        self.packet(|packet| {
            packet.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
            message(packet, field::packet::CLOCK_SNAPSHOT, |snapshot| {
                for (clock, shows) in [
                    (field::clock_snapshot::MONOTONIC, at),
                    (field::clock_snapshot::REALTIME, realtime),
                    (field::clock_snapshot::BOOTTIME, boottime),
                ] {
                    message(snapshot, field::clock_snapshot::CLOCKS, |fields| {
                        fields.uint(field::clock_snapshot::CLOCK_ID, clock);
                        fields.uint(field::clock_snapshot::CLOCK_TIMESTAMP, shows);
                    });
                }
                snapshot.uint(field::clock_snapshot::PRIMARY, field::clock_snapshot::MONOTONIC);
            });
        });
    }

    fn describe_track(&mut self, sequence: u32, uuid: u64, described: &Described<'_>) {
        self.packet(|packet| {
            packet.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
            message(packet, field::packet::TRACK_DESCRIPTOR, |track| {
                track.uint(field::track::UUID, uuid);
                track.uint(field::track::PARENT, described.parent);
                track.text(field::track::NAME, described.name);
                if described.orders_children {
                    track.uint(field::track::CHILD_ORDERING, field::track::ORDERING_EXPLICIT);
                }
                track.uint(field::track::SIBLING_RANK, described.rank);
            });
        });
    }

    /// Writes the track of a new lane.
    pub(super) fn describe_lane(&mut self, lane: &Lane, worker: &Worker) {
        let uuid = self.uuid();
        let sequence = self.sequence();
        let mut sequence_field = Vec::with_capacity(6);
        sequence_field.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
        let mut bytes = [0; 8];
        let len = sequence_field.len().min(bytes.len());
        bytes[..len].copy_from_slice(&sequence_field[..len]);
        self.lanes.push(LaneState {
            uuid,
            sequence,
            sequence_field: bytes,
            sequence_field_len: len,
            last: None,
            last_forward: -1,
            unordered: lane.unordered,
            interned: Vec::new(),
        });
        let process = self.workers[worker.index].process;
        match lane.track.kind {
            TrackKind::Thread { thread } => {
                self.describe_thread(lane, thread, uuid, sequence, worker)
            }
            TrackKind::Stream { device, stream } => {
                let parent = self.device_group(device, worker);
                let name = stream_name(worker, device, stream);
                let rank = u64::from(stream) * 4;
                self.describe_track(sequence, uuid, &plain(&name, parent, rank));
            }
            TrackKind::Communication { device, stream } => {
                let parent = self.device_group(device, worker);
                let name = format!("{}, communication", stream_name(worker, device, stream));
                let rank = u64::from(stream) * 4 + 1;
                self.describe_track(sequence, uuid, &plain(&name, parent, rank));
            }
            TrackKind::Synchronization { device, stream } => {
                let parent = self.device_group(device, worker);
                let name = match stream {
                    u32::MAX => "synchronisation".to_owned(),
                    _ => format!("{}, synchronisation", stream_name(worker, device, stream)),
                };
                let rank = u64::from(stream) * 4 + 2;
                self.describe_track(sequence, uuid, &plain(&name, parent, rank));
            }
            TrackKind::Overhead => {
                self.describe_track(sequence, uuid, &plain("overhead", process, rank::OVERHEAD));
            }
            TrackKind::Steps => {
                self.describe_track(sequence, uuid, &plain("steps", process, rank::STEPS));
            }
            TrackKind::Rest => {
                self.describe_track(sequence, uuid, &plain("further", process, rank::OVERHEAD));
            }
        }
    }

    fn describe_thread(
        &mut self,
        lane: &Lane,
        thread: u32,
        uuid: u64,
        sequence: u32,
        worker: &Worker,
    ) {
        let tracks = &mut self.workers[worker.index];
        let name = worker.threads.get(&thread).map(|info| info.name.clone()).unwrap_or_default();
        if let Some(&parent) = tracks.threads.get(&thread) {
            // Drawn as part of the thread's track, by equal name and parent.
            let name = if name.is_empty() { format!("thread {thread}") } else { name };
            return self.describe_track(sequence, uuid, &plain(&name, parent, u64::from(lane.nth)));
        }
        tracks.threads.insert(thread, uuid);
        let owner = worker.threads.get(&thread).map_or(0, |info| info.process);
        let process = if owner == 0 { worker.identity.pid } else { owner };
        let (pid, tid) = (tracks.pids.process(process), tracks.pids.thread(thread));
        let parent = tracks.process;
        // Two spools of one process: readers would merge two tracks of one thread into one.
        let first = *self.threads.entry((pid, tid)).or_insert(uuid);
        if first != uuid {
            let name = if name.is_empty() { format!("thread {thread}") } else { name };
            return self.describe_track(sequence, uuid, &plain(&name, first, 1));
        }
        self.packet(|packet| {
            packet.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
            message(packet, field::packet::TRACK_DESCRIPTOR, |track| {
                track.uint(field::track::UUID, uuid);
                track.uint(field::track::PARENT, parent);
                message(track, field::track::THREAD, |fields| {
                    fields.uint(field::thread::PID, u64::from(pid));
                    fields.uint(field::thread::TID, u64::from(tid));
                    if !name.is_empty() {
                        fields.text(field::thread::NAME, &name);
                    }
                });
            });
        });
    }

    /// The track that holds a device's streams.
    fn device_group(&mut self, device: u32, worker: &Worker) -> u64 {
        if let Some(&uuid) = self.workers[worker.index].devices.get(&device) {
            return uuid;
        }
        let uuid = self.uuid();
        let tracks = &mut self.workers[worker.index];
        tracks.devices.insert(device, uuid);
        let (parent, sequence) = (tracks.process, tracks.sequence);
        let name = match worker.devices.get(&device) {
            Some(info) if !info.name.is_empty() => format!("device {device}: {}", info.name),
            _ => format!("device {device}"),
        };
        let described = Described {
            name: &name,
            parent,
            rank: rank::DEVICE + u64::from(device),
            orders_children: true,
        };
        self.describe_track(sequence, uuid, &described);
        uuid
    }

    /// Writes the packet that a lane's sequence begins with.
    pub(super) fn begin_sequence(&mut self, lane: usize, at: u64) {
        let LaneState { uuid, sequence, unordered, .. } = self.lanes[lane];
        let full = self.args == profiler_core::config::EventArguments::Full;
        self.packet(|packet| {
            packet.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
            packet.uint(field::packet::SEQUENCE_FLAGS, field::packet::FLAG_STATE_CLEARED);
            let clock = match unordered {
                true => field::clock_snapshot::MONOTONIC,
                false => field::clock_snapshot::OF_SEQUENCE,
            };
            message(packet, field::packet::DEFAULTS, |defaults| {
                defaults.uint(field::defaults::CLOCK_ID, clock);
                message(defaults, field::defaults::TRACK_EVENT, |event| {
                    event.uint(field::defaults::TRACK_EVENT_UUID, uuid);
                });
            });
            message(packet, field::packet::INTERNED_DATA, |interned| {
                for (index, text) in CATEGORIES.iter().enumerate() {
                    message(interned, field::interned::EVENT_CATEGORIES, |name| {
                        name.uint(field::interned_text::IID, index as u64 + 1);
                        name.text(field::interned_text::TEXT, text);
                    });
                }
                for (iid, text) in args::names(full) {
                    message(interned, field::interned::ANNOTATION_NAMES, |name| {
                        name.uint(field::interned_text::IID, iid);
                        name.text(field::interned_text::TEXT, text);
                    });
                }
            });
            if unordered {
                return;
            }
            message(packet, field::packet::CLOCK_SNAPSHOT, |snapshot| {
                message(snapshot, field::clock_snapshot::CLOCKS, |clock| {
                    clock.uint(field::clock_snapshot::CLOCK_ID, field::clock_snapshot::OF_SEQUENCE);
                    clock.uint(field::clock_snapshot::CLOCK_TIMESTAMP, at);
                    clock.uint(field::clock_snapshot::CLOCK_INCREMENTAL, 1);
                });
                message(snapshot, field::clock_snapshot::CLOCKS, |clock| {
                    clock.uint(field::clock_snapshot::CLOCK_ID, field::clock_snapshot::MONOTONIC);
                    clock.uint(field::clock_snapshot::CLOCK_TIMESTAMP, at);
                });
            });
        });
        self.lanes[lane].last = Some(at);
    }

    /// Writes the windows, what is known of the capture, and what was lost.
    pub(super) fn finish_worker(&mut self, worker: &Worker, counts: &TimelineCounts) {
        let (process, sequence) = {
            let tracks = &self.workers[worker.index];
            (tracks.process, tracks.sequence)
        };
        let capture = self.uuid();
        self.describe_track(sequence, capture, &plain("capture", process, rank::CAPTURE));
        let facts = capture_facts(worker, counts);
        if worker.windows.is_empty() {
            self.plain_instant(sequence, capture, worker.end, "no window", &facts);
        }
        for window in &worker.windows {
            if let Some(warmup) = window.warmup.filter(|warmup| *warmup < window.begin) {
                let name = format!("warm-up {}", window.window);
                self.plain_slice(sequence, capture, (warmup, window.begin), &name, &[]);
            }
            let end = window.end.unwrap_or(worker.end).max(window.begin);
            let name = format!("window {}", window.window);
            self.plain_slice(sequence, capture, (window.begin, end), &name, &facts);
        }
        self.write_losses(worker, process, sequence);
    }

    fn write_losses(&mut self, worker: &Worker, process: u64, sequence: u32) {
        if worker.losses.is_empty() {
            return;
        }
        let first = worker.windows.first().map_or(worker.end, |window| window.begin);
        // Losses of several streams may overlap: a lane each, and the viewer draws them as one.
        let mut lanes: Vec<(u64, u64)> = Vec::new();
        let mut losses: Vec<_> = worker
            .losses
            .iter()
            .map(|loss| {
                let from = if loss.from == 0 { first } else { loss.from };
                let to = if loss.to == 0 { worker.end } else { loss.to };
                (from, to.max(from), loss)
            })
            .collect();
        losses.sort_by_key(|(from, to, _)| (*from, *to));
        for (from, to, loss) in losses {
            let free = lanes.iter().position(|(_, end)| *end <= from);
            let index = free.unwrap_or(lanes.len());
            if index == lanes.len() {
                let uuid = self.uuid();
                self.describe_track(sequence, uuid, &plain("lost", process, rank::LOST));
                lanes.push((uuid, 0));
            }
            lanes[index].1 = to.max(from + 1);
            let kind = loss.kind.map_or("rows".to_owned(), |kind| format!("{kind} rows"));
            let name = format!("{} {kind} lost: {}", loss.count, loss.cause_text());
            let facts = [
                ("lost".to_owned(), loss.count.to_string()),
                ("cause".to_owned(), loss.cause_text().to_owned()),
            ];
            self.plain_slice(sequence, lanes[index].0, (from, to.max(from + 1)), &name, &facts);
        }
    }

    fn plain_slice(
        &mut self,
        sequence: u32,
        track: u64,
        (from, to): (u64, u64),
        name: &str,
        facts: &[(String, String)],
    ) {
        self.plain_event(sequence, track, from, field::event::TYPE_SLICE_BEGIN, name, facts);
        self.plain_event(sequence, track, to, field::event::TYPE_SLICE_END, "", &[]);
    }

    fn plain_instant(
        &mut self,
        sequence: u32,
        track: u64,
        at: u64,
        name: &str,
        facts: &[(String, String)],
    ) {
        self.plain_event(sequence, track, at, field::event::TYPE_INSTANT, name, facts);
    }

    fn plain_event(
        &mut self,
        sequence: u32,
        track: u64,
        at: u64,
        event_type: u8,
        name: &str,
        facts: &[(String, String)],
    ) {
        self.packet(|packet| {
            packet.uint(field::packet::TIMESTAMP, at);
            packet.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
            message(packet, field::packet::TRACK_EVENT, |event| {
                event.uint(field::event::TYPE, u64::from(event_type));
                event.uint(field::event::TRACK_UUID, track);
                if !name.is_empty() {
                    event.text(field::event::NAME, name);
                    event.text(field::event::CATEGORIES, "omniprof");
                }
                for (key, value) in facts {
                    message(event, field::event::DEBUG_ANNOTATIONS, |annotation| {
                        annotation.text(field::annotation::NAME, key);
                        annotation.text(field::annotation::TEXT, value);
                    });
                }
            });
        });
    }
}

/// What the viewer has room for, with what differs in front: it appends the process id itself.
fn short_title(worker: &Worker) -> String {
    let identity = &worker.identity;
    let mut title = match (identity.stage, identity.role.as_deref()) {
        (Some(stage), Some(role)) => format!("{stage} {role}"),
        (Some(stage), None) => format!("stage {stage}"),
        (None, Some(role)) => role.to_owned(),
        (None, None) => identity.program.clone(),
    };
    match (identity.replica, identity.rank) {
        (Some(replica), Some(rank)) => title.push_str(&format!(" r{replica}.{rank}")),
        (None, Some(rank)) => title.push_str(&format!(" rank {rank}")),
        (Some(replica), None) => title.push_str(&format!(" r{replica}")),
        (None, None) => {}
    }
    title
}

fn plain(name: &str, parent: u64, rank: u64) -> Described<'_> {
    Described { name, parent, rank, orders_children: false }
}

fn stream_name(worker: &Worker, device: u32, stream: u32) -> String {
    let named = worker
        .stream_names
        .iter()
        .find(|((d, _, s), name)| *d == device && *s == stream && !name.name.is_empty());
    match named {
        Some((_, name)) => format!("stream {stream} {}", name.name),
        None => format!("stream {stream}"),
    }
}

/// What a person or a program may want to know of the capture.
pub(crate) fn capture_facts(worker: &Worker, counts: &TimelineCounts) -> Vec<(String, String)> {
    let identity = &worker.identity;
    let mut facts = vec![
        ("session".to_owned(), worker.session.clone()),
        ("worker".to_owned(), worker.title()),
        ("host".to_owned(), identity.host.clone()),
        ("key".to_owned(), identity.key.clone()),
        ("writer".to_owned(), worker.writer.clone()),
        ("complete".to_owned(), worker.complete.to_string()),
        ("clock.joined_by".to_owned(), worker.clock.by.text().to_owned()),
        ("clock.error_ns".to_owned(), worker.clock.error_ns.to_string()),
        ("lost_rows".to_owned(), worker.lost().to_string()),
        ("late_rows".to_owned(), counts.late.to_string()),
    ];
    if worker.clock.by == JoinedBy::Realtime {
        let note = "the machines' CLOCK_REALTIME may differ by more than the error";
        facts.push(("clock.note".to_owned(), note.to_owned()));
    }
    facts.extend(worker.facts.iter().map(|(key, value)| (key.clone(), value.clone())));
    facts
}
