//! The backends that are linked are those of the features.

use profiler_core::registry::BackendRegistry;

#[test]
fn the_registry_holds_the_backends_of_the_features() {
    // Something of the agent must be used, or it is not linked either.
    assert!(profiler_agent::Agent::current().is_none());
    let mut expected: Vec<&str> = Vec::new();
    if cfg!(feature = "cuda") {
        expected.push("cuda");
    }
    if cfg!(feature = "npu") {
        expected.push("npu");
    }
    if cfg!(feature = "cpu") {
        expected.push("cpu");
    }
    let registry = BackendRegistry::linked();
    let mut found: Vec<String> = registry.iter().map(|b| b.id().to_string()).collect();
    found.sort();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
