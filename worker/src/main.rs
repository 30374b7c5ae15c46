//! The `omniprof` command.
fn main() {}
