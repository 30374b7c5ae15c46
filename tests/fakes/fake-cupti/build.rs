//! Compiles the records.

fn main() {
    println!("cargo::rerun-if-changed=src/records.c");
    cc::Build::new().file("src/records.c").warnings(true).compile("fake_cupti_records");
}
