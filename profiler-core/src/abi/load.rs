//! Loads a plugin and checks its table before anything of it is called.
#![expect(unsafe_code, reason = "loads a library and reads what its C interface points to")]

use std::ffi::c_void;
use std::mem::{ManuallyDrop, MaybeUninit, offset_of, size_of};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::backend::{BackendId, BackendRole};
use crate::registry::{PluginTrial, RegisteredBackend};

use super::error::PluginError;
use super::plugin_backend::PluginBackend;
use super::table::{
    ABI_MAJOR, BACKEND_MAGIC, BackendTable, ENTRY, MIN_BACKEND_TABLE_BYTES, TableHeader, Text, role,
};

/// The longest version text that is shown.
const MAX_VERSION_BYTES: usize = 64;

/// The longest id that a table may give before it is looked at.
const MAX_ID_BYTES: usize = 256;

/// A plugin whose table was checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadedPlugin {
    /// The backend.
    pub backend: PluginBackend,
    /// What it records.
    pub role: BackendRole,
    /// Of several available device backends the highest records.
    pub priority: u32,
    /// The plugin's version.
    pub version: String,
}

impl LoadedPlugin {
    /// The backend, for a registry.
    #[must_use]
    pub fn registered(&self) -> RegisteredBackend {
        RegisteredBackend {
            role: self.role,
            priority: self.priority,
            backend: Box::new(self.backend.clone()),
        }
    }

    /// What it has tried in a process of its own, where there is something.
    #[must_use]
    pub fn trial(&self) -> Option<PluginTrial> {
        let backend = self.backend.clone();
        self.backend.has_trial().then(|| -> PluginTrial {
            Box::new(move |library, write| {
                if let Err(error) = backend.run_trial(library, write) {
                    write(&error.to_string());
                }
            })
        })
    }
}

/// Loads the library at an absolute path, which must hold backend `expected`. It is never unloaded.
///
/// Loading runs the library's constructors. Whether the file may be trusted the caller decides
/// before.
///
/// # Errors
///
/// [`PluginError`]; a library that was loaded and is no plugin stays loaded, unused.
pub fn load(path: &Path, expected: &BackendId) -> Result<LoadedPlugin, PluginError> {
    if !path.is_absolute() {
        return Err(PluginError::Relative { path: path.to_owned() });
    }
    let flags = RTLD_NOW | RTLD_LOCAL | libc::RTLD_NODELETE;
    // SAFETY: runs the constructors of a library that the caller trusts.
    let library = unsafe { Library::open(Some(path), flags) }
        .map_err(|source| PluginError::Load { path: path.to_owned(), source })?;
    // Never unloaded: threads, thread-local destructors and drivers may point into it.
    let library = ManuallyDrop::new(library);
    // SAFETY: the symbol's name carries the version of this signature.
    let entry =
        unsafe { library.get::<unsafe extern "C" fn() -> *const BackendTable>(ENTRY.as_bytes()) }
            .map_err(|source| PluginError::NoEntry { path: path.to_owned(), source })?;
    // SAFETY: as above.
    let table = unsafe { entry() };
    // SAFETY: what the entry gives is null or a table that lives for as long as the library.
    unsafe { open_table(table, path, expected) }
}

/// Checks a table and copies what this build knows of it. [`load`] does so with what a library
/// gives; `path` is for messages.
///
/// # Errors
///
/// [`PluginError`].
///
/// # Safety
///
/// * `table` is null, or its first 16 bytes can be read; where they say that it is a table of our
///   major version, `struct_size` bytes can be read.
/// * What the table points to lives for ever and keeps the interface's promises.
pub unsafe fn open_table(
    table: *const BackendTable,
    path: &Path,
    expected: &BackendId,
) -> Result<LoadedPlugin, PluginError> {
    let path = || path.to_owned();
    if table.is_null() {
        return Err(PluginError::NoTable { path: path() });
    }
    // SAFETY: the caller guarantees the first 16 bytes, which are of every version.
    let header = unsafe { table.cast::<TableHeader>().read_unaligned() };
    let TableHeader { magic, abi_major: found, struct_size: size } = header;
    if magic != BACKEND_MAGIC {
        return Err(PluginError::BadMagic { path: path(), magic });
    }
    if found != ABI_MAJOR {
        return Err(PluginError::OtherMajor { path: path(), found });
    }
    if size < MIN_BACKEND_TABLE_BYTES {
        return Err(PluginError::TableTooSmall { path: path(), found: size });
    }
    // An older plugin's table ends earlier: what it lacks is zero, which is an absent function. A
    // newer plugin's is longer: what this build does not know is not looked at.
    let mut copy = MaybeUninit::<BackendTable>::zeroed();
    // A size that cuts through a function's pointer leaves that function out.
    let known = size.min(size_of::<BackendTable>()) / size_of::<usize>() * size_of::<usize>();
    // SAFETY: `known` bytes can be read, and so many fit.
    unsafe { table.cast::<u8>().copy_to_nonoverlapping(copy.as_mut_ptr().cast(), known) };
    for (function, offset) in [
        ("probe", offset_of!(BackendTable, probe)),
        ("open", offset_of!(BackendTable, open)),
        ("start", offset_of!(BackendTable, start)),
        ("stop", offset_of!(BackendTable, stop)),
        ("close", offset_of!(BackendTable, close)),
    ] {
        // SAFETY: the offset is that of a field.
        let field = unsafe { copy.as_ptr().byte_add(offset) };
        // SAFETY: the field is a pointer, all bytes of it are written.
        if unsafe { field.cast::<*const c_void>().read() }.is_null() {
            return Err(PluginError::MissingFunction { path: path(), function });
        }
    }
    // SAFETY: functions that must not be null are not; all other fields may be anything.
    let table = unsafe { copy.assume_init() };
    // SAFETY: the caller guarantees texts that live for ever.
    let id = unsafe { text(table.id, MAX_ID_BYTES) };
    let id = id.ok_or_else(|| PluginError::BadField { path: path(), field: "id" })?;
    if id != expected.as_str() {
        let expected = expected.clone();
        return Err(PluginError::OtherId { path: path(), expected, found: id });
    }
    let role = match table.role {
        role::DEVICE => BackendRole::Device,
        role::HOST => BackendRole::Host,
        _ => return Err(PluginError::BadField { path: path(), field: "role" }),
    };
    // SAFETY: the caller guarantees texts that live for ever.
    let version = unsafe { text(table.version, MAX_VERSION_BYTES) };
    Ok(LoadedPlugin {
        backend: PluginBackend::new(table, expected.clone()),
        role,
        priority: table.priority,
        version: version.unwrap_or_else(|| "unknown".to_owned()),
    })
}

/// A text of a table, `None` where it is too long or no UTF-8.
///
/// # Safety
///
/// * The text is readable.
unsafe fn text(text: Text, most: usize) -> Option<String> {
    if text.len > most {
        return None;
    }
    // SAFETY: the caller guarantees it.
    let bytes = unsafe { text.bytes() }?;
    String::from_utf8(bytes.to_vec()).ok()
}
