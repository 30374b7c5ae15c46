//! From sums to tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use profiler_core::record::{CopyKind, LossCause, RecordKind, StringId, SynchronizationKind};

use super::by_name::{ByName, Sums};
use super::device::{DeviceTime, WorkerDeviceTimes};
use super::distribution::Distribution;
use super::model::{
    Activity, CounterRow, DeviceRow, FunctionRow, LossRow, MemoryRow, OTHER, SCHEMA_VERSION,
    ShapeRow, SizeRow, StageSummary, Summary, Tables, TimeRow, WorkerSummary,
};
use super::worker::{CounterKey, CounterSums, MemorySums, Shapes, Transfer, WorkerSums};
use super::{SummaryOptions, by_stack};
use crate::capture::{Definitions, Worker};
use crate::stacks::{self, FrameNames, StackKey, StackWeights, Weight};
use crate::symbolize::demangle;

/// The most functions of a table.
const MAX_FUNCTIONS: usize = 2048;

/// All that was summed up.
pub(super) struct Sources<'a> {
    pub(super) sums: &'a BTreeMap<usize, WorkerSums>,
    pub(super) shapes: &'a Shapes,
    pub(super) weights: &'a StackWeights,
    pub(super) on_device: &'a BTreeMap<usize, WorkerDeviceTimes>,
}

struct Context<'a> {
    definitions: &'a Definitions,
    shapes: &'a Shapes,
    weights: &'a [(StackKey, Weight)],
    on_device: &'a BTreeMap<usize, WorkerDeviceTimes>,
}

pub(super) fn build(
    workers: &[Worker],
    definitions: &Definitions,
    sources: &Sources<'_>,
    options: &SummaryOptions,
) -> Summary {
    let mut names = FrameNames::new(workers, options.symbols.clone());
    let weights = sources.weights.sorted();
    let sums = sources.sums;
    let context = Context {
        definitions,
        shapes: sources.shapes,
        weights: &weights,
        on_device: sources.on_device,
    };
    let empty = WorkerSums::default();

    let mut summary = Summary {
        schema_version: SCHEMA_VERSION,
        session: workers.first().map(|worker| worker.session.clone()).unwrap_or_default(),
        prefix: workers.first().and_then(|worker| worker.prefix.clone()),
        ..Summary::default()
    };
    let mut stages: BTreeMap<(u32, String), Vec<usize>> = BTreeMap::new();
    for (place, worker) in workers.iter().enumerate() {
        let own = sums.get(&worker.index).unwrap_or(&empty);
        let identity = &worker.identity;
        let role = identity.role.clone().unwrap_or_else(|| match identity.stage {
            Some(_) => String::new(),
            None => identity.program.clone(),
        });
        stages.entry((identity.stage.unwrap_or(u32::MAX), role)).or_default().push(place);
        summary.workers.push(WorkerSummary {
            stage: identity.stage,
            role: identity.role.clone(),
            replica: identity.replica,
            rank: identity.rank,
            host: identity.host.clone(),
            pid: identity.pid,
            key: identity.key.clone(),
            title: worker.title(),
            complete: worker.complete,
            activity: activity(worker, own),
            tables: tables(&[(worker, own)], &context, &mut names),
        });
    }
    for places in stages.values() {
        let members: Vec<(&Worker, &WorkerSums)> = places
            .iter()
            .map(|&place| (&workers[place], sums.get(&workers[place].index).unwrap_or(&empty)))
            .collect();
        let identity = &members[0].0.identity;
        summary.stages.push(StageSummary {
            stage: identity.stage,
            role: identity.role.clone(),
            title: stage_title(members[0].0),
            workers: places.clone(),
            activity: average(places.iter().map(|&place| &summary.workers[place].activity)),
            tables: tables(&members, &context, &mut names),
        });
    }
    summary.notes.extend(notes(workers, &weights));
    summary.notes.extend(names.notes().map(str::to_owned));
    summary
}

fn notes(workers: &[Worker], weights: &[(StackKey, Weight)]) -> Vec<String> {
    let mut notes = Vec::new();
    for worker in workers {
        let title = worker.title();
        if !worker.complete {
            notes.push(format!("{title}: the spool has no footer; it ends where its writer did"));
        }
        if worker.lost() > 0 {
            notes.push(format!("{title}: {} rows were not kept", worker.lost()));
        }
    }
    if weights.len() >= stacks::MAX_STACKS {
        notes.push(format!("only the first {} stacks are told apart", stacks::MAX_STACKS));
    }
    notes
}

fn stage_title(worker: &Worker) -> String {
    let identity = &worker.identity;
    match (identity.stage, identity.role.as_deref()) {
        (Some(stage), Some(role)) => format!("stage {stage} {role}"),
        (Some(stage), None) => format!("stage {stage}"),
        (None, Some(role)) => role.to_owned(),
        (None, None) => identity.program.clone(),
    }
}

fn activity(worker: &Worker, sums: &WorkerSums) -> Activity {
    let windows = windows(worker);
    let window = length(&windows);
    let (busy_by, coverage) = if sums.outermost_spans > 0 {
        (Some("spans"), &sums.span_coverage)
    } else if sums.outermost_operators > 0 {
        (Some("operators"), &sums.operator_coverage)
    } else if sums.on_processor.samples > 0 {
        (Some("samples"), &sums.sample_coverage)
    } else {
        (None, &sums.span_coverage)
    };
    let busy =
        busy_by.filter(|_| window > 0).map(|_| percent(coverage.covered_within(&windows), window));
    Activity {
        window_us: us(window),
        windows: worker.windows.len(),
        busy_by,
        busy_percent: busy,
        idle_percent: busy.map(|busy| 100.0 - busy),
        busy_uncertain_percent: percent(coverage.uncertain(), window),
        processors: (window > 0 && sums.on_processor.samples > 0)
            .then(|| sums.on_processor.ns as f64 / window as f64),
        samples: sums.on_processor.samples,
    }
}

/// The windows of a worker; of one without windows, nothing is known.
fn windows(worker: &Worker) -> Vec<(u64, u64)> {
    let mut windows = Vec::new();
    let mut free_from = 0;
    for window in &worker.windows {
        let (begin, end) = (window.begin.max(free_from), window.end.unwrap_or(worker.end));
        if begin < end {
            windows.push((begin, end));
            free_from = end;
        }
    }
    windows
}

fn length(windows: &[(u64, u64)]) -> u64 {
    windows.iter().map(|(begin, end)| end - begin).fold(0, u64::saturating_add)
}

fn average<'a>(activities: impl Iterator<Item = &'a Activity> + Clone) -> Activity {
    let workers = activities.clone().count().max(1);
    let window_us =
        activities.clone().map(|activity| activity.window_us).sum::<f64>() / workers as f64;
    let weighted = |share: fn(&Activity) -> Option<f64>| {
        let mut sum = 0.0;
        let mut weight = 0.0;
        for activity in activities.clone() {
            if let Some(share) = share(activity) {
                sum += share * activity.window_us;
                weight += activity.window_us;
            }
        }
        (weight > 0.0).then(|| sum / weight)
    };
    let by: BTreeSet<_> = activities.clone().filter_map(|activity| activity.busy_by).collect();
    Activity {
        window_us,
        windows: activities.clone().map(|activity| activity.windows).max().unwrap_or(0),
        busy_by: if by.len() > 1 { Some("several") } else { by.first().copied() },
        busy_percent: weighted(|activity| activity.busy_percent),
        idle_percent: weighted(|activity| activity.idle_percent),
        busy_uncertain_percent: weighted(|activity| Some(activity.busy_uncertain_percent))
            .unwrap_or(0.0),
        processors: weighted(|activity| activity.processors),
        samples: activities.clone().map(|activity| activity.samples).sum(),
    }
}

fn tables(
    members: &[(&Worker, &WorkerSums)],
    context: &Context<'_>,
    names: &mut FrameNames,
) -> Tables {
    let text = |id: StringId| context.definitions.string(id).to_owned();
    let readable = |id: StringId| demangle(context.definitions.string(id)).into_owned();
    Tables {
        spans: times(&merged(members, |sums| &sums.spans), text, true),
        operators: operators(members, context),
        operators_by_shape: by_shape(members, context),
        operators_by_stack: by_stack::rows(
            members.iter().filter_map(|(w, _)| Some(&context.on_device.get(&w.index)?.by_stack)),
            context.definitions,
            names,
        ),
        unattributed: members
            .iter()
            .filter_map(|(w, _)| context.on_device.get(&w.index))
            .map(|times| times.unattributed)
            .sum(),
        functions: functions(members, context, names),
        kernels: times(&merged(members, |sums| &sums.kernels), readable, false),
        kernel_types: times(&merged(members, |sums| &sums.kernel_types), text, false),
        api_calls: times(&merged(members, |sums| &sums.api_calls), text, false),
        copies: times(&merged(members, |sums| &sums.copies), transfer, false),
        copy_sizes: sizes(&merged(members, |sums| &sums.copies)),
        communication: times(&merged(members, |sums| &sums.communication), text, false),
        synchronization: times(&merged(members, |sums| &sums.synchronization), waited_for, false),
        overheads: times(&merged(members, |sums| &sums.overheads), text, false),
        devices: devices(members),
        memory: memory(members, context),
        counters: counters(members, context),
        steps: steps(members),
        losses: losses(members),
    }
}

fn merged<K: Copy + Ord + std::hash::Hash>(
    members: &[(&Worker, &WorkerSums)],
    table: impl Fn(&WorkerSums) -> &ByName<K>,
) -> ByName<K> {
    let mut merged = ByName::default();
    for (_, sums) in members {
        merged.merge(table(sums));
    }
    merged
}

fn times<K: Copy + Ord + std::hash::Hash>(
    table: &ByName<K>,
    text: impl Fn(K) -> String,
    has_own: bool,
) -> Vec<TimeRow> {
    let sorted = table.sorted();
    let all = total_of(&sorted, has_own);
    let mut rows: Vec<TimeRow> = sorted
        .iter()
        .map(|&(name, sums)| {
            time_row(name.map_or_else(|| OTHER.to_owned(), &text), sums, all, has_own)
        })
        .collect();
    sort(&mut rows, |row| row);
    rows
}

fn operators(members: &[(&Worker, &WorkerSums)], context: &Context<'_>) -> Vec<TimeRow> {
    let on_device = device_times(members, context, |times| &times.by_name);
    let table = merged(members, |sums| &sums.operators);
    let sorted = table.sorted();
    let all = total_of(&sorted, true);
    let mut rows: Vec<TimeRow> = sorted
        .iter()
        .map(|&(name, sums)| {
            let text = name.map_or(OTHER, |name| context.definitions.string(name));
            let mut row = time_row(text.to_owned(), sums, all, true);
            add_device(&mut row, &on_device, name);
            row
        })
        .collect();
    sort(&mut rows, |row| row);
    rows
}

fn by_shape(members: &[(&Worker, &WorkerSums)], context: &Context<'_>) -> Vec<ShapeRow> {
    let on_device = device_times(members, context, |times| &times.by_shape);
    let table = merged(members, |sums| &sums.operators_by_shape);
    let sorted = table.sorted();
    let all = total_of(&sorted, true);
    let mut rows: Vec<ShapeRow> = sorted
        .iter()
        .map(|&(key, sums)| {
            let (name, shapes) = match key {
                Some((name, shapes)) => {
                    (context.definitions.string(name), context.shapes.text(shapes))
                }
                None => (OTHER, ""),
            };
            let mut row = time_row(name.to_owned(), sums, all, true);
            add_device(&mut row, &on_device, key.map(|(name, shapes)| (name, Some(shapes))));
            ShapeRow { shapes: shapes.to_owned(), row }
        })
        .collect();
    sort(&mut rows, |row| &row.row);
    rows
}

/// What the members' operators took on devices; empty where no device was recorded.
fn device_times<K: Copy + Ord>(
    members: &[(&Worker, &WorkerSums)],
    context: &Context<'_>,
    table: impl Fn(&WorkerDeviceTimes) -> &BTreeMap<K, DeviceTime>,
) -> BTreeMap<K, DeviceTime> {
    let mut merged: BTreeMap<K, DeviceTime> = BTreeMap::new();
    for times in members.iter().filter_map(|(worker, _)| context.on_device.get(&worker.index)) {
        for (key, time) in table(times) {
            let sum = merged.entry(*key).or_default();
            sum.own = sum.own.saturating_add(time.own);
            sum.total = sum.total.saturating_add(time.total);
        }
    }
    merged
}

fn add_device<K: Ord>(row: &mut TimeRow, on_device: &BTreeMap<K, DeviceTime>, key: Option<K>) {
    if on_device.is_empty() {
        return;
    }
    let time = key.and_then(|key| on_device.get(&key)).copied().unwrap_or_default();
    row.self_device_us = Some(us(time.own));
    row.device_us = Some(us(time.total));
}

/// What shares are of: where names enclose each other, the sum of what they took themselves.
fn total_of<K>(sorted: &[(Option<K>, &Sums)], has_own: bool) -> u64 {
    sorted
        .iter()
        .map(|(_, sums)| if has_own { sums.own } else { sums.times.total() })
        .fold(0, u64::saturating_add)
}

fn time_row(name: String, sums: &Sums, all: u64, has_own: bool) -> TimeRow {
    let times = &sums.times;
    TimeRow {
        name,
        percent: percent(times.total(), all),
        total_us: us(times.total()),
        self_us: has_own.then(|| us(sums.own)),
        count: times.count(),
        avg_us: times.mean() / 1000.0,
        median_us: us(times.median()),
        min_us: us(times.min()),
        max_us: us(times.max()),
        stddev_us: times.deviation() / 1000.0,
        unfinished: sums.unfinished,
        self_device_us: None,
        device_us: None,
    }
}

/// By time, the longest first; the line of all others last.
fn sort<T>(rows: &mut [T], row: impl Fn(&T) -> &TimeRow) {
    rows.sort_by(|a, b| {
        let (a, b) = (row(a), row(b));
        (a.name == OTHER)
            .cmp(&(b.name == OTHER))
            .then(b.total_us.total_cmp(&a.total_us))
            .then_with(|| a.name.cmp(&b.name))
    });
}

fn transfer(transfer: Transfer) -> String {
    match transfer {
        Transfer::Set => "[memset]".to_owned(),
        Transfer::Copy(kind) => match CopyKind::from_number(kind) {
            Some(kind) => format!("[memcpy {}]", kind.text()),
            None => format!("[memcpy kind {kind}]"),
        },
    }
}

fn waited_for(kind: u32) -> String {
    match SynchronizationKind::from_number(kind) {
        Some(kind) => kind.text().to_owned(),
        None => format!("kind {kind}"),
    }
}

fn sizes(table: &ByName<Transfer>) -> Vec<SizeRow> {
    let mut rows: Vec<SizeRow> = table
        .sorted()
        .iter()
        .map(|&(name, sums)| {
            let bytes: &Distribution = &sums.bytes;
            let seconds = sums.times.total() as f64 / 1e9;
            SizeRow {
                name: name.map_or_else(|| OTHER.to_owned(), transfer),
                total_bytes: bytes.total(),
                count: bytes.count(),
                avg_bytes: bytes.mean(),
                median_bytes: bytes.median(),
                min_bytes: bytes.min(),
                max_bytes: bytes.max(),
                stddev_bytes: bytes.deviation(),
                bytes_per_second: if seconds > 0.0 { bytes.total() as f64 / seconds } else { 0.0 },
            }
        })
        .collect();
    rows.sort_by(|a, b| b.total_bytes.cmp(&a.total_bytes).then_with(|| a.name.cmp(&b.name)));
    rows
}

fn functions(
    members: &[(&Worker, &WorkerSums)],
    context: &Context<'_>,
    names: &mut FrameNames,
) -> Vec<FunctionRow> {
    let wanted: BTreeSet<usize> = members.iter().map(|(worker, _)| worker.index).collect();
    let mut of = |waiting: bool| {
        stacks::functions(context.weights, context.definitions, names, |key| {
            key.waiting == waiting && wanted.contains(&key.worker)
        })
    };
    let running = of(false);
    let mut waiting = of(true);
    let all = running.values().map(|weight| weight.own.ns).fold(0, u64::saturating_add);
    let mut rows = Vec::new();
    for (function, weight) in &running {
        let waited = waiting.remove(function).unwrap_or_default();
        rows.push(FunctionRow {
            name: function.name.to_string(),
            module: function.module.to_string(),
            self_percent: percent(weight.own.ns, all),
            self_us: us(weight.own.ns),
            total_percent: percent(weight.total.ns, all),
            total_us: us(weight.total.ns),
            self_samples: weight.own.samples,
            total_samples: weight.total.samples,
            waiting_us: us(waited.total.ns),
        });
    }
    for (function, waited) in waiting {
        rows.push(FunctionRow {
            name: function.name.to_string(),
            module: function.module.to_string(),
            waiting_us: us(waited.total.ns),
            ..FunctionRow::default()
        });
    }
    rows.sort_by(|a, b| {
        b.self_us
            .total_cmp(&a.self_us)
            .then(b.total_us.total_cmp(&a.total_us))
            .then(b.waiting_us.total_cmp(&a.waiting_us))
            .then_with(|| (&a.name, &a.module).cmp(&(&b.name, &b.module)))
    });
    rows.truncate(MAX_FUNCTIONS);
    rows
}

fn devices(members: &[(&Worker, &WorkerSums)]) -> Vec<DeviceRow> {
    let mut rows = Vec::new();
    for (worker, sums) in members {
        let windows = windows(worker);
        let window = length(&windows);
        for (&device, sums) in &sums.devices {
            let busy = sums.busy.covered_within(&windows);
            let compute = sums.compute.covered_within(&windows);
            let copy = sums.copy.covered_within(&windows);
            // Both together less either: the time in which both ran.
            let overlap = (compute + copy).saturating_sub(busy);
            let communication = sums.communication.covered_within(&windows);
            let either = sums.compute_or_communication.covered_within(&windows);
            let both = (compute + communication).saturating_sub(either);
            let busy_percent = percent(busy, window);
            rows.push(DeviceRow {
                worker: if members.len() > 1 { worker.title() } else { String::new() },
                device,
                name: worker.devices.get(&device).map(|info| info.name.clone()).unwrap_or_default(),
                busy_percent,
                idle_percent: if window > 0 { 100.0 - busy_percent } else { 0.0 },
                compute_percent: percent(compute, window),
                copy_percent: percent(copy, window),
                copy_overlap_percent: percent(overlap, copy),
                communication_percent: percent(communication, window),
                communication_overlap_percent: percent(both, communication),
                uncertain_percent: percent(sums.busy.uncertain(), window),
                kernels: sums.kernels,
                kernels_us: us(sums.kernels_ns),
            });
        }
    }
    rows
}

fn memory(members: &[(&Worker, &WorkerSums)], context: &Context<'_>) -> Vec<MemoryRow> {
    let mut by_allocator: BTreeMap<(StringId, u32), MemorySums> = BTreeMap::new();
    for (_, sums) in members {
        for (&key, sums) in &sums.memory {
            by_allocator.entry(key).or_default().merge(sums);
        }
    }
    by_allocator
        .into_iter()
        .map(|((allocator, device), sums)| MemoryRow {
            allocator: context.definitions.string(allocator).to_owned(),
            device,
            allocations: sums.allocations,
            allocated_bytes: sums.allocated_bytes,
            frees: sums.frees,
            freed_bytes: sums.freed_bytes,
            peak_bytes: sums.peak_bytes,
            peak_reserved_bytes: sums.peak_reserved_bytes,
        })
        .collect()
}

fn counters(members: &[(&Worker, &WorkerSums)], context: &Context<'_>) -> Vec<CounterRow> {
    let mut by_key: BTreeMap<CounterKey, CounterSums> = BTreeMap::new();
    for (_, sums) in members {
        for (&key, sums) in &sums.counters {
            by_key.entry(key).and_modify(|known| known.merge(sums)).or_insert(*sums);
        }
    }
    let mut rows: Vec<CounterRow> = by_key
        .into_iter()
        .map(|(key, sums)| CounterRow {
            name: context.definitions.string(key.name).to_owned(),
            unit: context.definitions.string(key.unit).to_owned(),
            device: (key.device != u32::MAX).then_some(key.device),
            count: sums.count,
            min: sums.min,
            mean: sums.mean(),
            max: sums.max,
            change: sums.change(),
        })
        .collect();
    rows.sort_by(|a, b| (&a.name, &a.unit, a.device).cmp(&(&b.name, &b.unit, b.device)));
    rows
}

fn steps(members: &[(&Worker, &WorkerSums)]) -> Vec<TimeRow> {
    let mut sums = Sums::default();
    for (_, worker) in members {
        sums.times.merge(&worker.steps);
    }
    if sums.times.count() == 0 {
        return Vec::new();
    }
    vec![time_row("step to step".to_owned(), &sums, sums.times.total(), false)]
}

fn losses(members: &[(&Worker, &WorkerSums)]) -> Vec<LossRow> {
    let mut by_cause: BTreeMap<(Arc<str>, &str), u64> = BTreeMap::new();
    for (worker, _) in members {
        for loss in &worker.losses {
            let kind: Arc<str> = match loss.kind {
                Some(kind @ RecordKind(1..)) => Arc::from(kind.to_string()),
                _ => Arc::from(""),
            };
            let cause = loss.cause.map_or("unknown", LossCause::text);
            let count = by_cause.entry((kind, cause)).or_default();
            *count = count.saturating_add(loss.count);
        }
    }
    by_cause
        .into_iter()
        .map(|((kind, cause), count)| LossRow {
            kind: kind.to_string(),
            cause: cause.to_owned(),
            count,
        })
        .collect()
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}
