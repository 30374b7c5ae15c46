//! What holds, for all stages and for each that was named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use profiler_core::config::{AppliedConfig, Field, ProfilerConfig, RefusedField};
use profiler_worker::retention::RetentionPolicy;
use profiler_worker::start_request::SessionDefaults;

use super::{ConfigLoadError, Layer, Origin, Scope, Settings};

/// The root where none is named.
pub(crate) const DEFAULT_ROOT: &str = "./omniprof-traces";

/// The configuration of all stages, and of those that have one of their own.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) all: ResolvedStage,
    pub(crate) stages: BTreeMap<u32, ResolvedStage>,
    pub(crate) settings: Settings,
    /// Variables that begin with `OMNIPROF_` and mean nothing.
    pub(crate) unknown_variables: Vec<String>,
}

/// What holds for a stage, and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedStage {
    pub(crate) config: ProfilerConfig,
    pub(crate) origins: BTreeMap<&'static str, Origin>,
    pub(crate) applied: AppliedConfig,
}

impl Resolved {
    /// Lays the layers over one another, the last one on top.
    pub(super) fn of(layers: Vec<Layer>, settings: Settings) -> Result<Self, ConfigLoadError> {
        let mut numbers: Vec<u32> = Vec::new();
        for layer in &layers {
            match layer.scope {
                Scope::Stage(stage) if !numbers.contains(&stage) => numbers.push(stage),
                Scope::Stage(_) | Scope::All => {}
            }
        }
        let all = ResolvedStage::of(&layers, None)?;
        let mut stages = BTreeMap::new();
        for stage in numbers {
            stages.insert(stage, ResolvedStage::of(&layers, Some(stage))?);
        }
        let mut resolved = Self { all, stages, settings, unknown_variables: Vec::new() };
        resolved.refuse_second_roots();
        Ok(resolved)
    }

    /// The configuration of a stage.
    pub(crate) fn stage(&self, stage: u32) -> &ResolvedStage {
        self.stages.get(&stage).unwrap_or(&self.all)
    }

    /// The root: of `--dir`, else of the configuration, else the default.
    pub(crate) fn root(&self, flag: Option<&Path>) -> PathBuf {
        let configured = self.configured_root();
        let root = flag.map(Path::to_owned).or(configured);
        expand_home(root.unwrap_or_else(|| PathBuf::from(DEFAULT_ROOT)))
    }

    /// What is recorded where a start does not say.
    pub(crate) fn defaults(&self) -> SessionDefaults {
        let stages = self.stages.iter();
        SessionDefaults {
            all: self.all.applied.effective.clone(),
            stages: stages.map(|(n, stage)| (*n, stage.applied.effective.clone())).collect(),
        }
    }

    /// Which old sessions go.
    pub(crate) fn retention(&self) -> RetentionPolicy {
        let default = RetentionPolicy::default();
        RetentionPolicy {
            max_bytes: self.settings.max_root_bytes.unwrap_or(default.max_bytes),
            max_sessions: self.settings.max_sessions.unwrap_or(default.max_sessions),
        }
    }

    /// Says what was named and is not applied, where the log is read.
    pub(crate) fn warn(&self) {
        for (stage, refused) in self.refused() {
            let place = stage.map_or_else(String::new, |stage| format!("stage {stage}: "));
            let (field, value) = (refused.field, &refused.value);
            tracing::warn!("{place}`{field}` = {value} is not applied: {}", refused.reason);
        }
        for name in &self.unknown_variables {
            tracing::warn!("the variable {name} means nothing to omniprof");
        }
    }

    /// Every refused field with the stage that names it; what all stages share is told once.
    pub(crate) fn refused(&self) -> Vec<(Option<u32>, &RefusedField)> {
        let mut refused: Vec<_> = self.all.applied.refused.iter().map(|f| (None, f)).collect();
        for (stage, resolved) in &self.stages {
            for field in &resolved.applied.refused {
                if !self.all.applied.refused.contains(field) {
                    refused.push((Some(*stage), field));
                }
            }
        }
        refused
    }

    fn configured_root(&self) -> Option<PathBuf> {
        let of_all = self.all.applied.effective.dir.clone();
        of_all.or_else(|| self.stages.values().find_map(|s| s.applied.effective.dir.clone()))
    }

    /// All stages lie below one root: the first one named.
    fn refuse_second_roots(&mut self) {
        let Some(root) = self.configured_root() else { return };
        for stage in self.stages.values_mut() {
            let applied = &mut stage.applied;
            if applied.effective.dir.as_ref().is_none_or(|dir| *dir == root) {
                continue;
            }
            applied.effective.dir = Some(root.clone());
            let is_dir = |name: &str| Field::find(name).is_some_and(|f| f.setting() == "dir");
            let refused: Vec<_> = applied.applied.extract_if(.., |f| is_dir(f.field)).collect();
            for field in refused {
                applied.refused.push(RefusedField::new(
                    field.field,
                    field.value,
                    "all stages lie below one root, and another stage's directory came first",
                ));
            }
        }
    }
}

impl ResolvedStage {
    fn of(layers: &[Layer], stage: Option<u32>) -> Result<Self, ConfigLoadError> {
        let mut config = ProfilerConfig::default();
        let mut origins = BTreeMap::new();
        for layer in layers {
            let concerned = match layer.scope {
                Scope::All => true,
                Scope::Stage(number) => Some(number) == stage,
            };
            if !concerned {
                continue;
            }
            config.overlay(&layer.config).map_err(|source| ConfigLoadError::Config {
                origin: layer.origin.to_string(),
                source,
            })?;
            for (name, _) in layer.config.fields() {
                origins.insert(name, layer.origin.clone());
            }
        }
        let held: Vec<&str> = config.fields().map(|(name, _)| name).collect();
        origins.retain(|name, _| held.contains(name));
        let applied = config.apply();
        Ok(Self { config, origins, applied })
    }
}

/// `~/` at the front, as vLLM expands it.
fn expand_home(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}
