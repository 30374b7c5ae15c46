//! What `omniprof doctor` says of plugins.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli_support;

use std::os::unix::fs::PermissionsExt as _;

use cli_support::Place;
use serde_json::Value;

fn finding(findings: &Value, check: &str) -> Value {
    let findings = findings.as_array().unwrap();
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {findings:?}")).clone()
}

#[test]
fn a_plugin_that_is_not_used_is_told_with_the_reason() {
    let place = Place::new();
    let library = place.write("libomniprof_backend_mine.so", "no library");
    let dir = place.path().to_str().unwrap().to_owned();
    let words = ["doctor", "--json", "--plugin-dir", &dir];
    let plugin = finding(&place.run(&words).json(1), "plugin");
    assert_eq!(plugin["verdict"], "bad");
    let found = plugin["found"].as_str().unwrap();
    assert!(found.contains("libomniprof_backend_mine.so") && found.contains("[not_loadable]"));

    // The variable says the same, and what others may write is not even opened.
    std::fs::set_permissions(&library, std::fs::Permissions::from_mode(0o666)).unwrap();
    let ran = place.run_with(&[("OMNIPROF_PLUGIN_DIR", &dir)], &["doctor", "--json"]);
    let found = finding(&ran.json(1), "plugin")["found"].as_str().unwrap().to_owned();
    assert!(found.contains("[writable_by_others]"), "{found}");

    let relative = place.run(&["doctor", "--json", "--plugin-dir", "plugins"]).json(1);
    let found = finding(&relative, "plugin")["found"].as_str().unwrap().to_owned();
    assert!(found.contains("[relative_path]"), "{found}");
}
