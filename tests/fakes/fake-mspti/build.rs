//! Compiles the records.

fn main() {
    println!("cargo::rerun-if-changed=src/records.c");
    println!("cargo::rerun-if-changed=src/records.h");
    cc::Build::new()
        .file("src/records.c")
        .opt_level(2)
        .warnings(true)
        .compile("fake_mspti_records");
}
