//! Operators by the code that called them.
//!
//! libtorch does not say who called an operator; samples do. A sample belongs to the innermost
//! operator that was open on its thread, and to those around it. So times here are those that
//! samples stand for, and an operator that no sample met is not among them.

use std::collections::BTreeMap;

use profiler_core::record::{StackId, StringId};

use super::model::StackRow;
use crate::capture::Definitions;
use crate::stacks::{FrameNames, Weight};
use crate::symbolize::ResolvedFrame;

/// The frames of a stack that tell operators apart, as PyTorch's `group_by_stack_n=5`.
const FRAMES: usize = 5;

/// The most rows of a table.
const MAX_ROWS: usize = 2048;

/// How files of libtorch begin: what lies in them is the operator and not who called it.
const LIBTORCH: [&str; 2] = ["libtorch", "libc10"];

/// How functions begin that lie in a program and only hand a call on to libtorch: inlined parts of
/// its headers, and the bindings of tch.
const HANDS_ON: [&str; 4] = ["at::", "c10::", "atg_", "tch::"];

/// Samples of an operator, by its name and the whole stack.
pub(super) type StackTimes = BTreeMap<(StringId, StackId), StackTime>;

/// What samples found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StackTime {
    /// In the operator and in none inside it.
    pub(super) own: Weight,
    /// In it or in those inside it.
    pub(super) total: Weight,
}

/// A table, by the operators' own time.
pub(super) fn rows<'a>(
    times: impl Iterator<Item = &'a StackTimes>,
    definitions: &Definitions,
    names: &mut FrameNames,
) -> Vec<StackRow> {
    let mut sums: BTreeMap<(StringId, Vec<String>), StackTime> = BTreeMap::new();
    for of_worker in times {
        for (&(name, stack), time) in of_worker {
            let sum = sums.entry((name, callers(stack, definitions, names))).or_default();
            sum.own.add(time.own);
            sum.total.add(time.total);
        }
    }
    let us = |weight: Weight| weight.ns as f64 / 1000.0;
    let mut rows: Vec<StackRow> = sums
        .into_iter()
        .map(|((name, stack), time)| StackRow {
            name: definitions.string(name).to_owned(),
            self_us: us(time.own),
            total_us: us(time.total),
            samples: time.total.samples,
            stack,
        })
        .collect();
    rows.sort_by(|a, b| {
        (b.self_us.total_cmp(&a.self_us))
            .then(b.total_us.total_cmp(&a.total_us))
            .then_with(|| (&a.name, &a.stack).cmp(&(&b.name, &b.stack)))
    });
    rows.truncate(MAX_ROWS);
    rows
}

/// PyTorch's file that stands between any two modules, with frames that are the same for all.
const BETWEEN_MODULES: &str = "torch/nn/modules/module.py";

/// The innermost frames outside of libtorch.
fn callers(stack: StackId, definitions: &Definitions, names: &mut FrameNames) -> Vec<String> {
    let mut frames = Vec::new();
    for frame in definitions.stack(stack) {
        frames.extend(names.frames(definitions, frame).iter().cloned());
    }
    outside(&frames).filter(|frame| !is_between_modules(frame)).take(FRAMES).map(text).collect()
}

/// What called libtorch: the frames from the first one of it on, without those of it that follow.
/// Inside of it lies what it calls itself, such as the C library.
fn outside(frames: &[ResolvedFrame]) -> impl Iterator<Item = &ResolvedFrame> {
    let inside = frames.iter().position(is_libtorch).unwrap_or(0);
    let begins = frames[inside..].first().is_some_and(is_libtorch);
    frames[inside..].iter().skip_while(move |frame| {
        is_libtorch(frame)
            || (begins && HANDS_ON.iter().any(|begin| frame.function.starts_with(begin)))
    })
}

fn is_libtorch(frame: &ResolvedFrame) -> bool {
    let Some(module) = &frame.module else { return false };
    LIBTORCH.iter().any(|begin| module.name().starts_with(begin))
}

fn is_between_modules(frame: &ResolvedFrame) -> bool {
    frame.file.as_ref().is_some_and(|file| file.ends_with(BETWEEN_MODULES))
}

fn text(frame: &ResolvedFrame) -> String {
    match &frame.file {
        Some(file) if frame.line > 0 => format!("{} ({file}:{})", frame.function, frame.line),
        Some(file) => format!("{} ({file})", frame.function),
        None => frame.function.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::symbolize::ModuleFile;

    fn frame(function: &str, module: &str) -> ResolvedFrame {
        let module = ModuleFile { path: module.into(), build_id: Box::default() };
        ResolvedFrame {
            function: Arc::from(function),
            named: true,
            file: None,
            line: 0,
            module: Some(Arc::new(module)),
            rel_pc: 0,
            inlined: false,
        }
    }

    #[test]
    fn what_stands_between_modules_is_left_out() {
        let at = |file: &str| ResolvedFrame { file: Some(Arc::from(file)), ..frame("call", "") };
        assert!(is_between_modules(&at("/site/torch/nn/modules/module.py")));
        assert!(!is_between_modules(&at("/site/torch/nn/modules/linear.py")));
        assert!(!is_between_modules(&frame("call", "")));
    }

    #[test]
    fn callers_begin_where_libtorch_was_called() {
        let inner = [
            frame("memcpy", "/lib/libc.so.6"),
            frame("at::native::copy_", "/torch/lib/libtorch_cpu.so"),
            frame("at::Tensor::copy_", "/torch/lib/libc10.so"),
        ];
        let outer = [frame("decode", "/bin/worker"), frame("main", "/bin/worker")];
        let of = |frames: &[ResolvedFrame]| outside(frames).map(text).collect::<Vec<_>>();
        assert_eq!(of(&[&inner[..], &outer[..]].concat()), ["decode", "main"]);
        assert_eq!(of(&outer), ["decode", "main"]);
        let bindings = [
            frame("at::linear", "/bin/worker"),
            frame("atg_linear", "/bin/worker"),
            frame("tch::wrappers::f_linear", "/bin/worker"),
        ];
        assert_eq!(of(&[&inner[..], &bindings[..], &outer[..]].concat()), ["decode", "main"]);
        // A stack that ends in libtorch's own thread has no caller.
        assert!(of(&inner).is_empty());
        // What libtorch calls back into is between two of its parts; the inner call counts.
        let nested = [&inner[1..2], &outer[..1], &inner[1..2], &outer[1..]].concat();
        assert_eq!(of(&nested), ["decode", "at::native::copy_", "main"]);
    }
}
