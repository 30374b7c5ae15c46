//! Known work on a GPU, told by lines of text what to do next.
//!
//! The program `cuda-workload` reads the lines from its input; [`workload_command`] takes them in a
//! process of another language, so that other profilers record the same loops. Each line has one
//! answer, a JSON object; [`Commands`] says which lines there are.

mod c;
mod commands;
mod crew;
mod cupti;
mod device;
mod memory;
mod unread;

pub use c::workload_command;
pub use commands::Commands;
pub use crew::Kind;
