//! The file is never unloaded: a thread of ours runs in it, and NVTX keeps its callbacks.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
