//! What rows refer to, told once: names, launch configurations, contexts, streams.

use profiler_core::record::{
    ContextDef, HeapRef, LaunchConfigDef, LaunchConfigId, StreamDef, StringDef, StringId,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::Names;
use super::rows::Rows;
use crate::cupti::layout::{Raw, kernel, stream};

/// What was told already. Definitions go to the rows that wait, before those that use them.
pub(super) struct Definitions {
    /// Names by address, with their bytes: an address may be used again for another name.
    kernel_names: FxHashMap<u64, (Box<[u8]>, StringId)>,
    /// Names by text.
    strings: FxHashMap<Box<[u8]>, StringId>,
    configs: FxHashMap<ConfigKey, LaunchConfigId>,
    streams: FxHashSet<(u32, u32)>,
    /// The device of each context.
    contexts: FxHashMap<u32, u32>,
    next_string: u32,
    next_config: u32,
}

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct ConfigKey {
    grid_and_block: [u32; 6],
    shared: [u32; 4],
    cluster: [u32; 3],
    registers: u32,
}

impl Definitions {
    pub(super) fn new() -> Self {
        Self {
            kernel_names: FxHashMap::default(),
            strings: FxHashMap::default(),
            configs: FxHashMap::default(),
            streams: FxHashSet::default(),
            contexts: FxHashMap::default(),
            next_string: 1,
            next_config: 1,
        }
    }

    pub(super) fn kernel_name(
        &mut self,
        address: u64,
        names: &dyn Names,
        rows: &mut Rows,
    ) -> StringId {
        let Some(text) = names.text(address) else { return StringId::NONE };
        if let Some((known, id)) = self.kernel_names.get(&address)
            && **known == *text
        {
            return *id;
        }
        let id = self.string(text, rows);
        self.kernel_names.insert(address, (text.into(), id));
        id
    }

    pub(super) fn string(&mut self, text: &[u8], rows: &mut Rows) -> StringId {
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        let id = StringId(self.next_string);
        self.next_string += 1;
        self.strings.insert(text.into(), id);
        let text = HeapRef::push(&mut rows.heap, text);
        rows.strings.push(StringDef { text, id, reserved: 0 });
        id
    }

    /// How a kernel was launched.
    pub(super) fn config(&mut self, record: Raw<'_>, rows: &mut Rows) -> LaunchConfigId {
        let key = ConfigKey {
            grid_and_block: std::array::from_fn(|i| record.u32(kernel::GRID + 4 * i)),
            shared: [
                record.u32(kernel::STATIC_SHARED),
                record.u32(kernel::DYNAMIC_SHARED),
                record.u32(kernel::LOCAL),
                record.u32(kernel::SHARED_EXECUTED),
            ],
            cluster: std::array::from_fn(|i| record.u32(kernel::CLUSTER + 4 * i)),
            registers: u32::from(record.u16(kernel::REGISTERS)),
        };
        if let Some(id) = self.configs.get(&key) {
            return *id;
        }
        let id = LaunchConfigId(self.next_config);
        self.next_config += 1;
        self.configs.insert(key, id);
        let [grid_x, grid_y, grid_z, block_x, block_y, block_z] = key.grid_and_block;
        let [static_shared_bytes, dynamic_shared_bytes, local_bytes, shared_executed_bytes] =
            key.shared;
        let [cluster_x, cluster_y, cluster_z] = key.cluster;
        rows.configs.push(LaunchConfigDef {
            id,
            grid_x,
            grid_y,
            grid_z,
            block_x,
            block_y,
            block_z,
            registers: key.registers,
            static_shared_bytes,
            dynamic_shared_bytes,
            local_bytes,
            shared_executed_bytes,
            cluster_x,
            cluster_y,
            cluster_z,
            reserved: 0,
        });
        id
    }

    pub(super) fn context(&mut self, context: u32, device: u32, rows: &mut Rows) {
        if self.contexts.insert(context, device) != Some(device) {
            rows.contexts.push(ContextDef { context, device });
        }
    }

    /// The device of a context that was told.
    pub(super) fn device_of(&self, context: u32) -> Option<u32> {
        self.contexts.get(&context).copied()
    }

    /// A stream that existed before the capture is known from its first row.
    pub(super) fn used_stream(&mut self, device: u32, context: u32, stream: u32, rows: &mut Rows) {
        if !self.streams.insert((context, stream)) {
            return;
        }
        rows.streams.push(StreamDef {
            name: HeapRef::default(),
            stream,
            context,
            device,
            priority: 0,
        });
        self.context(context, device, rows);
    }

    /// A stream that the driver tells of.
    pub(super) fn stream(&self, record: Raw<'_>, rows: &mut Rows) {
        let context = record.u32(stream::CONTEXT);
        rows.streams.push(StreamDef {
            name: HeapRef::default(),
            stream: record.u32(stream::STREAM),
            context,
            device: self.device_of(context).unwrap_or(u32::MAX),
            priority: record.u32(stream::PRIORITY),
        });
    }

    /// Definitions of a refused group are sent again at their next use, under new ids.
    pub(super) fn forget(&mut self) {
        self.kernel_names.clear();
        self.strings.clear();
        self.configs.clear();
        self.streams.clear();
        self.contexts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_whose_address_is_used_again_is_another_name() {
        struct Two(std::cell::Cell<bool>);
        impl Names for Two {
            fn text(&self, _address: u64) -> Option<&[u8]> {
                Some(if self.0.get() { b"second" } else { b"first" })
            }
            fn function(&self, _domain: u32, _id: u32) -> Option<String> {
                None
            }
        }
        let names = Two(std::cell::Cell::new(false));
        let (mut definitions, mut rows) = (Definitions::new(), Rows::default());
        let first = definitions.kernel_name(64, &names, &mut rows);
        assert_eq!(definitions.kernel_name(64, &names, &mut rows), first);
        names.0.set(true);
        assert_ne!(definitions.kernel_name(64, &names, &mut rows), first);
    }
}
