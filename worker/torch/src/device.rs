//! The device that tensors lie on.
#![expect(unsafe_code, reason = "opens a library, whose constructors run")]

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device, Kind, Tensor};

/// libtorch's CUDA part, which registers itself as it is opened.
const CUDA_PART: &str = "libtorch_cuda.so";

/// The GPU whose turn it is where there are some, else the processors. Must come before any other
/// call of libtorch, which looks once for its CUDA part.
///
/// # Errors
///
/// libtorch cannot make a tensor there.
pub(crate) fn pick(nth: u32) -> anyhow::Result<Device> {
    // SAFETY: the file is the one beside the libtorch that this program is linked with (it is
    // found by the same path), and made to be opened so; Python does the same.
    let opened = unsafe { Library::open(Some(CUDA_PART), RTLD_NOW | RTLD_GLOBAL) };
    if let Ok(library) = opened {
        // libtorch holds pointers into it from now on: it must never be closed.
        let _never_closed = library.into_raw();
    }
    let device = match Cuda::device_count() {
        count @ 1.. if Cuda::is_available() => {
            Device::Cuda(usize::try_from(i64::from(nth) % count)?)
        }
        _ => Device::Cpu,
    };
    // A device that is there and does not work shows here and not in the midst of a request.
    let _works = Tensor::f_zeros([1], (Kind::Float, device))?;
    Ok(device)
}
