//! What became of a cell.

use std::collections::BTreeMap;

use serde::Serialize;

use super::output::Ended;
use super::{Cell, Expectation};

/// What became of a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Tests ran and held.
    Passed {
        /// How many.
        tests: usize,
        /// Those that could not run here, with their reasons.
        skipped: Vec<String>,
    },
    /// It was not run, or nothing of it could be.
    Skipped {
        /// Why.
        reason: String,
    },
    /// It failed as is known.
    ExpectedFailure {
        /// Backend, library and reason of each.
        known: Vec<String>,
        /// How many tests held.
        tests: usize,
    },
    /// It failed.
    Failed {
        /// The tests, or what else went wrong.
        why: Vec<String>,
    },
}

/// A line of the matrix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The place.
    #[serde(flatten)]
    pub cell: Cell,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What was recorded with, as its backend tells it; empty where nothing was run.
    pub library: String,
    /// Seconds that its tests took.
    pub seconds: u64,
}

impl Report {
    /// Of a cell that was not run.
    #[must_use]
    pub fn skipped(cell: Cell, reason: impl Into<String>) -> Self {
        let outcome = Outcome::Skipped { reason: reason.into() };
        Self { cell, outcome, library: String::new(), seconds: 0 }
    }

    /// Of a cell that was run.
    #[must_use]
    pub fn new(cell: Cell, outcome: Outcome, library: String, seconds: u64) -> Self {
        Self { cell, outcome, library, seconds }
    }
}

/// Judges what the tests of a cell said, by their names. `faults` are programs that ended otherwise
/// than their tests tell; `library` is what the backend says of the vendor's library.
#[must_use]
pub fn judge(
    cell: Cell,
    library: &str,
    tests: &BTreeMap<String, Ended>,
    faults: &[String],
    known: &[Expectation],
) -> Outcome {
    let mut why = faults.to_vec();
    let mut expected = Vec::new();
    let mut skipped = Vec::new();
    let mut passed = 0;
    for (name, ended) in tests {
        let covered = known.iter().find(|known| known.covers(cell, library, name));
        match (ended, covered) {
            (Ended::Skipped(reason), _) => skipped.push(format!("{name}: {reason}")),
            (Ended::Passed, None) => passed += 1,
            (Ended::Passed, Some(known)) => {
                why.push(format!("{name} passes and is listed as failing: {}", known.reason));
            }
            (Ended::Failed, None) => why.push(name.clone()),
            (Ended::Failed, Some(known)) => expected
                .push(format!("{name}: {}, {}: {}", known.backend, known.library, known.reason)),
        }
    }
    if !why.is_empty() {
        return Outcome::Failed { why };
    }
    if !expected.is_empty() {
        return Outcome::ExpectedFailure { known: expected, tests: passed };
    }
    if passed == 0 {
        let reason = skipped.first().cloned().unwrap_or_default();
        return match reason.is_empty() {
            true => Outcome::Failed { why: vec!["no test ran".to_owned()] },
            false => Outcome::Skipped { reason },
        };
    }
    Outcome::Passed { tests: passed, skipped }
}

#[cfg(test)]
mod tests {
    use super::super::{Backend, Door, Features, Ground};
    use super::*;

    const CELL: Cell = Cell {
        backend: Backend::Cuda,
        door: Door::Linked,
        ground: Ground::StandIn,
        features: Features::Default,
    };
    const KNOWN: &[Expectation] = &[Expectation {
        backend: "cuda",
        library: "libcupti 22",
        tests: &["graph_nodes"],
        reason: "gives no node ids",
    }];

    fn judged(library: &str, tests: &[(&str, Ended)]) -> Outcome {
        let tests = tests.iter().map(|(name, ended)| ((*name).to_owned(), ended.clone()));
        judge(CELL, library, &tests.collect(), &[], KNOWN)
    }

    #[test]
    fn a_known_failure_is_told_and_another_fails() {
        let failed = [("graph_nodes", Ended::Failed), ("held", Ended::Passed)];
        let known = judged("libcupti 22", &failed);
        let text = "graph_nodes: cuda, libcupti 22: gives no node ids".to_owned();
        assert_eq!(known, Outcome::ExpectedFailure { known: vec![text], tests: 1 });
        assert!(matches!(judged("libcupti 130000", &failed), Outcome::Failed { .. }));
    }

    #[test]
    fn a_known_failure_that_passes_is_a_failure() {
        let outcome = judged("libcupti 22", &[("graph_nodes", Ended::Passed)]);
        assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    }

    #[test]
    fn skipped_is_not_passed() {
        let skipped = Ended::Skipped("no perf events".to_owned());
        let outcome = judged("", &[("a", skipped.clone())]);
        assert_eq!(outcome, Outcome::Skipped { reason: "a: no perf events".to_owned() });
        let outcome = judged("", &[("a", skipped), ("b", Ended::Passed)]);
        let told = vec!["a: no perf events".to_owned()];
        assert_eq!(outcome, Outcome::Passed { tests: 1, skipped: told });
        assert!(matches!(judged("", &[]), Outcome::Failed { .. }));
    }

    #[test]
    fn a_program_that_crashed_fails_its_cell() {
        let faults = ["conformance of backend-cuda: signal 11".to_owned()];
        let held = BTreeMap::from([("held".to_owned(), Ended::Passed)]);
        let outcome = judge(CELL, "", &held, &faults, KNOWN);
        assert_eq!(outcome, Outcome::Failed { why: faults.to_vec() });
    }
}
