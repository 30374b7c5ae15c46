//! Definitions of all streams, joined by content.
//!
//! Ids in a spool are valid in their stream only. Here each string, launch configuration and
//! stack gets one id for the whole capture, and rows are rewritten to those ids before a
//! consumer sees them. Stacks are kept as a tree, so that stacks that share their outer frames
//! share their memory.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use profiler_core::record::{
    Frame, GraphNodeDef, LaunchConfigDef, LaunchConfigId, Row as _, StackDef, StackId, StringDef,
    StringId,
};
use zerocopy::FromBytes as _;

use super::prefix_rows;
use super::source::SourceBlock;

/// How many bytes of names are kept, how many names, and how many of everything else that has an
/// id: with these an export stays within its memory, however many requests were served or bytes a
/// hostile file has.
const MAX_TEXT_BYTES: usize = 12 << 20;
const MAX_STRINGS: usize = 1 << 17;
const MAX_IDS: usize = 1 << 18;
/// What names beyond are called.
const TOO_MANY: &str = "[too many names]";

/// What the capture-wide ids in rows mean.
#[derive(Debug)]
pub struct Definitions {
    strings: Vec<Arc<str>>,
    string_ids: HashMap<Arc<str>, u32>,
    text_bytes: usize,
    configs: Vec<LaunchConfigDef>,
    config_ids: HashMap<[u32; 14], u32>,
    frames: Vec<FrameInfo>,
    frame_ids: HashMap<FrameInfo, u32>,
    nodes: Vec<Node>,
    /// The places of `nodes`, by what they hold: a table with keys of its own is twice as big.
    node_ids: HashTable<u32>,
    hasher: RandomState,
    graph_nodes: HashMap<(usize, u64), StringId>,
}

/// A frame of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameInfo {
    /// The worker whose addresses these are, by its place in [`super::Capture::workers`].
    pub worker: usize,
    /// The process.
    pub process: u32,
    /// An instruction's address, 0 where the frame has a name only.
    pub address: u64,
    /// The function, for frames that are no machine code; else `StringId::NONE`.
    pub function: StringId,
    /// The file of such a function.
    pub file: StringId,
    /// The line of such a function, 0 = not told.
    pub line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    parent: u32,
    frame: u32,
}

impl Default for Definitions {
    fn default() -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            strings: vec![Arc::clone(&empty)],
            string_ids: HashMap::from([(empty, 0)]),
            text_bytes: 0,
            configs: vec![LaunchConfigDef::default()],
            config_ids: HashMap::new(),
            frames: Vec::new(),
            frame_ids: HashMap::new(),
            nodes: vec![Node { parent: 0, frame: 0 }],
            node_ids: HashTable::new(),
            hasher: RandomState::new(),
            graph_nodes: HashMap::new(),
        }
    }
}

impl Definitions {
    /// The text of a string; empty for `StringId::NONE`.
    #[must_use]
    pub fn string(&self, id: StringId) -> &str {
        self.strings.get(id.0 as usize).map_or("", |text| text)
    }

    /// All strings, in the order of their ids; the first is the empty one.
    pub fn strings(&self) -> impl ExactSizeIterator<Item = &str> {
        self.strings.iter().map(|text| &**text)
    }

    /// A launch configuration, `None` for `LaunchConfigId::NONE`.
    #[must_use]
    pub fn config(&self, id: LaunchConfigId) -> Option<&LaunchConfigDef> {
        if id.is_none() {
            return None;
        }
        self.configs.get(id.0 as usize)
    }

    /// All launch configurations in the order of their ids; the first stands for none.
    #[must_use]
    pub fn configs(&self) -> &[LaunchConfigDef] {
        &self.configs
    }

    /// All frames, in the order of the indexes that [`Definitions::stack`] gives.
    #[must_use]
    pub fn frames(&self) -> &[FrameInfo] {
        &self.frames
    }

    /// The frames of a stack, innermost first, as indexes of [`Definitions::frames`].
    pub fn stack(&self, id: StackId) -> impl Iterator<Item = usize> + '_ {
        let mut node = id.0;
        std::iter::from_fn(move || {
            if node == 0 {
                return None;
            }
            let Node { parent, frame } = *self.nodes.get(node as usize)?;
            node = parent;
            Some(frame as usize)
        })
    }

    /// How many stack ids there are: ids are below this number. A stack's parent, the same stack
    /// without its innermost frame, is a stack too and has a smaller id.
    #[must_use]
    pub fn stack_count(&self) -> usize {
        self.nodes.len()
    }

    /// A stack's innermost frame and the stack that called it; `None` for `StackId::NONE`.
    #[must_use]
    pub fn stack_top(&self, id: StackId) -> Option<(usize, StackId)> {
        if id.is_none() {
            return None;
        }
        let node = self.nodes.get(id.0 as usize)?;
        Some((node.frame as usize, StackId(node.parent)))
    }

    /// The name of a graph's node, if it has one.
    #[must_use]
    pub fn graph_node(&self, worker: usize, node: u64) -> Option<&str> {
        self.graph_nodes.get(&(worker, node)).map(|id| self.string(*id))
    }

    /// The id of a text.
    pub(crate) fn intern(&mut self, text: &str) -> StringId {
        if let Some(id) = self.string_ids.get(text) {
            return StringId(*id);
        }
        let is_full =
            self.text_bytes + text.len() > MAX_TEXT_BYTES || self.strings.len() > MAX_STRINGS;
        if is_full && text != TOO_MANY {
            return self.intern(TOO_MANY);
        }
        self.text_bytes += text.len();
        let id = self.strings.len() as u32;
        let text: Arc<str> = Arc::from(text);
        self.strings.push(Arc::clone(&text));
        self.string_ids.insert(text, id);
        StringId(id)
    }

    pub(super) fn intern_config(&mut self, config: &LaunchConfigDef) -> LaunchConfigId {
        let key = [
            config.grid_x,
            config.grid_y,
            config.grid_z,
            config.block_x,
            config.block_y,
            config.block_z,
            config.registers,
            config.static_shared_bytes,
            config.dynamic_shared_bytes,
            config.local_bytes,
            config.shared_executed_bytes,
            config.cluster_x,
            config.cluster_y,
            config.cluster_z,
        ];
        if let Some(id) = self.config_ids.get(&key) {
            return LaunchConfigId(*id);
        }
        if self.configs.len() > MAX_IDS {
            return LaunchConfigId::NONE;
        }
        let id = LaunchConfigId(self.configs.len() as u32);
        self.configs.push(LaunchConfigDef { id, ..*config });
        self.config_ids.insert(key, id.0);
        id
    }

    /// Takes a stack, innermost frame first, whose strings are ids of `strings`.
    pub(super) fn intern_stack(
        &mut self,
        worker: usize,
        process: u32,
        frames: &[u8],
        strings: &IdMap,
    ) -> StackId {
        let mut node = 0;
        for bytes in frames.chunks_exact(size_of::<Frame>()).rev() {
            let Ok(frame) = Frame::read_from_bytes(bytes) else { continue };
            if self.nodes.len() > MAX_IDS {
                break;
            }
            let info = FrameInfo {
                worker,
                process,
                address: frame.address,
                function: StringId(strings.resolve(frame.function.0)),
                file: StringId(strings.resolve(frame.file.0)),
                line: frame.line,
            };
            let next_frame = self.frames.len() as u32;
            let frame = *self.frame_ids.entry(info).or_insert(next_frame);
            if frame == next_frame {
                self.frames.push(info);
            }
            node = self.child(Node { parent: node, frame });
        }
        StackId(node)
    }

    /// The place of a node, which may be new.
    fn child(&mut self, node: Node) -> u32 {
        let Self { nodes, node_ids, hasher, .. } = self;
        let next = nodes.len() as u32;
        let entry = node_ids.entry(
            hasher.hash_one(node),
            |place| nodes[*place as usize] == node,
            |place| hasher.hash_one(nodes[*place as usize]),
        );
        let place = *entry.or_insert(next).get();
        if place == next {
            nodes.push(node);
        }
        place
    }

    pub(super) fn name_graph_node(&mut self, worker: usize, node: u64, name: &str) {
        if self.graph_nodes.len() <= MAX_IDS {
            let id = self.intern(name);
            self.graph_nodes.insert((worker, node), id);
        }
    }
}

/// From a stream's ids to those of the capture.
///
/// Producers number from 1, so a plain array nearly always does; an id far beyond goes to a map,
/// so that one wild number costs no memory.
#[derive(Debug, Default)]
pub(super) struct IdMap {
    dense: Vec<u32>,
    sparse: HashMap<u32, u32>,
}

/// How far past its end the array may grow for one id.
const DENSE_STEP: usize = 1 << 16;

impl IdMap {
    /// The capture's id, 0 where the stream never defined it.
    #[inline]
    pub(super) fn resolve(&self, id: u32) -> u32 {
        match self.dense.get(id as usize) {
            Some(&found) => found,
            None if self.sparse.is_empty() => 0,
            None => self.sparse.get(&id).copied().unwrap_or(0),
        }
    }

    pub(super) fn define(&mut self, id: u32, global: u32) {
        let index = id as usize;
        if index == 0 {
            return;
        }
        if index >= self.dense.len() {
            if index > self.dense.len() + DENSE_STEP {
                self.sparse.insert(id, global);
                return;
            }
            self.dense.resize(index + 1, 0);
            if !self.sparse.is_empty() {
                let len = self.dense.len();
                let dense = &mut self.dense;
                self.sparse.retain(|&id, &mut global| match dense.get_mut(id as usize) {
                    Some(place) if (id as usize) < len => {
                        *place = global;
                        false
                    }
                    _ => true,
                });
            }
        }
        self.dense[index] = global;
    }
}

/// The ids of one stream.
#[derive(Debug, Default)]
pub(super) struct StreamIds {
    pub(super) strings: IdMap,
    pub(super) stacks: IdMap,
    pub(super) configs: IdMap,
}

/// Takes definitions of a stream.
pub(super) fn define(
    block: &SourceBlock<'_>,
    ids: &mut StreamIds,
    worker: usize,
    definitions: &mut Definitions,
) {
    let (rows, heap, stride) = (block.rows, block.heap, block.stride);
    match block.kind {
        StringDef::KIND => prefix_rows::<StringDef>(rows, stride, |row| {
            let Some(text) = row.text.text(heap) else { return };
            let known = ids.strings.resolve(row.id.0);
            if known == 0 || definitions.string(StringId(known)) != text {
                ids.strings.define(row.id.0, definitions.intern(&text).0);
            }
        }),
        LaunchConfigDef::KIND => prefix_rows::<LaunchConfigDef>(rows, stride, |row| {
            ids.configs.define(row.id.0, definitions.intern_config(&row).0);
        }),
        StackDef::KIND => prefix_rows::<StackDef>(rows, stride, |row| {
            let Some(frames) = row.frames.of(heap) else { return };
            let id = definitions.intern_stack(worker, row.process, frames, &ids.strings);
            ids.stacks.define(row.id.0, id.0);
        }),
        GraphNodeDef::KIND => prefix_rows::<GraphNodeDef>(rows, stride, |row| {
            let Some(name) = row.name.text(heap) else { return };
            definitions.name_graph_node(worker, row.node, &name);
        }),
        _ => {}
    }
}
