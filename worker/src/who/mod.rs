//! Who a process is within a pipeline: stage, role, replica and rank, read from outside.
//!
//! Servers say it where everybody can read it: in the titles that they give their processes, in
//! command lines and in variables of launchers. A [`MapRule`] takes a part of that by the named
//! groups of a regular expression. Rules for vLLM-Omni, vLLM, SGLang and torchrun are built in;
//! titles change while a server starts, so all is read again at each arm.

mod built_in;
mod process;
mod rule;

use std::collections::BTreeMap;

use profiler_core::control::CalledWorker;

pub use process::ProcessText;
pub use rule::{MapRule, MapRuleError, MapSource};

use rule::Found;

/// The variable by which a launcher hands its rules to the processes that they are for: a JSON
/// list of rules as [`MapRule::parse`] takes them.
pub const MAP_VARIABLE: &str = "OMNIPROF_MAP";

/// How far up a process looks for an ancestor that says what it does not.
const MAX_ANCESTORS: usize = 8;

/// The most rules that a process's environment may bring.
const MAX_OWN_RULES: usize = 64;

/// The rules by which processes are known. For each part the first rule that finds it holds.
#[derive(Clone, Debug, Default)]
pub struct MapRules {
    given: Vec<MapRule>,
}

impl MapRules {
    /// These rules, before the built-in ones.
    #[must_use]
    pub fn new(given: Vec<MapRule>) -> Self {
        Self { given }
    }

    /// The texts of the rules that were given, for [`MAP_VARIABLE`].
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.given.iter().map(ToString::to_string).collect()
    }

    /// What the processes of these ids are called, as far as they or their ancestors say it.
    ///
    /// Stage and replica are those of the nearest ancestor where a process does not say them
    /// itself; role and rank are its own. Processes that cannot be read are not called anything.
    #[must_use]
    pub fn call(&self, pids: &[u32]) -> BTreeMap<u32, CalledWorker> {
        self.call_with(pids, ProcessText::read)
    }

    /// The same, of processes that are read by `read`.
    #[must_use]
    pub fn call_with(
        &self,
        pids: &[u32],
        read: impl Fn(u32) -> Option<ProcessText>,
    ) -> BTreeMap<u32, CalledWorker> {
        let mut known = Known { rules: self, read: &read, processes: BTreeMap::new() };
        let found: BTreeMap<u32, Found> =
            pids.iter().map(|pid| (*pid, known.whole(*pid))).collect();
        let widths = widths(found.values());
        found
            .into_iter()
            .map(|(pid, found)| {
                let width = widths.get(&found.place()).copied().unwrap_or(1);
                (pid, found.called(width))
            })
            .collect()
    }

    /// What one process says of itself.
    fn own(&self, text: &ProcessText) -> Found {
        let own_rules = text.variable(MAP_VARIABLE).map(rules_of).unwrap_or_default();
        let rules = [&built_in::LAUNCHER[..], &own_rules, &self.given, &built_in::SERVERS[..]];
        let mut found = Found::default();
        for rule in rules.into_iter().flatten() {
            found.add(rule.find(text));
        }
        found
    }
}

/// What was read so far: workers of one server have ancestors in common.
struct Known<'a, R> {
    rules: &'a MapRules,
    read: &'a R,
    processes: BTreeMap<u32, Option<(u32, Found)>>,
}

impl<R: Fn(u32) -> Option<ProcessText>> Known<'_, R> {
    fn whole(&mut self, pid: u32) -> Found {
        let Some((mut parent, mut found)) = self.own(pid) else { return Found::default() };
        for _ in 0..MAX_ANCESTORS {
            if parent <= 1 || (found.stage.is_some() && found.replica.is_some()) {
                break;
            }
            let Some((next, above)) = self.own(parent) else { break };
            found.stage = found.stage.or(above.stage);
            found.replica = found.replica.or(above.replica);
            parent = next;
        }
        found
    }

    fn own(&mut self, pid: u32) -> Option<(u32, Found)> {
        if let Some(known) = self.processes.get(&pid) {
            return known.clone();
        }
        let read = (self.read)(pid).map(|text| (text.parent, self.rules.own(&text)));
        self.processes.insert(pid, read.clone());
        read
    }
}

/// How many tensor-parallel ranks each stage and replica has, by those that are there: a title
/// tells the pipeline and the tensor rank, and no sizes.
fn widths<'a>(all: impl Iterator<Item = &'a Found>) -> BTreeMap<(Option<u32>, Option<u32>), u32> {
    let mut widths = BTreeMap::new();
    for found in all {
        let Some(tensor) = found.tensor else { continue };
        let width: &mut u32 = widths.entry(found.place()).or_insert(1);
        *width = (*width).max(tensor.saturating_add(1));
    }
    widths
}

/// The rules of a process's own launcher. What cannot be read as one is none.
fn rules_of(text: &str) -> Vec<MapRule> {
    let texts: Vec<String> = serde_json::from_str(text).unwrap_or_default();
    texts.iter().take(MAX_OWN_RULES).filter_map(|text| MapRule::parse(text).ok()).collect()
}

#[cfg(test)]
mod tests;
