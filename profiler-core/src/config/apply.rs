//! Applying each field, or refusing it with a reason.

use std::path::PathBuf;

use super::effective::{
    AppliedConfig, AppliedField, DeviceUse, EffectiveConfig, EventArguments, RefusedField,
};
use super::format::TraceFormat;
use super::parse::{ConfigValue, ProfilerConfig};
use crate::backend::{BackendId, Preset};
use crate::control::OnUnavailable;

/// What becomes of one field.
enum Verdict {
    Applied(&'static str),
    Refused(&'static str),
}

use Verdict::{Applied, Refused};

/// Applied, and plain from the name.
const PLAIN: Verdict = Applied("");

/// vLLM's length of a window where its configuration gives none.
const VLLM_ACTIVE_STEPS: u64 = 5;

impl ProfilerConfig {
    /// What comes of the configuration: what holds, which fields were applied and which were
    /// refused, and why. Every field that was given is in one of the two lists.
    #[must_use]
    pub fn apply(&self) -> AppliedConfig {
        let mut effective = self.defaults();
        let (mut applied, mut refused) = (Vec::new(), Vec::new());
        for (field, value) in self.fields() {
            let value = value.clone();
            match self.apply_field(field, &value, &mut effective) {
                Applied(effect) => applied.push(AppliedField { field, value, effect }),
                Refused(reason) => refused.push(RefusedField { field, value, reason }),
            }
        }
        AppliedConfig { effective, applied, refused }
    }

    /// What holds where a field is not given: with `profiler: torch` what vLLM's profiler does by
    /// default, for the rest ours.
    fn defaults(&self) -> EffectiveConfig {
        let mut effective = EffectiveConfig::default();
        if !self.is_vllm() {
            return effective;
        }
        let gzip = self.flag("torch_profiler_use_gzip").unwrap_or(true);
        effective.formats.push(if gzip { TraceFormat::KinetoGz } else { TraceFormat::Kineto });
        if self.text("profiler") == Some("torch") {
            effective.session.operators = true;
            effective.session.with_stack = true;
            if self.flag("torch_profiler_dump_cuda_time_total").unwrap_or(true) {
                effective.formats.push(TraceFormat::Table);
            }
        }
        if self.text("profiler") == Some("cuda") {
            effective.device = DeviceUse::Required;
            effective.host = false;
            effective.backend = BackendId::parse("cuda").ok();
        }
        if self.has_vllm_windows() {
            effective.schedule.active_steps = Some(VLLM_ACTIVE_STEPS);
            effective.schedule.repeat = 1;
        }
        effective
    }

    /// vLLM makes a schedule only where there is a wait or a warm-up.
    fn has_vllm_windows(&self) -> bool {
        let given = |name| self.number(name).is_some_and(|steps| steps > 0);
        given("wait_iterations") || given("warmup_iterations")
    }

    fn apply_field(
        &self,
        field: &'static str,
        value: &ConfigValue,
        effective: &mut EffectiveConfig,
    ) -> Verdict {
        match value {
            ConfigValue::Flag(flag) => self.apply_flag(field, *flag, effective),
            ConfigValue::Number(number) => self.apply_number(field, *number, effective),
            ConfigValue::Text(text) => apply_text(field, text, effective),
            ConfigValue::List(list) => self.apply_list(field, list, effective),
            ConfigValue::Table(table) => {
                let options = &mut effective.session.options;
                for (backend, settings) in table {
                    for (name, value) in settings.as_object().into_iter().flatten() {
                        options.insert(format!("{backend}.{name}"), value.clone());
                    }
                }
                PLAIN
            }
        }
    }

    fn apply_flag(&self, field: &str, flag: bool, effective: &mut EffectiveConfig) -> Verdict {
        let operators_off = self.flag("operators") == Some(false);
        let session = &mut effective.session;
        match field {
            "samples" => session.samples = flag,
            "counters" => session.counters = flag,
            "spans" => effective.spans = flag,
            "operators" => session.operators = flag,
            "record_shapes"
            | "torch_profiler_record_shapes"
            | "with_stack"
            | "torch_profiler_with_stack"
                if flag && operators_off =>
            {
                return Refused("`operators: false` leaves no operators to take it of");
            }
            "record_shapes" | "torch_profiler_record_shapes" => {
                session.record_shapes = flag;
                // Shapes are those of operators.
                session.operators |= flag;
                if flag {
                    return Applied("operators are recorded for it");
                }
            }
            "with_stack" | "torch_profiler_with_stack" => {
                session.with_stack = flag;
                session.operators |= flag;
                if flag {
                    return Applied("operators are recorded for it; samples have stacks anyway");
                }
            }
            "memory" | "torch_profiler_with_memory" => {
                session.memory = flag;
                if flag {
                    return Applied(
                        "allocations and frees as rows, where the device's backend records them; \
                         a worker without is refused, or `degraded` with `no_memory_rows`; there \
                         is no memory snapshot pickle",
                    );
                }
            }
            "torch_profiler_use_gzip" => return self.apply_gzip(flag),
            "torch_profiler_dump_cuda_time_total" => return self.apply_table(flag),
            _ => return apply_upstream_only(field, flag),
        }
        PLAIN
    }

    fn apply_gzip(&self, gzip: bool) -> Verdict {
        if self.fields().any(|(name, _)| name == "formats") {
            return Refused("`formats` says itself whether the Kineto JSON is compressed");
        }
        if gzip {
            Applied("the Kineto JSON is written as .pt.trace.json.gz")
        } else {
            Applied("the Kineto JSON is written as .pt.trace.json")
        }
    }

    fn apply_table(&self, table: bool) -> Verdict {
        if self.fields().any(|(name, _)| name == "formats") {
            return Refused("`formats` says itself whether tables are written: name `table` there");
        }
        if table && self.text("profiler") != Some("torch") {
            return Refused("vLLM writes the table only with `profiler: torch`");
        }
        if table {
            Applied("the text tables are written at the stop; nothing is printed by the worker")
        } else {
            Applied("no text tables")
        }
    }

    fn apply_number(&self, field: &str, number: u64, effective: &mut EffectiveConfig) -> Verdict {
        let narrow = u32::try_from(number).unwrap_or(u32::MAX);
        let (schedule, limits) = (&mut effective.schedule, &mut effective.limits);
        match field {
            "delay_iterations" => schedule.delay_steps = number,
            "wait_iterations" => schedule.wait_steps = number,
            "warmup_iterations" => schedule.warmup_steps = number,
            "active_iterations" => {
                if self.is_vllm() && !self.has_vllm_windows() {
                    return Refused(
                        "vLLM's configuration has windows only with `wait_iterations` or \
                         `warmup_iterations`; `max_iterations` bounds the steps without them",
                    );
                }
                schedule.active_steps = Some(number);
            }
            "max_iterations" => {
                limits.max_steps = (number > 0).then_some(number);
                if number > 0 {
                    return Applied("exactly so many steps, then the session ends by itself");
                }
            }
            "start_step" => schedule.start_step = Some(number),
            "repeat" => schedule.repeat = narrow,
            "delay_ms" => schedule.delay_ms = number,
            "duration_ms" => {
                limits.duration_ms = Some(number);
                if self.number("max_session_ms").is_none() {
                    // A longer window than the default limit was asked for by name.
                    limits.max_session_ms = limits.max_session_ms.max(number.saturating_mul(2));
                }
            }
            "max_session_ms" => limits.max_session_ms = number,
            "max_bytes" => limits.max_bytes = number,
            "min_free_percent" => limits.min_free_percent = narrow,
            "sample_hz" => effective.session.sample_hz = narrow,
            "counter_hz" => effective.session.counter_hz = narrow,
            "max_buffer_bytes" => effective.session.max_buffer_bytes = number,
            "drain_ms" => effective.session.drain_ms = number,
            _ => return UNHANDLED,
        }
        PLAIN
    }

    fn apply_list(&self, field: &str, list: &[String], effective: &mut EffectiveConfig) -> Verdict {
        let has = |choice: &str| list.iter().any(|item| item == choice);
        match field {
            "activities" => {
                effective.host = has("CPU");
                effective.spans &= has("CPU");
                effective.session.memory |= has("MEM");
                effective.device = match has("GPU") {
                    true => DeviceUse::Required,
                    // A device's backend records it.
                    false if has("MEM") || self.asks_memory() => DeviceUse::IfAvailable,
                    false => DeviceUse::No,
                };
            }
            "formats" => {
                effective.formats =
                    list.iter().filter_map(|name| TraceFormat::parse(name).ok()).collect();
            }
            _ => return UNHANDLED,
        }
        PLAIN
    }

    /// Whether a flag asks for allocations and frees.
    fn asks_memory(&self) -> bool {
        let flag = |name| self.flag(name) == Some(true);
        flag("memory") || flag("torch_profiler_with_memory")
    }
}

/// A field that is listed and that nothing here applies; a test finds it.
const UNHANDLED: Verdict = Refused("nothing applies this field; please report it");

/// Flags that vLLM has and that we cannot do: off is how it is anyway, on is refused.
fn apply_upstream_only(field: &str, flag: bool) -> Verdict {
    let reason = match field {
        "torch_profiler_with_flops" => {
            "operations are not counted; `torch_profiler_record_shapes` records what they are \
             computed from"
        }
        "torch_profiler_execution_trace" => {
            "execution traces need PyTorch's own observer; the Kineto JSON holds the operators \
             with their sequence numbers"
        }
        "capture_torch_profiler" => {
            "graph capture happens before any session can be started over HTTP; kernels of graphs \
             are attributed by their graph nodes while a graph runs"
        }
        "detailed_trace_annotation" => {
            "annotations are the engine's to make; its spans and ranges are recorded as they are"
        }
        "ignore_frontend" => {
            "a process is recorded where it joined as a worker: start the front end without the \
             agent, or name the stages to record in the start's `stages`"
        }
        _ => return UNHANDLED,
    };
    if flag { Refused(reason) } else { Applied("off, as it always is here") }
}

fn apply_text(field: &str, text: &str, effective: &mut EffectiveConfig) -> Verdict {
    if field.starts_with("proton_") {
        return Refused(PROTON);
    }
    match (field, text) {
        ("profiler", "torch") => {
            Applied("the best device backend of the machine, sampled stacks, operators and spans")
        }
        ("profiler", "cuda") => {
            Applied("the CUDA backend alone, by itself: no cudaProfilerStart is called for nsys")
        }
        ("profiler", _) => Refused(PROTON),
        ("backend", "cpu") => {
            effective.device = DeviceUse::No;
            effective.backend = None;
            Applied("the host alone")
        }
        ("backend", id) => {
            effective.device = DeviceUse::Required;
            effective.backend = BackendId::parse(id).ok();
            PLAIN
        }
        ("on_unavailable", choice) => {
            let degrade = choice == "degrade";
            effective.on_unavailable =
                if degrade { OnUnavailable::Degrade } else { OnUnavailable::Fail };
            PLAIN
        }
        ("preset", choice) => {
            effective.session.preset = match choice {
                "gpu" => Preset::Gpu,
                "full" => Preset::Full,
                _ => Preset::Launch,
            };
            PLAIN
        }
        ("arguments", choice) => {
            effective.arguments = match choice {
                "full" => EventArguments::Full,
                _ => EventArguments::Minimal,
            };
            PLAIN
        }
        ("torch_profiler_dir", "") => Applied("empty, as if it had not been given"),
        ("dir" | "torch_profiler_dir", _) if is_uri(text) => Refused(
            "traces are written to a local directory: give one, and copy the session's directory \
             when its manifest says `complete`",
        ),
        ("dir" | "torch_profiler_dir", path) => {
            effective.dir = Some(PathBuf::from(path));
            Applied("the root of all sessions; each worker's files have a place of their own below")
        }
        _ => UNHANDLED,
    }
}

const PROTON: &str = "Proton instruments Triton kernels from inside Python, which is not done here; \
                      give `profiler: torch`, or leave the field out";

/// A scheme of two letters or more, as vLLM has it: one letter is a drive.
fn is_uri(path: &str) -> bool {
    path.split_once("://").is_some_and(|(scheme, _)| scheme.len() > 1)
}
