//! What the test programs share: the figures that omniprof must reach, and how they are measured.

pub mod figures;
