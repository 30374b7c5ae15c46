//! Which processes make up the pipeline.

/// A stage process: its number, role, replica and rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The stage.
    pub stage: u32,
    /// What it does.
    pub role: &'static str,
    /// The replica.
    pub replica: u32,
    /// The rank.
    pub rank: u32,
}

/// All stage processes. A stage's replicas and ranks stand together.
pub const PLACES: [Place; 5] = [
    Place { stage: 0, role: "thinker", replica: 0, rank: 0 },
    Place { stage: 0, role: "thinker", replica: 0, rank: 1 },
    Place { stage: 1, role: "talker", replica: 0, rank: 0 },
    Place { stage: 2, role: "diffusion", replica: 0, rank: 0 },
    Place { stage: 2, role: "diffusion", replica: 1, rank: 0 },
];
