//! Libraries of CANN's, and libtorch_npu: copied under each of their names, they have the functions
//! that are looked for.

#![expect(unsafe_code, reason = "exports C names")]

pub mod aclprof;
pub mod torch;

use std::ffi::c_int;

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> c_int {
                0
            }
        )*
    };
}

functions! {
    /// Of libprofapi.
    MsprofRegisterProfileCallback;
    /// Of libprofapi.
    profSetProfCommand;
    /// Of libascendalog.
    CheckLogLevelForC;
    /// Of libascendalog.
    DlogInnerForC;
    /// Of libascend_hal.
    halGetAPIVersion;
    /// Of libascend_hal.
    prof_drv_start;
}

/// Of libascend_hal: one device.
///
/// # Safety
///
/// `count` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drvGetDevNum(count: *mut u32) -> c_int {
    // SAFETY: the caller's duty.
    unsafe { *count = 1 };
    0
}
