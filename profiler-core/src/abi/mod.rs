//! The plugin door: a backend in a library of its own, behind a table of C functions.
//!
//! A plugin is a shared library that holds one backend and exports one symbol, [`ENTRY`], which
//! gives a [`BackendTable`]. [`export_backend!`] makes both for any backend of this project's two
//! traits; a plugin in another language fills the table itself, from `omniprof_backend.h`. On the
//! host's side [`PluginBackend`] implements the same traits over the table, so that nothing behind
//! it knows by which door a backend came.
//!
//! Two copies of this crate meet here, perhaps of different versions and compilers, so only what C
//! can say crosses:
//!
//! * tables begin with a magic number, the major version and their own size. Within a major version
//!   fields are only appended; each side copies the prefix that both know;
//! * rows cross as the bytes that they are, batches as plain structs whose size is told with them;
//! * configurations, probe reports, stream infos, summaries and errors cross as JSON with a version;
//! * texts are pointer and length, valid for the call alone. What a call has to say it says through
//!   an [`Answer`] while it runs, so that no allocation crosses at all;
//! * no panic crosses, either way. A backend that panicked is not used again and its session is
//!   leaked, for nobody knows what it left half done;
//! * a library is never unloaded: a driver may hold pointers into it.
//!
//! `docs/plugins.md` is the specification; a test keeps the layouts.
//!
//! [`export_backend!`]: crate::export_backend

mod export;
mod host_handle;
mod message;
mod table;

#[cfg(feature = "plugins")]
mod callbacks;
#[cfg(feature = "plugins")]
mod error;
#[cfg(feature = "plugins")]
mod load;
#[cfg(feature = "plugins")]
mod plugin_backend;

pub use export::{Door, Exported, table};
pub use message::MESSAGE_VERSION;
pub use table::{
    ABI_MAJOR, Answer, BACKEND_MAGIC, BackendTable, BatchRef, ENTRY, HOST_MAGIC, HostTable,
    LossRef, MIN_BACKEND_TABLE_BYTES, MIN_BATCH_BYTES, MIN_HOST_TABLE_BYTES, MIN_LOSS_BYTES,
    SessionHandle, Status, Text, emit_answer, role, status,
};

#[cfg(feature = "plugins")]
pub use error::PluginError;
#[cfg(feature = "plugins")]
pub use load::{LoadedPlugin, load, open_table};
#[cfg(feature = "plugins")]
pub use plugin_backend::PluginBackend;
