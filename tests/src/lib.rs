//! What the test programs share: the figures that omniprof must reach and how they are measured, the
//! matrix of backends, soak and fuzzing, and spools made for tests.

pub mod cuda_stand_in;
pub mod figures;
pub mod fuzz;
mod http;
pub mod matrix;
pub mod npu_stand_in;
pub mod plugins;
pub mod programs;
pub mod soak;
pub mod synthetic;
