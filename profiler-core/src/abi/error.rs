//! Errors of loading a plugin.

use std::path::PathBuf;

use crate::backend::BackendId;

/// Why a library is not used as a plugin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The path is not absolute.
    #[error("{} is no absolute path", path.display())]
    Relative {
        /// The path.
        path: PathBuf,
    },
    /// The loader refused the library.
    #[error("{} cannot be loaded", path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// The loader's words.
        #[source]
        source: libloading::Error,
    },
    /// The library has no entry.
    #[error("{} is no omniprof plugin: it has no symbol `{}`", path.display(), super::ENTRY)]
    NoEntry {
        /// The library.
        path: PathBuf,
        /// The loader's words.
        #[source]
        source: libloading::Error,
    },
    /// The entry gave no table.
    #[error("{} is no omniprof plugin: its entry gives no table", path.display())]
    NoTable {
        /// The library.
        path: PathBuf,
    },
    /// The table does not begin as one.
    #[error("{} is no omniprof plugin: its table begins with {magic:#x}", path.display())]
    BadMagic {
        /// The library.
        path: PathBuf,
        /// What it begins with.
        magic: u32,
    },
    /// The plugin is of another major version.
    #[error(
        "{} speaks version {found} of the plugin interface and this build speaks {}: install the \
         plugin of this release",
        path.display(),
        super::ABI_MAJOR
    )]
    OtherMajor {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The table is shorter than any of its major version.
    #[error(
        "{} is broken: its table has {found} bytes, at least {} belong to it",
        path.display(),
        super::MIN_BACKEND_TABLE_BYTES
    )]
    TableTooSmall {
        /// The library.
        path: PathBuf,
        /// The size that it gives.
        found: usize,
    },
    /// A function that every plugin has is missing.
    #[error("{} is broken: its table lacks `{function}`", path.display())]
    MissingFunction {
        /// The library.
        path: PathBuf,
        /// The function.
        function: &'static str,
    },
    /// A field of the table says nothing that it could mean.
    #[error("{} is broken: `{field}` of its table cannot be read", path.display())]
    BadField {
        /// The library.
        path: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// The backend is another one than the file's name says.
    #[error("{} holds backend `{found}`, and by its name it should hold `{expected}`", path.display())]
    OtherId {
        /// The library.
        path: PathBuf,
        /// The name's.
        expected: BackendId,
        /// The table's.
        found: String,
    },
}

impl PluginError {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Relative { .. } => "relative_path",
            Self::Load { .. } => "not_loadable",
            Self::NoEntry { .. } | Self::NoTable { .. } => "no_entry",
            Self::BadMagic { .. } => "bad_magic",
            Self::OtherMajor { .. } => "other_version",
            Self::TableTooSmall { .. } => "table_too_small",
            Self::MissingFunction { .. } => "missing_function",
            Self::BadField { .. } => "bad_field",
            Self::OtherId { .. } => "other_id",
        }
    }
}
