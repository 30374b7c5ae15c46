//! The devices that CUPTI tells of.

use profiler_core::record::{DeviceDef, DeviceVendor, HeapRef};

use super::Names;
use super::rows::Rows;
use crate::cupti::layout::{Raw, device};

/// More devices than a machine has; hostile records name more.
const MOST: usize = 64;

/// Definitions of devices. CUPTI tells of each once a capture, so that they are kept: a group that
/// the sink refuses may have held them.
#[derive(Default)]
pub(super) struct Devices {
    known: Vec<Known>,
    /// A refused group held them; they go out with the next one.
    are_due: bool,
}

struct Known {
    definition: DeviceDef,
    name: Box<[u8]>,
    uuid: Box<[u8]>,
}

impl Known {
    fn push(&self, rows: &mut Rows) {
        let name = HeapRef::push(&mut rows.heap, &self.name);
        let uuid = HeapRef::push(&mut rows.heap, &self.uuid);
        rows.devices.push(DeviceDef { name, uuid, ..self.definition });
    }
}

impl Devices {
    /// Reads a record.
    pub(super) fn record(&mut self, record: Raw<'_>, names: &dyn Names, rows: &mut Rows) {
        let uuid = record.0.get(device::UUID..device::UUID + 16).unwrap_or_default();
        let warp_size = record.u32(device::WARP);
        let definition = DeviceDef {
            name: HeapRef::default(),
            uuid: HeapRef::default(),
            memory_bytes: record.u64(device::MEMORY),
            device: record.u32(device::ID),
            vendor: DeviceVendor::Nvidia.number(),
            capability_major: record.u32(device::CAPABILITY_MAJOR),
            capability_minor: record.u32(device::CAPABILITY_MINOR),
            multiprocessors: record.u32(device::MULTIPROCESSORS),
            warp_size,
            max_threads_per_block: record.u32(device::THREADS_BLOCK),
            max_threads_per_multiprocessor: record.u32(device::MAX_WARPS).saturating_mul(warp_size),
            registers_per_block: record.u32(device::REGISTERS_BLOCK),
            registers_per_multiprocessor: record.u32(device::REGISTERS_MULTIPROCESSOR),
            shared_bytes_per_block: record.u32(device::SHARED_BLOCK),
            shared_bytes_per_block_optin: 0,
            shared_bytes_per_multiprocessor: record.u32(device::SHARED_MULTIPROCESSOR),
            reserved: 0,
        };
        let name = names.text(record.u64(device::NAME)).unwrap_or_default();
        let known = Known { definition, name: name.into(), uuid: uuid.into() };
        known.push(rows);
        self.known.retain(|other| other.definition.device != definition.device);
        if self.known.len() < MOST {
            self.known.push(known);
        }
    }

    /// The sink refused a group.
    pub(super) fn refused(&mut self) {
        self.are_due = true;
    }

    /// Adds what was refused to rows that go out.
    pub(super) fn resend(&mut self, rows: &mut Rows) {
        if !self.are_due || rows.len() == 0 {
            return;
        }
        self.are_due = false;
        for known in &self.known {
            known.push(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nameless;

    impl Names for Nameless {
        fn text(&self, _address: u64) -> Option<&[u8]> {
            None
        }
        fn function(&self, _domain: u32, _id: u32) -> Option<String> {
            None
        }
    }

    #[test]
    fn a_refused_definition_goes_out_with_the_next_rows() {
        let (mut devices, mut rows) = (Devices::default(), Rows::default());
        let mut bytes = vec![0; device::SIZE];
        bytes[device::ID] = 3;
        devices.record(Raw(&bytes), &Nameless, &mut rows);
        assert_eq!(rows.devices.len(), 1);
        rows.clear();
        devices.resend(&mut rows);
        assert_eq!(rows.devices.len(), 0, "it was taken");

        devices.refused();
        devices.resend(&mut rows);
        assert_eq!(rows.devices.len(), 0, "nothing goes out now");
        rows.contexts.push(profiler_core::record::ContextDef { context: 1, device: 3 });
        devices.resend(&mut rows);
        assert_eq!(rows.devices.iter().map(|device| device.device).collect::<Vec<_>>(), [3]);
        rows.clear();
        for id in 0..100 {
            bytes[device::ID] = id;
            devices.record(Raw(&bytes), &Nameless, &mut rows);
        }
        assert!(devices.known.len() <= MOST);
    }
}
