//! The per-backend test matrix: {cpu, cuda, npu} x {linked, plugin, injected} x {stand-in, hardware}
//! x {default, minimal, all features}.
//!
//! A [`Cell`] is one place of it. [`plan`] says which test programs tell about a cell, or why it
//! cannot be told here; [`programs::Programs`] builds and runs them; [`verdict`] judges. The tests
//! are those that the crates have: the conformance bodies of each backend, and what records an
//! injected program.

pub mod expectations;
pub mod output;
pub mod plan;
pub mod programs;
pub mod table;
pub mod verdict;

use serde::Serialize;

pub use expectations::Expectation;
pub use verdict::{Outcome, Report};

/// What records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the matrix has these rows")]
pub enum Backend {
    /// Sampled stacks and counters of the host.
    Cpu,
    /// NVIDIA devices, by CUPTI.
    Cuda,
    /// Ascend devices, by MSPTI.
    Npu,
}

impl Backend {
    /// All, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::Npu];

    /// Its id.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Npu => "npu",
        }
    }
}

/// How a backend comes into a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the matrix has these rows")]
pub enum Door {
    /// Linked into the program.
    Linked,
    /// As a library of its own, loaded by the agent.
    Plugin,
    /// In the injected file, in a program that knows nothing of it.
    Injected,
}

impl Door {
    /// All, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Linked, Self::Plugin, Self::Injected];

    /// Its word in the table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Linked => "linked",
            Self::Plugin => "plugin",
            Self::Injected => "injected",
        }
    }
}

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the matrix has these rows")]
pub enum Ground {
    /// A stand-in for the vendor's library.
    StandIn,
    /// The hardware of this machine.
    Hardware,
}

impl Ground {
    /// All, in the order of the table.
    pub const ALL: [Self; 2] = [Self::StandIn, Self::Hardware];

    /// Its word in the table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::StandIn => "stand-in",
            Self::Hardware => "hardware",
        }
    }
}

/// How the crates under test are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the matrix has these columns")]
pub enum Features {
    /// As cargo builds them.
    Default,
    /// `--no-default-features`, and of the features the one that the cell is about.
    Minimal,
    /// `--all-features`.
    All,
}

impl Features {
    /// All, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Default, Self::Minimal, Self::All];

    /// Its word in the table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Minimal => "minimal",
            Self::All => "all",
        }
    }
}

/// One place of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "the matrix has four dimensions")]
pub struct Cell {
    /// What records.
    pub backend: Backend,
    /// How it comes into the process.
    pub door: Door,
    /// What is recorded.
    pub ground: Ground,
    /// How it is built.
    pub features: Features,
}

impl Cell {
    /// All 54, row by row.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for backend in Backend::ALL {
            for door in Door::ALL {
                for ground in Ground::ALL {
                    for features in Features::ALL {
                        cells.push(Self { backend, door, ground, features });
                    }
                }
            }
        }
        cells
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { backend, door, ground, features } = self;
        write!(f, "{}/{}/{}/{}", backend.id(), door.word(), ground.word(), features.word())
    }
}
