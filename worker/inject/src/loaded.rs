//! What is loaded in the process.
#![expect(unsafe_code, reason = "dladdr and dl_iterate_phdr")]

use std::ffi::{CStr, c_int, c_void};

/// Gives `take` the path of each library that is loaded.
pub(crate) fn libraries<F: FnMut(&CStr)>(mut take: F) {
    unsafe extern "C" fn each<F: FnMut(&CStr)>(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        take: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader gives a description that lives for the call.
        let name = unsafe { (*info).dlpi_name };
        if !name.is_null() {
            // SAFETY: the loader's names end with a zero.
            let name = unsafe { CStr::from_ptr(name) };
            // SAFETY: it is the closure that was handed to the loader below, used here alone.
            let take = unsafe { &mut *take.cast::<F>() };
            take(name);
        }
        0
    }
    // SAFETY: the callback gets the closure that it is made for, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(each::<F>), (&raw mut take).cast()) };
}

/// The path by which the loader knows this file.
pub(crate) fn own_path() -> Option<String> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let address = own_path as *const c_void;
    // SAFETY: the address is one of this file; the answer goes to a local value.
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: the call succeeded and has filled it.
    let name = unsafe { info.assume_init() }.dli_fname;
    if name.is_null() {
        return None;
    }
    // SAFETY: the loader's names end with a zero and stay for as long as the file is loaded.
    Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}
