//! The worked example in `docs/write-a-backend.md` is the null backend's source.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

#[test]
fn the_worked_example_is_the_source() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(here.join("src/null.rs")).unwrap();
    let page = std::fs::read_to_string(here.join("../docs/write-a-backend.md")).unwrap();
    let blocks: Vec<&str> = page
        .split("```rust null\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
        .collect();
    assert!(blocks.len() >= 3, "the page shows the backend, its sessions and their calls");
    for block in blocks {
        assert!(source.contains(block), "not in null.rs:\n{block}");
    }
}
