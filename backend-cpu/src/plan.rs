//! What a session was asked for, read and checked.

use std::time::Duration;

use profiler_core::backend::SessionConfig;
use profiler_core::error::BackendError;

use crate::operators::OperatorPlan;
use crate::perf_sampler::Layout;

/// The settings of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) samples: bool,
    pub(crate) sample_hz: u32,
    pub(crate) sampler: SamplerChoice,
    pub(crate) layout: Option<Layout>,
    pub(crate) operators: OperatorPlan,
    /// Frames of interpreted languages were asked for.
    pub(crate) with_stack: bool,
    pub(crate) counters: bool,
    pub(crate) counter_period: Duration,
}

/// Which sampler shall be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SamplerChoice {
    /// perf events; signal timers where they are refused and may be used.
    Automatic,
    PerfEvent,
    SignalTimer,
}

/// Samples a second and thread, at most: past it the sampler would show mostly itself.
const MAX_SAMPLE_HZ: u32 = 1000;
const MAX_COUNTER_HZ: u32 = 100;

impl Plan {
    /// Reads the settings.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidConfig`] naming the setting.
    pub(crate) fn parse(config: &SessionConfig) -> Result<Self, BackendError> {
        let mut plan = Self {
            samples: config.samples,
            sample_hz: config.sample_hz,
            sampler: SamplerChoice::Automatic,
            layout: None,
            operators: OperatorPlan { rows: config.operators, shapes: config.record_shapes },
            with_stack: config.with_stack,
            counters: config.counters,
            counter_period: Duration::from_millis(100),
        };
        if config.samples {
            within("sample_hz", config.sample_hz, MAX_SAMPLE_HZ)?;
        }
        if config.counters {
            within("counter_hz", config.counter_hz, MAX_COUNTER_HZ)?;
            plan.counter_period = Duration::from_secs(1) / config.counter_hz;
        }
        for (name, value) in &config.options {
            let Some(own) = name.strip_prefix("cpu.") else { continue };
            match (own, value.as_str()) {
                ("sampler", Some("auto")) => plan.sampler = SamplerChoice::Automatic,
                ("sampler", Some("perf_event")) => plan.sampler = SamplerChoice::PerfEvent,
                ("sampler", Some("signal_timer")) => plan.sampler = SamplerChoice::SignalTimer,
                ("sampler", _) => {
                    return invalid(name, "must be `auto`, `perf_event` or `signal_timer`");
                }
                ("sampler.layout", Some("auto")) => plan.layout = None,
                ("sampler.layout", Some("inherited")) => plan.layout = Some(Layout::Inherited),
                ("sampler.layout", Some("per_thread")) => plan.layout = Some(Layout::PerThread),
                ("sampler.layout", _) => {
                    return invalid(name, "must be `auto`, `inherited` or `per_thread`");
                }
                _ => return invalid(name, "is unknown; there are `sampler` and `sampler.layout`"),
            }
        }
        Ok(plan)
    }
}

fn within(field: &str, value: u32, max: u32) -> Result<(), BackendError> {
    match (1..=max).contains(&value) {
        true => Ok(()),
        false => Err(BackendError::InvalidConfig {
            field: field.to_owned(),
            reason: format!("{value} is outside 1 to {max}"),
        }),
    }
}

fn invalid<T>(field: &str, reason: &str) -> Result<T, BackendError> {
    Err(BackendError::InvalidConfig { field: field.to_owned(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_option(name: &str, value: &str) -> Result<Plan, BackendError> {
        let mut config = SessionConfig::default();
        config.options.insert(name.to_owned(), value.into());
        Plan::parse(&config)
    }

    #[test]
    fn options_of_this_backend_are_applied_or_refused_by_name() {
        let plan = with_option("cpu.sampler", "signal_timer").unwrap();
        assert_eq!(plan.sampler, SamplerChoice::SignalTimer);
        assert_eq!(with_option("cuda.anything", "x").unwrap().sampler, SamplerChoice::Automatic);
        for name in ["cpu.sampler", "cpu.sampler.layout", "cpu.speed"] {
            let error = with_option(name, "magic").unwrap_err();
            assert_eq!(error.code(), "invalid_config");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn rates_out_of_bounds_are_refused_only_where_they_are_used() {
        let mut config = SessionConfig { sample_hz: 0, ..SessionConfig::default() };
        assert!(Plan::parse(&config).unwrap_err().to_string().contains("sample_hz"));
        config.samples = false;
        assert!(Plan::parse(&config).is_ok());
        config.counter_hz = 1_000_000;
        assert!(Plan::parse(&config).unwrap_err().to_string().contains("counter_hz"));
    }
}
