//! The controller of omniprof: starts and stops captures over all workers of a machine.
//!
//! [`Controller`] is what there is to call; HTTP and the command line are thin layers over it.
//! An offline pipeline calls the pair itself:
//!
//! ```no_run
//! use profiler_worker::Controller;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let controller = Controller::builder().root("omniprof-traces").build()?;
//! controller.start_profile(Some("warm run"), None)?;
//! // ... work ...
//! let manifest = controller.stop_profile()?;
//! println!("{}", profiler_worker::manifest::table(&manifest));
//! # Ok(())
//! # }
//! ```

pub mod controller;
mod exports;
pub mod http;
pub mod links;
pub mod manifest;
pub mod retention;
mod session;
pub mod start_request;
pub mod who;

pub use controller::Controller;
pub use exports::{BIN_DIR_VARIABLE, is_export_child, locate};
