//! What the test programs share: the figures that omniprof must reach, how they are measured, and
//! spools made for tests.

pub mod figures;
pub mod npu_stand_in;
pub mod plugins;
pub mod programs;
pub mod synthetic;
