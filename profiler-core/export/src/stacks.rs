//! Sampled stacks: names of their frames, and how often each was seen.
//!
//! Addresses get their names when all rows were read, once for each frame: a capture that is still
//! written may tell of a mapped file after the samples in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use profiler_core::record::{Sample, StackId};

use crate::capture::{Definitions, FrameInfo, Worker};
use crate::symbolize::{ModuleRange, ResolvedFrame, Symbolizer, SymbolizerOptions};

/// The names of a capture's frames.
#[derive(Debug)]
pub struct FrameNames {
    symbolizer: Symbolizer,
    by_frame: Vec<Option<Arc<[ResolvedFrame]>>>,
    notes: Vec<String>,
}

impl FrameNames {
    /// Knows the modules of all workers, as far as they are known now, and the names of generated
    /// code that lie beside their spools.
    #[must_use]
    pub fn new(workers: &[Worker], options: SymbolizerOptions) -> Self {
        let mut names =
            Self { symbolizer: Symbolizer::new(options), by_frame: Vec::new(), notes: Vec::new() };
        for worker in workers {
            for module in &worker.modules {
                names.symbolizer.add_module(
                    worker.index as u32,
                    ModuleRange {
                        process: module.process,
                        start: module.start_address,
                        end: module.end_address,
                        file_offset: module.file_offset,
                        path: &module.path,
                        build_id: &module.build_id,
                    },
                );
            }
            if let Some(spool) = &worker.spool
                && let Err(error) =
                    names.symbolizer.load_jit(worker.index as u32, worker.identity.pid, spool)
            {
                let spool = spool.display();
                names.notes.push(format!("names of generated code beside {spool}: {error}"));
            }
        }
        names
    }

    /// The functions of a frame, by its index in [`Definitions::frames`], the innermost (inlined)
    /// first; never empty.
    pub fn frames(&mut self, definitions: &Definitions, frame: usize) -> Arc<[ResolvedFrame]> {
        if let Some(Some(resolved)) = self.by_frame.get(frame) {
            return resolved.clone();
        }
        let resolved = match definitions.frames().get(frame) {
            Some(info) => self.resolve(definitions, info),
            None => return Arc::from([unnamed()]),
        };
        if self.by_frame.len() <= frame {
            self.by_frame.resize(frame + 1, None);
        }
        self.by_frame[frame] = Some(resolved.clone());
        resolved
    }

    fn resolve(&mut self, definitions: &Definitions, info: &FrameInfo) -> Arc<[ResolvedFrame]> {
        if info.function.is_none() {
            return self.symbolizer.resolve(info.worker as u32, info.process, info.address);
        }
        let file = definitions.string(info.file);
        Arc::from([ResolvedFrame {
            function: Arc::from(definitions.string(info.function)),
            named: true,
            file: (!file.is_empty()).then(|| Arc::from(file)),
            line: info.line,
            module: None,
            rel_pc: info.address,
            inlined: false,
        }])
    }

    /// What a person should know of names that are missing.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.notes.iter().chain(self.symbolizer.notes()).map(String::as_str)
    }
}

fn unnamed() -> ResolvedFrame {
    ResolvedFrame {
        function: Arc::from(crate::symbolize::UNKNOWN),
        named: false,
        file: None,
        line: 0,
        module: None,
        rel_pc: 0,
        inlined: false,
    }
}

/// The most different (worker, thread, stack, state) that are counted apart; what comes after is
/// counted without its stack.
pub const MAX_STACKS: usize = 1 << 19;

/// How much time was sampled in one stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// How many samples.
    pub samples: u64,
    /// How much time they stand for, in ns.
    pub ns: u64,
}

impl Weight {
    /// Adds another weight.
    pub fn add(&mut self, other: Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.ns = self.ns.saturating_add(other.ns);
    }
}

/// Whose stack, which, and whether it was seen waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackKey {
    /// The worker's index.
    pub worker: usize,
    /// The thread.
    pub thread: u32,
    /// The stack; `StackId::NONE` = not known.
    pub stack: StackId,
    /// Whether the thread waited instead of running.
    pub waiting: bool,
}

/// How much time was sampled in each stack.
#[derive(Clone, Debug, Default)]
pub struct StackWeights {
    weights: HashMap<StackKey, Weight>,
}

/// The state of a sample that was taken while its thread waited.
const WAITING: u32 = 1;

impl StackWeights {
    /// Counts samples of a worker.
    pub fn add(&mut self, worker: &Worker, samples: &[Sample]) {
        for sample in samples {
            let mut key = StackKey {
                worker: worker.index,
                thread: sample.thread,
                stack: sample.stack,
                waiting: sample.state == WAITING,
            };
            if self.weights.len() >= MAX_STACKS && !self.weights.contains_key(&key) {
                key.stack = StackId::NONE;
                key.thread = 0;
            }
            self.weights.entry(key).or_default().add(Weight { samples: 1, ns: sample.weight_ns });
        }
    }

    /// The weights, by worker, thread and stack.
    #[must_use]
    pub fn sorted(&self) -> Vec<(StackKey, Weight)> {
        let mut sorted: Vec<_> = self.weights.iter().map(|(&key, &weight)| (key, weight)).collect();
        sorted.sort_unstable_by_key(|&(key, _)| key);
        sorted
    }

    /// Whether there was no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }
}

/// A function, as tables name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    /// Its name, or `module+0x…`.
    pub name: Arc<str>,
    /// The name of the mapped file, empty where there is none.
    pub module: Arc<str>,
}

/// The time in a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FunctionWeight {
    /// Where it was the innermost.
    pub own: Weight,
    /// Where it was anywhere in the stack, once however often it stands there.
    pub total: Weight,
}

/// Time by function, over the stacks that `wanted` lets through.
pub fn functions(
    weights: &[(StackKey, Weight)],
    definitions: &Definitions,
    names: &mut FrameNames,
    wanted: impl Fn(&StackKey) -> bool,
) -> BTreeMap<Function, FunctionWeight> {
    let mut functions: BTreeMap<Function, FunctionWeight> = BTreeMap::new();
    let mut modules: HashMap<*const str, Arc<str>> = HashMap::new();
    let empty: Arc<str> = Arc::from("");
    let mut seen: Vec<Function> = Vec::new();
    for (key, weight) in weights.iter().filter(|(key, _)| wanted(key)) {
        seen.clear();
        for frame in definitions.stack(key.stack) {
            for resolved in names.frames(definitions, frame).iter() {
                let module = match &resolved.module {
                    None => empty.clone(),
                    Some(file) => modules
                        .entry(std::ptr::from_ref(&*file.path))
                        .or_insert_with(|| Arc::from(file.name()))
                        .clone(),
                };
                seen.push(Function { name: resolved.function.clone(), module });
            }
        }
        if seen.is_empty() {
            seen.push(Function {
                name: Arc::from(crate::symbolize::UNKNOWN),
                module: empty.clone(),
            });
        }
        functions.entry(seen[0].clone()).or_default().own.add(*weight);
        seen.sort_unstable();
        seen.dedup();
        for function in seen.drain(..) {
            functions.entry(function).or_default().total.add(*weight);
        }
    }
    functions
}

/// Stacks as a tree of functions: those that are equal by the names of their functions are one.
#[derive(Debug)]
pub struct CallTree {
    functions: Vec<TreeFunction>,
    function_ids: HashMap<TreeFunction, u32>,
    nodes: Vec<TreeNode>,
    children: HashMap<(u32, u32), u32>,
    by_stack: HashMap<StackId, u32>,
}

/// A function of a [`CallTree`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TreeFunction {
    /// Its name, or `module+0x…`.
    pub name: Arc<str>,
    /// Its source file, else the mapped file; empty where neither is known.
    pub file: Arc<str>,
}

#[derive(Clone, Copy, Debug)]
struct TreeNode {
    parent: u32,
    function: u32,
}

/// The function on top of a stack that was seen waiting.
pub const WAITING_FRAME: &str = "[waiting]";

impl Default for CallTree {
    fn default() -> Self {
        Self {
            functions: Vec::new(),
            function_ids: HashMap::new(),
            nodes: vec![TreeNode { parent: 0, function: u32::MAX }],
            children: HashMap::new(),
            by_stack: HashMap::new(),
        }
    }
}

impl CallTree {
    /// The node of a stack: the innermost function's.
    pub fn node(
        &mut self,
        definitions: &Definitions,
        names: &mut FrameNames,
        stack: StackId,
        waiting: bool,
    ) -> u32 {
        let mut node = self.running(definitions, names, stack);
        if node == 0 {
            node = self.child(
                0,
                TreeFunction { name: Arc::from(crate::symbolize::UNKNOWN), file: Arc::from("") },
            );
        }
        if waiting {
            node = self
                .child(node, TreeFunction { name: Arc::from(WAITING_FRAME), file: Arc::from("") });
        }
        node
    }

    fn running(
        &mut self,
        definitions: &Definitions,
        names: &mut FrameNames,
        stack: StackId,
    ) -> u32 {
        // From the frames inward, back to the first stack that is known: stacks share their outer
        // frames, and a recursion would be as deep as the profiled program's.
        let mut unknown = Vec::new();
        let mut at = stack;
        let mut node = 0;
        while let Some((frame, outer)) = definitions.stack_top(at) {
            if let Some(&known) = self.by_stack.get(&at) {
                node = known;
                break;
            }
            unknown.push((at, frame));
            at = outer;
        }
        for (stack, frame) in unknown.into_iter().rev() {
            for resolved in names.frames(definitions, frame).iter().rev() {
                let file = match (&resolved.file, &resolved.module) {
                    (Some(file), _) => file.clone(),
                    (None, Some(module)) => Arc::from(&*module.path),
                    (None, None) => Arc::from(""),
                };
                node = self.child(node, TreeFunction { name: resolved.function.clone(), file });
            }
            self.by_stack.insert(stack, node);
        }
        node
    }

    fn child(&mut self, parent: u32, function: TreeFunction) -> u32 {
        let function = match self.function_ids.get(&function) {
            Some(&id) => id,
            None => {
                let id = self.functions.len() as u32;
                self.functions.push(function.clone());
                self.function_ids.insert(function, id);
                id
            }
        };
        let next = self.nodes.len() as u32;
        let child = *self.children.entry((parent, function)).or_insert(next);
        if child == next {
            self.nodes.push(TreeNode { parent, function });
        }
        child
    }

    /// The functions by their numbers.
    #[must_use]
    pub fn functions(&self) -> &[TreeFunction] {
        &self.functions
    }

    /// The functions of a node's stack, the outermost first.
    pub fn path(&self, node: u32, path: &mut Vec<u32>) {
        path.clear();
        let mut at = node;
        while at != 0 {
            let Some(found) = self.nodes.get(at as usize) else { break };
            path.push(found.function);
            at = found.parent;
        }
        path.reverse();
    }
}

/// What people call a thread of a worker.
pub(crate) fn thread_title(worker: &Worker, thread: u32) -> String {
    match worker.threads.get(&thread) {
        Some(info) if !info.name.is_empty() => format!("{} ({thread})", info.name),
        _ => format!("thread {thread}"),
    }
}
