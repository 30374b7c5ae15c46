//! The stand-in has the driver's name: whoever asks the loader for `libcuda.so.1` finds it.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
}
