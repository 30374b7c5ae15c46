//! Counters as tracks of numbers.

use std::collections::HashMap;
use std::io::Write;

use profiler_core::record::{Counter, StringId};

use super::{Pftrace, field};
use crate::capture::Place;
use crate::proto::{Proto as _, message};

/// More than any process has; what a hostile file has beyond is left out.
const MAX_COUNTERS: usize = 1 << 14;

/// The track of each counter of each worker.
#[derive(Default)]
pub(super) struct CounterTracks {
    uuids: HashMap<(usize, StringId, u32, u32), u64>,
}

impl<W: Write> Pftrace<W> {
    /// Writes a counter's value.
    pub(super) fn counter(&mut self, place: &Place<'_>, row: &Counter) {
        let key = (place.worker.index, row.name, row.device, row.thread);
        let sequence = self.workers[place.worker.index].sequence;
        let uuid = match self.counters.uuids.get(&key) {
            Some(&uuid) => uuid,
            None if self.counters.uuids.len() >= MAX_COUNTERS => return,
            None => self.describe_counter(place, row, sequence),
        };
        self.packet(|packet| {
            packet.uint(field::packet::TIMESTAMP, row.time);
            packet.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
            message(packet, field::packet::TRACK_EVENT, |event| {
                event.uint(field::event::TYPE, u64::from(field::event::TYPE_COUNTER));
                event.uint(field::event::TRACK_UUID, uuid);
                let whole = row.value as i64;
                if whole as f64 == row.value {
                    event.uint(field::event::COUNTER_VALUE, whole as u64);
                } else {
                    event.double(field::event::DOUBLE_COUNTER_VALUE, row.value);
                }
            });
        });
    }

    fn describe_counter(&mut self, place: &Place<'_>, row: &Counter, sequence: u32) -> u64 {
        let uuid = self.uuid();
        let key = (place.worker.index, row.name, row.device, row.thread);
        self.counters.uuids.insert(key, uuid);
        let mut name = place.definitions.string(row.name).to_owned();
        if row.device != u32::MAX {
            name.push_str(&format!(", device {}", row.device));
        }
        if row.thread != 0 {
            match place.worker.threads.get(&row.thread) {
                Some(thread) if !thread.name.is_empty() => {
                    name.push_str(&format!(", {} {}", thread.name, row.thread));
                }
                _ => name.push_str(&format!(", thread {}", row.thread)),
            }
        }
        let parent = self.workers[place.worker.index].process;
        let unit = place.definitions.string(row.unit);
        self.packet(|packet| {
            packet.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
            message(packet, field::packet::TRACK_DESCRIPTOR, |track| {
                track.uint(field::track::UUID, uuid);
                track.uint(field::track::PARENT, parent);
                track.text(field::track::NAME, &name);
                message(track, field::track::COUNTER, |counter| {
                    if !unit.is_empty() {
                        counter.text(field::counter::UNIT_NAME, unit);
                    }
                });
                track.uint(field::track::SIBLING_RANK, 2_000_000);
            });
        });
        uuid
    }
}
