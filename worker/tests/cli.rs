//! The command line where no server is needed: exit codes, errors, configuration, retention.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli_support;

use cli_support::{Place, Ran, Serving, skipped};
use profiler_core::trace_path::{SessionId, TraceRoot};
use serde_json::{Value, json};

#[test]
fn help_tells_commands_and_exit_codes() {
    let place = Place::new();
    let mut text = place.run(&["--help"]).out;
    for command in [
        "serve",
        "start",
        "stop",
        "status",
        "list",
        "export",
        "summary",
        "merge",
        "recover",
        "prune",
        "doctor",
        "config",
        "completions",
    ] {
        let ran = place.run(&[command, "--help"]);
        assert_eq!(ran.code, Some(0), "{ran}");
        text.push_str(&format!("\n==== {command}\n{}", ran.out));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn wrong_arguments_are_usage() {
    let place = Place::new();
    for words in [
        &["no-such-command"][..],
        &[],
        &["export"],
        &["start", "--duration", "5"],
        &["start", "--stages", "one"],
        &["start", "--start-step", "1", "--delay-iterations", "1"],
        &["stop", "--wait", "-1s"],
        &["completions", "tcsh"],
    ] {
        assert_eq!(place.run(words).code, Some(2), "{words:?}");
    }
    place.run(&["export", "a", "-f", "pftrace.gz"]).failed(2, "did you mean `pftrace-gz`?");
    place.run(&["export", "a", "b"]).failed(2, "name it with `--output`");
    let backwards = ["export", "a", "--from", "2s", "--to", "1s"];
    place.run(&backwards).failed(2, "`--from` is not before `--to`");
    place.run(&["recover", "--dir", ".", "../x"]).failed(2, "is no session id");
}

#[test]
fn nothing_there_is_code_three() {
    let place = Place::new();
    place.run(&["list"]).failed(3, "omniprof-traces does not exist");
    place.run(&["prune"]).failed(3, "omniprof-traces does not exist");
    place.run(&["recover"]).failed(3, "omniprof-traces does not exist");
    place.run(&["summary"]).failed(3, "omniprof-traces does not exist");
    place.run(&["export", "missing.spool"]).failed(3, "missing.spool does not exist");
    place.run(&["summary", "missing.spool"]).failed(3, "names no spool and no session");
    // Port 9 is `discard`, which nobody serves.
    let refused = place.run(&["status", "--server", "http://127.0.0.1:9"]);
    refused.failed(3, "start a server with `omniprof serve`");
    let root = TraceRoot::create(&place.join("omniprof-traces")).unwrap();
    place.run(&["summary"]).failed(3, "holds no session");
    let id = "20260101T000000000Z-aaaaaaaa";
    place.run(&["recover", id]).failed(3, id);
    assert_eq!(root.session_ids().unwrap(), [], "looking makes nothing");
}

#[test]
fn a_file_that_is_no_spool_is_an_error_and_leaves_nothing() {
    let place = Place::new();
    for (name, bytes) in [("empty.spool", ""), ("text.spool", "not a spool at all\n")] {
        place.write(name, bytes);
        let ran = place.run(&["export", name]);
        assert_eq!(ran.code, Some(1), "{ran}");
        assert!(ran.err.contains(name), "{ran}");
        assert_eq!(place.run(&["summary", name]).code, Some(1));
    }
    let names: Vec<_> = std::fs::read_dir(place.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn completions_are_scripts() {
    let place = Place::new();
    for (shell, part) in
        [("bash", "_omniprof()"), ("zsh", "#compdef omniprof"), ("fish", "complete -c omniprof")]
    {
        let ran = place.run(&["completions", shell]);
        assert_eq!(ran.code, Some(0), "{ran}");
        assert!(ran.out.contains(part), "{shell}");
        assert!(ran.out.contains("summary"), "{shell}");
    }
}

#[test]
fn the_configuration_tells_where_each_value_comes_from() {
    let place = Place::new();
    place.write("omniprof.toml", "[profiler_config]\nsample_hz = 49\ncounter_hz = 5\n");
    place.write(
        "deploy.yaml",
        "stages:\n- stage_id: 0\n  profiler_config:\n    profiler: torch\n    torch_profiler_dir: traces\n    torch_profiler_with_flops: true\n    warmup_iterations: 2\n",
    );
    let words = ["config", "--deploy-config", "deploy.yaml"];
    let variables = [("OMNIPROF_COUNTER_HZ", "7"), ("OMNIPROF_COUNTRE_HZ", "8")];
    let ran = place.run_with(&variables, &words);
    assert_eq!(ran.code, Some(0), "{ran}");
    insta::assert_snapshot!(ran.out);

    let words = ["config", "--deploy-config", "deploy.yaml", "--json"];
    let document = place.run_with(&variables, &words).json(0);
    assert_eq!(document["root"], "traces");
    assert_eq!(document["all"]["given"]["sample_hz"]["origin"], "omniprof.toml [profiler_config]");
    assert_eq!(document["all"]["effective"]["session"]["counter_hz"], 7);
    let refused = &document["stages"]["0"]["refused"][0];
    assert_eq!(refused["field"], "torch_profiler_with_flops");
    assert_eq!(document["unknown_variables"], json!(["OMNIPROF_COUNTRE_HZ"]));

    let dir = place.run_with(&[("OMNIPROF_DIR", "/from/env")], &["config", "--json"]).json(0);
    assert_eq!((&dir["root"], &dir["root_origin"]), (&json!("/from/env"), &json!("OMNIPROF_DIR")));
    let words = ["config", "--json", "--dir", "/from/flag"];
    let dir = place.run_with(&[("OMNIPROF_DIR", "/from/env")], &words).json(0);
    assert_eq!((&dir["root"], &dir["root_origin"]), (&json!("/from/flag"), &json!("--dir")));
}

#[test]
fn a_wrong_configuration_is_usage_and_names_the_place() {
    let place = Place::new();
    let wrong = ["config", "--profiler-config", "{\"with_stck\": true}"];
    place.run(&wrong).failed(2, "--profiler-config: there is no field `with_stck` (did you mean");
    place.run(&["config", "--config", "missing.toml"]).failed(2, "reading missing.toml");
    let set = [("OMNIPROF_SAMPLE_HZ", "0")];
    place.run_with(&set, &["config"]).failed(2, "OMNIPROF_SAMPLE_HZ: field `sample_hz` is 0");
    place.write("omniprof.toml", "[profiler_config]\npreset = 3\n");
    place.run(&["list"]).failed(2, "omniprof.toml [profiler_config]: field `preset` takes one of");
}

#[test]
fn a_server_says_what_it_does_not_apply() {
    let place = Place::new();
    let config = r#"{"profiler": "torch", "torch_profiler_with_flops": true}"#;
    let words = ["serve", "--listen", "0.0.0.0:0", "--profiler-config", config];
    let ran = place.run_with(&[("OMNIPROF_SAMPEL_HZ", "1")], &words);
    ran.failed(2, "`torch_profiler_with_flops` = true is not applied: operations are not counted");
    assert!(ran.err.contains("the variable OMNIPROF_SAMPEL_HZ means nothing"), "{ran}");
    let findings = place.run(&["doctor", "--profiler-config", config]);
    assert!(findings.out.contains("`torch_profiler_with_flops` = true is not applied"));
}

#[test]
fn every_field_is_told() {
    let place = Place::new();
    let ran = place.run(&["config", "--fields"]);
    let document = place.run(&["config", "--fields", "--json"]).json(0);
    for field in profiler_core::config::FIELDS {
        assert!(ran.out.contains(&format!("{}: ", field.name)), "{}", field.name);
    }
    assert_eq!(document.as_array().unwrap().len(), profiler_core::config::FIELDS.len());
}

/// A root with three dead sessions of 1000 bytes, oldest first.
fn three_sessions(place: &Place) -> Vec<String> {
    let root = TraceRoot::create(&place.join("omniprof-traces")).unwrap();
    let mut ids = Vec::new();
    for second in 0..3_u64 {
        let id = SessionId::from_parts((1_800_000_000 + second) * 1_000_000_000, second, None);
        let session = root.create_session(&id).unwrap();
        session.write("manifest.json", &[b' '; 1000]).unwrap();
        ids.push(id.to_string());
    }
    ids
}

fn listed(place: &Place) -> Vec<String> {
    let listing = place.run(&["list", "--json"]).json(0);
    let sessions = listing["sessions"].as_array().unwrap();
    sessions.iter().map(|line| line["session"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn retention_removes_the_oldest_and_a_dry_run_nothing() {
    let place = Place::new();
    let ids = three_sessions(&place);
    assert_eq!(listed(&place), ids);
    let planned = place.run(&["prune", "--max-sessions", "1", "--dry-run", "--json"]).json(0);
    assert_eq!(planned["removed"], json!(ids[..2]));
    assert_eq!((&planned["dry_run"], &planned["kept"]), (&json!(true), &json!(1)));
    assert_eq!(listed(&place), ids, "a dry run removes nothing");
    let text = place.run(&["prune", "--max-sessions", "1", "--dry-run"]).out;
    assert!(text.contains(&format!("would remove {}", ids[0])), "{text}");

    place.write("omniprof.toml", "[retention]\nmax_bytes = 2000\n");
    let removed = place.run(&["prune", "--json"]).json(0);
    assert_eq!(removed["removed"], json!(ids[..1]));
    assert_eq!(removed["removed_bytes"], 1000);
    assert_eq!(listed(&place), ids[1..]);
    let again = place.run(&["prune", "--json"]).json(0);
    assert_eq!(again["removed"], json!([]));
}

#[test]
fn a_root_is_listed_for_people_and_programs() {
    let place = Place::new();
    let ids = three_sessions(&place);
    std::fs::create_dir(place.join("omniprof-traces/something-else")).unwrap();
    let ran = place.run(&["list"]);
    assert_eq!(ran.code, Some(0), "{ran}");
    assert!(ids.iter().all(|id| ran.out.contains(id.as_str())), "{ran}");
    assert!(!ran.out.contains("something-else"));
    assert!(ran.out.contains("3 in ") && ran.out.contains("2.9 KiB"), "{ran}");
}

#[test]
fn doctor_finds_what_is_wrong() {
    let place = Place::new();
    let findings = place.run(&["doctor", "--json"]).json(0);
    let find = |findings: &Value, check: &str| {
        let findings = findings.as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check}")).clone()
    };
    for check in ["versions", "clock", "perf events", "backend cpu", "traces", "socket", "exporter"]
    {
        assert!(find(&findings, check)["found"].as_str().is_some_and(|text| !text.is_empty()));
    }

    place.write("file", "");
    let findings = place.run(&["doctor", "--json", "--dir", "file"]).json(1);
    assert_eq!(find(&findings, "traces")["verdict"], "bad");
    let relative = [("OMNIPROF_SOCKET", "relative/dir")];
    let findings = place.run_with(&relative, &["doctor", "--json"]).json(1);
    assert_eq!(find(&findings, "socket")["verdict"], "bad");
    let ran = place.run_with(&relative, &["doctor"]);
    assert!(ran.out.contains("BAD") && ran.out.contains("is not absolute"), "{ran}");
}

#[test]
fn a_server_needs_a_token_where_others_reach_it() {
    let place = Place::new();
    place.run(&["serve", "--listen", "0.0.0.0:0"]).failed(2, "give a token with --token-file");
    place.run(&["serve", "--listen", "everywhere"]).failed(2, "is no address to listen at");
    assert!(!place.join("omniprof-traces").exists(), "a refused server makes no root");
    place.write("short", "abc\n");
    place.run(&["serve", "--listen", "127.0.0.1:0", "--token-file", "short"]).failed(2, "token");
    place.write("lines", "abcdefghijklmnop\nqrst\n");
    let lines = ["serve", "--listen", "127.0.0.1:0", "--token-file", "lines"];
    place.run(&lines).failed(2, "one line of printable ASCII");

    place.write("token", "correct-horse-battery\n");
    place.write("other", "incorrect-horse-battery\n");
    let serving = Serving::start(&place, &["--token-file", "token"]);
    let status = ["status", "--json", "--server", serving.url.as_str()];
    place.run(&status).failed(2, "is `--token-file` right?");
    place.run(&[&status[..], &["--token-file", "other"]].concat()).failed(2, "is `--token-file`");
    let answer = place.run(&[&status[..], &["--token-file", "token"]].concat()).json(0);
    assert_eq!(answer["workers"], json!([]));
    assert!(serving.end().success());
}

#[test]
fn a_root_has_one_server_and_is_found_by_it() {
    let place = Place::new();
    let serving = Serving::start(&place, &[]);
    let second = ["serve", "--listen", "127.0.0.1:0"];
    place.run(&second).failed(5, "has a live controller");
    let answer = place.run(&["status", "--json"]).json(0);
    assert_eq!(answer["root"], json!(serving.root));
    let other = ["serve", "--dir", "other", "--listen", serving.url.as_str()];
    place.run(&other).failed(5, "cannot listen on");
    place.run(&["start"]).failed(3, "no worker has joined");
    place.run(&["start", "--prefix", "a/b"]).failed(2, "never a path");
    place.run(&["stop"]).failed(3, "no session");
    place.run(&["prune"]).failed(5, "which prunes it itself");
    place.run(&["recover"]).failed(5, "which recovers by itself");
    assert_eq!(place.run(&["prune", "--dry-run"]).code, Some(0));
    assert!(serving.end().success());
    assert_eq!(place.run(&["recover"]).code, Some(0), "nobody holds the root any more");
}

/// Runs `omniprof` with a file system of its own mounted at `root`; `None` where this user may not
/// mount one.
fn run_on_mount(place: &Place, options: &str, words: &str) -> Option<Ran> {
    std::fs::create_dir(place.join("root")).unwrap();
    let omniprof = env!("CARGO_BIN_EXE_omniprof");
    let script = format!(
        "mount -t tmpfs -o {options} none root 2>/dev/null || exit 77; exec {omniprof} {words}"
    );
    let ran = place.run_program("unshare", &["--map-root-user", "--mount", "sh", "-c", &script]);
    (ran.code != Some(77) && !ran.err.starts_with("unshare:")).then_some(ran)
}

#[test]
fn a_read_only_root_is_told() {
    let place = Place::new();
    let serve = "serve --listen 127.0.0.1:0 --dir root";
    match run_on_mount(&place, "ro,mode=700", serve) {
        Some(ran) => ran.failed(1, "is on a read-only file system: give another directory"),
        None => skipped("this user may mount nothing"),
    }
}

#[test]
fn a_full_root_is_told() {
    let place = Place::new();
    let serve = "serve --listen 127.0.0.1:0 --dir root";
    // One inode is the root itself: none is left for anything in it.
    match run_on_mount(&place, "nr_inodes=1,mode=700", serve) {
        Some(ran) => ran.failed(1, "no space is left for"),
        None => skipped("this user may mount nothing"),
    }
}

#[test]
fn a_root_of_another_owner_or_open_to_all_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let open = place.join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let words = ["serve", "--listen", "127.0.0.1:0", "--dir", "open"];
    place.run(&words).failed(1, "everybody may write into");
    assert_eq!(open.read_dir().unwrap().count(), 0);
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&open, Some(12_345), None).unwrap();
        place.run(&words).failed(1, "belongs to user 12345");
        assert_eq!(open.read_dir().unwrap().count(), 0);
    }
}

#[test]
#[cfg(feature = "demo")]
fn the_demo_is_configured_as_a_server_is() {
    let place = Place::new();
    place.run(&["demo", "--profiler-config", "{oops"]).failed(2, "--profiler-config");
    let variable = [("OMNIPROF_MIN_FREE_PERCENT", "plenty")];
    place.run_with(&variable, &["demo"]).failed(2, "OMNIPROF_MIN_FREE_PERCENT");
    place.write("omniprof.toml", "sample_herz = 49\n");
    place.run(&["demo"]).failed(2, "sample_herz");
    assert!(!place.join("omniprof-traces").exists(), "nothing was begun");
}
