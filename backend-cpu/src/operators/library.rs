//! libtorch, where the process has it loaded: found by name, used by its exported symbols.
//!
//! Nothing is linked and nothing is loaded: a process without libtorch stays one.
#![expect(unsafe_code, reason = "symbols of a foreign library have no types of their own")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use super::layout::RecordFunctionCallback;

/// The file that holds the operators.
const FILE: &str = "libtorch_cpu.so";

/// The oldest release whose layouts were looked at.
const OLDEST: (u32, u32) = (2, 8);

type AddGlobalCallback = unsafe extern "C" fn(RecordFunctionCallback) -> u64;
type RemoveCallback = unsafe extern "C" fn(u64);
type Name = unsafe extern "C" fn(*const u8) -> *const c_char;
type NumInputs = unsafe extern "C" fn(*const u8) -> usize;
type CurrentThreadId = unsafe extern "C" fn() -> u64;
type GetSizes = unsafe extern "C" fn(*const c_void, *mut *const i64) -> i32;
type GetDim = unsafe extern "C" fn(*const c_void, *mut i64) -> i32;
type GetDtype = unsafe extern "C" fn(*const c_void, *mut i32) -> i32;

/// What is called in libtorch.
#[derive(Clone, Copy)]
pub(super) struct Symbols {
    pub(super) add_global_callback: AddGlobalCallback,
    pub(super) remove_callback: RemoveCallback,
    pub(super) name: Name,
    pub(super) num_inputs: NumInputs,
    pub(super) current_thread_id: CurrentThreadId,
    /// What reads the shapes of inputs, where it is all there.
    pub(super) tensors: Option<TensorSymbols>,
}

/// What reads a tensor. A pointer to an `IValue` that holds one serves as its handle.
#[derive(Clone, Copy)]
pub(super) struct TensorSymbols {
    pub(super) sizes: GetSizes,
    pub(super) dim: GetDim,
    pub(super) dtype: GetDtype,
    /// What the plain ones among tensors begin with: the address of their class's functions.
    /// Others (undefined, nested, wrapped ones) may have no sizes, and say so by an exception that
    /// libtorch prints.
    pub(super) plain: usize,
}

/// libtorch as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The file.
    pub(super) path: PathBuf,
    /// Its version, where a file beside it tells.
    pub(super) version: Option<String>,
    /// How many copies are loaded; the first is used.
    pub(super) copies: usize,
}

/// Why operators cannot be recorded with what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LibraryError {
    #[error("libtorch {version} is too old: operators are recorded from 2.8 on")]
    TooOld { version: String },
    #[error("{path} exports no `{symbol}`: this libtorch is too old, or too new for this release")]
    NoSymbol { path: PathBuf, symbol: &'static str },
    #[error("{path} is listed as loaded and cannot be opened")]
    NotOpened { path: PathBuf },
}

/// How many libraries were ever loaded: where it stays, a look for libtorch finds nothing new.
pub(super) fn loads() -> u64 {
    let mut adds = 0u64;
    // SAFETY: the callback matches its type and `adds` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(take_adds), (&raw mut adds).cast()) };
    adds
}

/// Looks for libtorch among what is loaded.
pub(super) fn find() -> Option<Found> {
    let mut paths: Vec<PathBuf> = Vec::new();
    // SAFETY: the callback matches its type and `paths` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(take_path), (&raw mut paths).cast()) };
    let path = paths.first()?.clone();
    Some(Found { version: version_beside(&path), copies: paths.len(), path })
}

impl Found {
    /// Looks up what is needed of it.
    ///
    /// Waits while another thread loads a library.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] where this libtorch cannot be used.
    pub(super) fn symbols(&self) -> Result<Symbols, LibraryError> {
        if let Some(version) = &self.version
            && numbers(version).is_some_and(|found| found < OLDEST)
        {
            return Err(LibraryError::TooOld { version: version.clone() });
        }
        let not_opened = || LibraryError::NotOpened { path: self.path.clone() };
        let name = self.path.to_str().and_then(|path| CString::new(path).ok());
        let name = name.ok_or_else(not_opened)?;
        // SAFETY: the name ends in a zero; with RTLD_NOLOAD no code of the library runs.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
        // The handle is never closed: threads may run our callbacks for as long as they live.
        let library = Library(NonNull::new(handle).ok_or_else(not_opened)?);
        let need = |symbol: &'static CStr, text: &'static str| {
            let found = library.symbol(symbol);
            found.ok_or(LibraryError::NoSymbol { path: self.path.clone(), symbol: text })
        };
        let add = need(
            c"_ZN2at17addGlobalCallbackENS_22RecordFunctionCallbackE",
            "at::addGlobalCallback",
        )?;
        let remove = need(c"_ZN2at14removeCallbackEm", "at::removeCallback")?;
        let name = need(c"_ZNK2at14RecordFunction4nameEv", "at::RecordFunction::name")?;
        let inputs =
            need(c"_ZNK2at14RecordFunction10num_inputsEv", "at::RecordFunction::num_inputs")?;
        let thread = need(
            c"_ZN2at14RecordFunction15currentThreadIdEv",
            "at::RecordFunction::currentThreadId",
        )?;
        Ok(Symbols {
            // SAFETY: the mangled name tells the parameters; the callback is passed by value.
            add_global_callback: unsafe { function::<AddGlobalCallback>(add) },
            // SAFETY: the mangled name tells the parameter, a handle of 64 bits.
            remove_callback: unsafe { function::<RemoveCallback>(remove) },
            // SAFETY: a method without parameters takes the object alone.
            name: unsafe { function::<Name>(name) },
            // SAFETY: as above.
            num_inputs: unsafe { function::<NumInputs>(inputs) },
            // SAFETY: a static function without parameters.
            current_thread_id: unsafe { function::<CurrentThreadId>(thread) },
            tensors: library.tensor_symbols(),
        })
    }
}

struct Library(NonNull<c_void>);

impl Library {
    fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: the handle is open and never closed, the name ends in a zero.
        NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
    }

    fn tensor_symbols(&self) -> Option<TensorSymbols> {
        let sizes = self.symbol(c"aoti_torch_get_sizes")?;
        let dim = self.symbol(c"aoti_torch_get_dim")?;
        let dtype = self.symbol(c"aoti_torch_get_dtype")?;
        // A data symbol of libc10, which libtorch_cpu depends on. Objects point past its two heads.
        let class = self.symbol(c"_ZTVN3c1010TensorImplE")?;
        Some(TensorSymbols {
            // SAFETY: libtorch's stable C interface declares it so (inductor/aoti_torch/c/shim.h).
            sizes: unsafe { function::<GetSizes>(sizes) },
            // SAFETY: as above.
            dim: unsafe { function::<GetDim>(dim) },
            // SAFETY: as above.
            dtype: unsafe { function::<GetDtype>(dtype) },
            plain: class.as_ptr() as usize + 2 * size_of::<usize>(),
        })
    }
}

/// A symbol as a function.
///
/// # Safety
///
/// * `F` is the type of the function that stands at the symbol.
unsafe fn function<F: Copy>(symbol: NonNull<c_void>) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: both are as large as a pointer; the caller guarantees the type.
    unsafe { std::mem::transmute_copy(&symbol) }
}

unsafe extern "C" fn take_adds(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    adds: *mut c_void,
) -> c_int {
    // SAFETY: the C library gives a valid entry for the time of the call.
    let count = unsafe { (*info).dlpi_adds };
    // SAFETY: `loads` passes its number.
    unsafe { adds.cast::<u64>().write(count) };
    // Every entry tells the same number.
    1
}

unsafe extern "C" fn take_path(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    paths: *mut c_void,
) -> c_int {
    // SAFETY: the C library gives a valid entry for the time of the call.
    let name = unsafe { (*info).dlpi_name };
    if name.is_null() {
        return 0;
    }
    // SAFETY: the C library gives a text that ends in a zero.
    let name = unsafe { CStr::from_ptr(name) };
    if let Ok(name) = name.to_str()
        && Path::new(name).file_name().is_some_and(|file| file == FILE)
    {
        // SAFETY: `find` passes its list, which nobody else uses meanwhile.
        unsafe { (*paths.cast::<Vec<PathBuf>>()).push(PathBuf::from(name)) };
    }
    0
}

/// The version, as PyTorch's package (`version.py`) or the archive of libtorch (`build-version`)
/// says.
fn version_beside(library: &Path) -> Option<String> {
    let root = library.parent()?.parent()?;
    let text = match std::fs::read_to_string(root.join("version.py")) {
        Ok(text) => text,
        Err(_) => {
            return Some(
                std::fs::read_to_string(root.join("build-version")).ok()?.trim().to_owned(),
            );
        }
    };
    version_of_python(&text)
}

fn version_of_python(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("__version__"))?;
    let version = line.split(['\'', '"']).nth(1)?;
    (!version.is_empty()).then(|| version.to_owned())
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_their_files_have_them() {
        let text = "from typing import Optional\n\n__all__ = ['x']\n__version__ = '2.11.0+cu130'\n";
        assert_eq!(version_of_python(text).as_deref(), Some("2.11.0+cu130"));
        assert_eq!(version_of_python("__version__ = ''"), None);
        assert_eq!(version_of_python("nothing"), None);
        assert_eq!(numbers("2.11.0+cu130"), Some((2, 11)));
        assert_eq!(numbers("2.8"), Some((2, 8)));
        assert_eq!(numbers("main"), None);
    }

    #[test]
    fn a_version_too_old_is_refused_by_its_number() {
        let found = |version: &str| Found {
            path: "/nowhere/libtorch_cpu.so".into(),
            version: Some(version.to_owned()),
            copies: 1,
        };
        let error = found("2.7.1").symbols().err();
        assert_eq!(error, Some(LibraryError::TooOld { version: "2.7.1".to_owned() }));
        let error = found("2.8.0").symbols().err();
        assert!(matches!(error, Some(LibraryError::NotOpened { .. })), "{error:?}");
    }

    #[test]
    fn a_process_without_libtorch_has_none() {
        assert_eq!(find(), None);
        assert!(loads() > 0);
    }
}
