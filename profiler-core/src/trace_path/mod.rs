//! Where traces lie, so that no two files ever meet and none leaves the root.
//!
//! ```text
//! <root>/<session>/stage<S>-<role>/replica<R>.rank<K>.<host>.<pid>-<key>.<ext>
//! <root>/<session>/host/<host>.<pid>-<key>.<ext>
//! ```
//!
//! [`TracePathPolicy`] is pure: it turns a session and a worker into names. [`TraceRoot`] does the
//! input and output below an opened directory: no symlink and no `..` leads out of it, what is
//! made is made anew, and what is published replaces nothing.

mod aside;
mod component;
mod dir;
mod error;
mod label;
mod locks;
mod policy;
mod root;
mod session_id;
#[cfg(test)]
mod tests;

pub use aside::AsideFile;
pub use error::TraceRootError;
pub use label::{LabelError, MAX_LABEL_CHARS, SessionLabel};
pub use policy::{MAX_NAME_BYTES, TracePath, TracePathPolicy};
pub use root::{DiskSpace, RootClaim, SessionDir, SessionEntry, TraceRoot};
pub use session_id::{SessionId, SessionIdError};
