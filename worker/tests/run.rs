//! `omniprof run` over real commands: what they get, how they end, what is recorded of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli_support;
mod run_support;

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use cli_support::{Place, Serving, skipped, until};
use run_support::{Running, get, has_python, post, post_as, post_with_status, python_server};
use rustix::process::Signal;

/// A command that stays until it is told to end.
const STAY: &[&str] =
    &["sh", "-c", "trap 'exit 9' TERM; echo ready 0; while :; do sleep 0.05; done"];

#[test]
fn the_commands_output_and_exit_code_are_its_own() {
    let place = Place::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
    {
        let script = format!("echo said; echo shouted >&2; {script}");
        let ran = place.run(&["run", "--listen", "127.0.0.1:0", "--", "/bin/sh", "-c", &script]);
        assert_eq!(ran.code, Some(code), "{ran}");
        assert_eq!(ran.out, "said\n", "standard output is the command's alone");
        assert!(ran.err.contains("shouted\n") && ran.err.contains("/start_profile"), "{ran}");
        assert!(ran.err.contains("nothing was recorded"), "{ran}");
    }
}

#[test]
fn a_command_that_cannot_be_started_is_told_as_a_shell_tells_it() {
    let place = Place::new();
    let plain = place.write("plain", "no program");
    for (program, code) in [("/nowhere/at/all", 127), (plain.to_str().unwrap(), 126)] {
        let ran = place.run(&["run", "--listen", "127.0.0.1:0", "--", program]);
        assert_eq!(ran.code, Some(code), "{ran}");
        assert!(ran.err.contains(program), "{ran}");
    }
    let ran = place.run(&["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(ran.code, Some(2), "{ran}");
    let ran = place.run(&["run", "--map", "title:(?<shard>x)", "--", "true"]);
    ran.failed(2, "\"shard\"");
}

#[test]
fn the_environment_is_the_callers_and_what_is_told() {
    let place = Place::new();
    let words = [
        "run",
        "--listen",
        "127.0.0.1:0",
        "--stage",
        "1",
        "--role",
        "talker",
        "--plugin-dir",
        "plugins",
        "--",
        "/usr/bin/env",
    ];
    let ran = place.run_with(&[("MARK", "kept"), ("CUDA_INJECTION64_PATH", "/other.so")], &words);
    assert_eq!(ran.code, Some(0), "{ran}");
    let has = |line: &str| ran.out.lines().any(|known| known == line);
    assert!(has("MARK=kept") && has("OMNIPROF_STAGE=1") && has("OMNIPROF_ROLE=talker"), "{ran}");
    assert!(has("CUDA_INJECTION64_PATH=/other.so"), "what is set already stays: {ran}");
    assert!(ran.out.contains("OMNIPROF_SOCKET=/"), "{ran}");
    // Agents take absolute paths alone.
    let plugins = place.join("plugins");
    assert!(has(&format!("OMNIPROF_PLUGIN_DIR={}", plugins.display())), "{ran}");
}

#[test]
fn the_file_that_joins_is_named_where_it_is_found() {
    let place = Place::new();
    std::fs::create_dir(place.join("bin")).unwrap();
    let file = place.write("bin/libomniprof_inject.so", "stands in for the file");
    let bin = place.join("bin");
    let variables = [("OMNIPROF_BIN_DIR", bin.to_str().unwrap())];
    let ran = place.run_with(&variables, &["run", "--listen", "127.0.0.1:0", "--", "/usr/bin/env"]);
    let line = format!("CUDA_INJECTION64_PATH={}\n", file.display());
    assert!(ran.out.contains(&line), "{ran}");
    assert!(!ran.out.contains("LD_PRELOAD"), "{ran}");

    // Preloaded, the stand-in is refused by the loader, which says so and goes on.
    let words = ["run", "--listen", "127.0.0.1:0", "--join", "preload", "--", "/usr/bin/env"];
    let ran = place.run_with(&variables, &words);
    assert!(ran.out.contains(&format!("LD_PRELOAD={}\n", file.display())), "{ran}");
    assert_eq!(ran.code, Some(0), "{ran}");
}

#[test]
fn a_taken_address_is_told_and_the_command_is_not_started() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mark = place.join("started");
    let script = format!("touch {}", mark.display());
    let ran = place.run(&["run", "--listen", &address, "--", "/bin/sh", "-c", &script]);
    ran.failed(5, "--listen 127.0.0.1:0");
    assert!(ran.err.contains(&format!("--server http://{address}")), "{ran}");
    assert!(!mark.exists());
}

#[test]
fn signals_reach_the_command() {
    let place = Place::new();
    for (signal, script, code) in [
        (Signal::TERM, "trap 'exit 21' TERM", 21),
        (Signal::USR1, "trap 'exit 22' USR1", 22),
        (Signal::HUP, "trap 'exit 23' HUP", 23),
        (Signal::INT, "trap 'exit 24' INT", 24),
        // Nobody handles it: the command dies of it, and the launcher says so by its code.
        (Signal::TERM, "true", 143),
    ] {
        if is_ignored(signal) {
            skipped(&format!(
                "{signal:?} is ignored here, as under nohup, and no shell can trap it"
            ));
            continue;
        }
        let script = format!("{script}; echo ready 0; while :; do sleep 0.05; done");
        let run = Running::start(&place, &[], &["/bin/sh", "-c", &script]);
        run.signal(signal);
        let ended = run.ended();
        assert_eq!(ended.code, Some(code), "{signal:?}: {ended}");
    }
}

/// Whether this process, and so its children, ignore the signal.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    mask & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn ctrl_c_reaches_the_command_once() {
    if !has_python() {
        return skipped("no python3");
    }
    let place = Place::new();
    // A terminal of its own, whose key reaches the whole foreground group.
    let script = r#"
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
while b"here I am" not in seen:
    seen += os.read(terminal, 4096)
os.write(terminal, b"\x03")
try:
    while True:
        data = os.read(terminal, 4096)
        if not data:
            break
        seen += data
except OSError:
    pass
_, status = os.waitpid(pid, 0)
print(seen.decode(), file=sys.stderr)
print(seen.decode().count("got INT"), os.waitstatus_to_exitcode(status))
"#;
    let command = r#"
import os, signal, sys, time
count = 0
def got(*_):
    global count
    count += 1
    os.write(1, b"got INT\n")
signal.signal(signal.SIGINT, got)
print("here I am", flush=True)
end = time.monotonic() + 30
while count == 0 and time.monotonic() < end:
    time.sleep(0.05)
time.sleep(1)
sys.exit(count)
"#;
    let program = env!("CARGO_BIN_EXE_omniprof");
    let words =
        ["-c", script, program, "run", "--listen", "127.0.0.1:0", "--", "python3", "-c", command];
    let ran = place.run_program("python3", &words);
    assert_eq!(ran.out.trim(), "1 1", "{ran}");
}

#[test]
fn a_server_of_vllms_shape_is_recorded_process_by_process() {
    if !has_python() {
        return skipped("no python3");
    }
    let place = Place::new();
    let server = python_server();
    let server = server.to_str().unwrap();
    let run =
        Running::start(&place, &[], &["python3", server, "--stages", "2", "--exit-code", "3"]);
    // Asked while the last stage is still on its way.
    let start = r#"{"stages": [1], "ranks": [0, 1], "wait_join_ms": 30000}"#;
    let begun = until("both ranks have joined", || {
        let answer = post(&run.url, "/start_profile", start);
        (answer["workers"].as_array().is_some_and(|workers| workers.len() == 2)).then_some(answer)
    });
    for (rank, worker) in begun["workers"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&worker["stage"], &worker["rank"]), (&1.into(), &rank.into()), "{begun}");
        assert_eq!(worker["role"], "Worker", "{begun}");
    }
    // The command's own interface, as anybody uses it.
    let said = get(&run.command_url(), "/generate");
    let workers = said["cores"][1]["workers"].as_array().unwrap();
    let status = get(&run.url, "/profile/status");
    let joined = |pid: &serde_json::Value| {
        let all = status["workers"].as_array().unwrap();
        all.iter().find(|worker| worker["pid"] == *pid).unwrap()["joined_by"].clone()
    };
    assert!(workers.iter().all(|pid| joined(pid) == "outside"), "{status}");
    let manifest = post(&run.url, "/stop_profile", r#"{"wait_ms": 30000}"#);
    let lines = manifest["workers"].as_array().unwrap();
    assert_eq!(lines.len(), 2, "{manifest}");
    for line in lines {
        assert!(workers.contains(&line["pid"]), "{manifest}");
        assert_eq!(line["state"], "complete", "{manifest}");
        assert!(line["records"]["counter"].as_u64().unwrap() > 0, "{manifest}");
    }
    run.signal(Signal::TERM);
    let ended = run.ended();
    assert_eq!(ended.code, Some(3), "{ended}");
    assert!(ended.out.contains("ended in order"), "{ended}");
    assert!(ended.err.contains("traces in ") && ended.err.contains("replica0.rank1"), "{ended}");
}

#[test]
fn a_capture_at_the_start_takes_in_what_comes_later() {
    let place = Place::new();
    let script = "echo ready 0; until [ -e go ]; do sleep 0.05; done; sleep 60 & \
                  until [ -e end ]; do sleep 0.05; done; kill $!";
    let words = ["--profile-at-start", "--stage", "0", "--role", "thinker"];
    let run = Running::start(&place, &words, &["/bin/sh", "-c", script]);
    run.wait_until_recorded();
    place.write("go", "");
    until("the second process is recorded", || {
        let status = get(&run.url, "/profile/status");
        (status["session"]["workers"].as_array().unwrap().len() == 2).then_some(())
    });
    place.write("end", "");
    let ended = run.ended();
    assert_eq!(ended.code, Some(0), "{ended}");
    let manifest = place.only_manifest();
    let workers = manifest["workers"].as_array().unwrap();
    let of = |program: &str| workers.iter().find(|worker| worker["program"] == program);
    assert_eq!(of("sh").unwrap()["late"], serde_json::Value::Null, "{manifest}");
    assert_eq!(of("sleep").unwrap()["late"], true, "{manifest}");
    assert!(workers.iter().all(|worker| worker["stage"] == 0 && worker["role"] == "thinker"));
    assert!(workers.iter().all(|worker| worker["state"] == "complete"), "{manifest}");
    let whole = |file: &serde_json::Value| {
        place.session_dir().join(file["path"].as_str().unwrap()).exists()
    };
    let files = workers.iter().flat_map(|worker| worker["files"].as_array().unwrap());
    assert!(files.clone().count() >= 4 && files.into_iter().all(whole), "{manifest}");
}

#[test]
fn a_duration_ends_the_capture_and_not_the_command() {
    let place = Place::new();
    let words = ["--profile-at-start", "--duration", "300ms"];
    let run = Running::start(&place, &words, STAY);
    until("the capture is over", || {
        let status = get(&run.url, "/profile/status");
        (status["session"].is_null() && status["last"]["stopped_by"] == "duration").then_some(())
    });
    run.signal(Signal::TERM);
    assert_eq!(run.ended().code, Some(9));
}

#[test]
fn operators_asked_of_a_process_that_is_looked_at_from_outside_are_missed_aloud() {
    let place = Place::new();
    let run = Running::start(&place, &[], STAY);
    let start = |body: &str| {
        until("the command has joined", || {
            let (status, answer) = post_with_status(&run.url, "/start_profile", body);
            answer["workers"].is_array().then_some((status, answer))
        })
    };
    let cases = [
        (r#"{"record_shapes": true}"#, 502),
        (r#"{"record_shapes": true, "on_unavailable": "degrade"}"#, 200),
        (r#"{"record_shapes": true, "allow_partial": true}"#, 200),
    ];
    for (body, wanted) in cases {
        let (status, answer) = start(body);
        assert_eq!(status, wanted, "{body}: {answer}");
        let error = &answer["workers"][0]["error"];
        assert_eq!(error["code"], "outside", "{body}: {answer}");
        assert!(error["message"].as_str().unwrap().contains("--join preload"), "{answer}");
        let stop = r#"{"wait_ms": 30000}"#;
        let (status, manifest) = post_with_status(&run.url, "/stop_profile", stop);
        assert_eq!(status, wanted, "{body}: {manifest}");
        assert_eq!(manifest["workers"][0]["state"], "degraded", "{body}: {manifest}");
    }
    run.signal(Signal::TERM);
    run.ended();
}

#[test]
fn a_command_that_runs_another_program_is_another_worker() {
    let place = Place::new();
    let script = "echo ready 0; until [ -e go ]; do sleep 0.05; done; exec sleep 60";
    let run = Running::start(&place, &["--profile-at-start"], &["/bin/sh", "-c", script]);
    run.wait_until_recorded();
    place.write("go", "");
    until("the second program has joined late", || {
        let status = get(&run.url, "/profile/status");
        let workers = status["workers"].as_array().unwrap();
        let recorded = status["session"]["workers"].as_array().map_or(0, Vec::len);
        (workers.iter().any(|worker| worker["program"] == "sleep") && recorded == 2).then_some(())
    });
    let manifest = post(&run.url, "/stop_profile", r#"{"wait_ms": 30000}"#);
    let lines = manifest["workers"].as_array().unwrap();
    assert_eq!(lines.len(), 2, "{manifest}");
    assert!(lines.iter().all(|line| line["pid"] == lines[0]["pid"]), "{manifest}");
    assert!(lines.iter().any(|line| line["stopped_by"] == "exec"), "{manifest}");
    assert!(lines.iter().all(|line| line["state"] == "complete"), "{manifest}");
    run.signal(Signal::KILL);
    run.end_orphans();
}

#[test]
fn a_command_that_is_killed_while_it_is_recorded_leaves_its_trace() {
    let place = Place::new();
    let run = Running::start(&place, &["--profile-at-start"], STAY);
    run_support::kill(run.wait_until_recorded());
    let ended = run.ended();
    assert_eq!(ended.code, Some(137), "{ended}");
    let manifest = place.only_manifest();
    assert_eq!(manifest["workers"][0]["stopped_by"], "process_exit", "{manifest}");
    assert_eq!(manifest["workers"][0]["state"], "complete", "{manifest}");
}

#[test]
fn the_command_outlives_its_launcher_and_the_next_server_finishes_the_capture() {
    let place = Place::new();
    let run = Running::start(&place, &["--profile-at-start"], STAY);
    let pid = until("rows are written", || {
        let status = get(&run.url, "/profile/status");
        let rows = status["session"]["workers"][0]["spool_bytes"].as_u64().unwrap_or(0);
        (rows > 0).then(|| status["workers"][0]["pid"].as_u64().unwrap())
    });
    let pid = u32::try_from(pid).unwrap();
    run.signal(Signal::KILL);
    let killed = run.killed();
    assert_eq!(killed.signal(), Some(9));
    assert!(run_support::is_alive(pid), "the command lives on");

    let serving = Serving::start(&place, &["--dir", "traces"]);
    let manifest = until("the session is adopted and finished", || {
        let manifest = place.manifest()?;
        (manifest["state"] == "complete").then_some(manifest)
    });
    assert_eq!(manifest["workers"][0]["pid"], pid, "{manifest}");
    let files = manifest["workers"][0]["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file["format"] == "pftrace-gz"), "{manifest}");
    serving.end();
    assert!(run_support::is_alive(pid), "the command still lives");
    run_support::kill(pid);
}

#[test]
fn several_runs_are_one_pipeline() {
    let place = Place::new();
    let serving = Serving::start(&place, &["--dir", "traces"]);
    let one = Running::start_at(&place, &serving.url, &["--stage", "0", "--role", "thinker"], STAY);
    let other =
        Running::start_at(&place, &serving.url, &["--stage", "1", "--role", "talker"], STAY);
    let begun = until("both stages have joined", || {
        let body = r#"{"stages": [0, 1], "wait_join_ms": 10000}"#;
        let answer = post(&serving.url, "/start_profile", body);
        answer["workers"].is_array().then_some(answer)
    });
    let mut stages: Vec<_> =
        begun["workers"].as_array().unwrap().iter().map(|w| w["stage"].clone()).collect();
    stages.dedup();
    assert_eq!(stages, [0, 1], "{begun}");
    // One ends while it is recorded: its trace is whole, the other's goes on.
    one.signal(Signal::TERM);
    assert_eq!(one.ended().code, Some(9));
    let manifest = post(&serving.url, "/stop_profile", r#"{"wait_ms": 30000}"#);
    let lines = manifest["workers"].as_array().unwrap();
    let ended = lines.iter().find(|line| line["stage"] == 0).unwrap();
    assert_eq!(ended["stopped_by"], "process_exit", "{manifest}");
    assert!(lines.iter().all(|line| line["state"] == "complete"), "{manifest}");
    other.signal(Signal::TERM);
    let ended = other.ended();
    assert_eq!(ended.code, Some(9), "{ended}");
    assert!(ended.err.contains("the traces are the server's"), "{ended}");
    serving.end();
}

#[test]
fn a_server_that_is_not_there_is_told_and_the_command_is_not_started() {
    let place = Place::new();
    let mark = place.join("started");
    let script = format!("touch {}", mark.display());
    let words = ["run", "--server", "http://127.0.0.1:9", "--", "/bin/sh", "-c", &script];
    place.run(&words).failed(3, "omniprof serve");
    assert!(!mark.exists());
    // A second controller of one root is refused, too.
    let serving = Serving::start(&place, &["--dir", "traces"]);
    let words =
        ["run", "--dir", "traces", "--listen", "127.0.0.1:0", "--", "/bin/sh", "-c", &script];
    let ran = place.run(&words);
    ran.failed(5, "--server");
    assert!(!mark.exists());
    serving.end();
}

#[test]
fn orphans_are_reaped() {
    let place = Place::new();
    // The inner shell ends at once, and its child outlives it as an orphan.
    let script = "(sleep 0.5 & echo \"orphan $!\") ; echo ready 0; sleep 30";
    let run = Running::start(&place, &[], &["/bin/sh", "-c", script]);
    let orphan = run.said("orphan ");
    let orphan: u32 = orphan.trim().parse().unwrap();
    let launcher = run.pid();
    // It becomes the launcher's child, ends, and leaves no zombie.
    until("the orphan is reaped", || {
        (!std::path::Path::new(&format!("/proc/{orphan}")).exists()).then_some(())
    });
    assert!(run_support::is_alive(launcher));
    run.signal(Signal::TERM);
    run.ended();
}

#[test]
fn as_the_first_process_of_a_pid_namespace_it_reaps_and_forwards() {
    let place = Place::new();
    let flags = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let can = std::process::Command::new("unshare")
        .args(flags)
        .arg("true")
        .stderr(Stdio::null())
        .status();
    if !can.is_ok_and(|status| status.success()) {
        return skipped("no namespaces may be made here (unshare --user --pid)");
    }
    let script = "test $PPID = 1 && echo child of one; \
                  (sleep 0.2 &) ; sleep 7 & trap 'exit 5' TERM; sleep 1; \
                  ls /proc | grep -c '^[0-9]' ; cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' ; \
                  kill -TERM 1; while :; do sleep 0.05; done";
    let mut words = flags.to_vec();
    let program = env!("CARGO_BIN_EXE_omniprof");
    words.extend([program, "run", "--listen", "127.0.0.1:0", "--", "/bin/sh", "-c", script]);
    let ran = place.run_program("unshare", &words);
    assert_eq!(ran.code, Some(5), "{ran}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.first(), Some(&"child of one"), "{ran}");
    assert_eq!(lines.get(2), Some(&"0"), "no zombie is left: {ran}");
}

#[test]
fn stacks_of_python_code_are_read_from_outside() {
    if !has_python() {
        return skipped("no python3");
    }
    let place = Place::new();
    let server = python_server();
    let words = ["python3", server.to_str().unwrap(), "--tensor-parallel-size", "1"];
    let run = Running::start(&place, &[], &words);
    let body =
        r#"{"ranks": [0], "with_stack": true, "formats": ["folded"], "wait_join_ms": 30000}"#;
    let begun = post(&run.url, "/start_profile", body);
    assert_eq!(begun["workers"].as_array().map(Vec::len), Some(1), "{begun}");
    assert_eq!(begun["workers"][0]["error"], serde_json::Value::Null, "nothing less: {begun}");
    // The rank computes until enough of it was seen.
    until("samples", || {
        get(&run.command_url(), "/generate");
        let status = get(&run.url, "/profile/status");
        (status["session"]["workers"][0]["rows"].as_u64()? > 100).then_some(())
    });
    let manifest = post(&run.url, "/stop_profile", r#"{"wait_ms": 60000}"#);
    let worker = &manifest["workers"][0];
    let notes = worker["notes"].to_string();
    if notes.contains("no Python stacks were read") && notes.contains("ermission") {
        return skipped(&format!("the memory of other processes may not be read here: {notes}"));
    }
    let files = worker["files"].as_array().unwrap();
    let folded = files.iter().find(|file| file["format"] == "folded").unwrap();
    let folded = place.session_dir().join(folded["path"].as_str().unwrap());
    let text = std::fs::read_to_string(folded).unwrap();
    assert!(text.contains("compute") && text.contains("worker"), "{text}\n{manifest}");
    run.signal(Signal::TERM);
    assert_eq!(run.ended().code, Some(0));
}

#[test]
fn a_worker_of_another_container_joins_by_a_shared_directory_and_a_token() {
    let flags = ["unshare", "--user", "--pid", "--fork", "--mount", "--mount-proc"];
    let can = std::process::Command::new(flags[0])
        .args(&flags[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status();
    if !can.is_ok_and(|status| status.success()) {
        return skipped("no namespaces may be made here (unshare --user --pid --mount)");
    }
    let place = Place::new();
    let shared = place.join("shared");
    std::fs::create_dir(&shared).unwrap();
    let token = "a-token-of-the-test";
    let file = place.write("token", token);
    // Nobody has a name in the other's user namespace.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&file, readable).unwrap();
    let (shared, file) = (shared.to_str().unwrap(), file.to_str().unwrap());
    let socket = [("OMNIPROF_SOCKET", shared)];
    let serving = Serving::start_with(&place, &socket, &["--dir", "traces", "--token-file", file]);
    let variables = [("OMNIPROF_SOCKET", shared), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")];
    let words = ["--server", &serving.url, "--token-file", file, "--stage", "3"];
    let run = Running::start_behind(&place, &flags, &variables, &words, STAY);
    let begun =
        post_as(token, &serving.url, "/start_profile", r#"{"stages": [3], "wait_join_ms": 30000}"#);
    assert_eq!(begun["workers"][0]["stage"], 3, "{begun}");
    let manifest = post_as(token, &serving.url, "/stop_profile", r#"{"wait_ms": 30000}"#);
    let worker = &manifest["workers"][0];
    assert_eq!(worker["state"], "complete", "{manifest}");
    assert!(worker["pid"].as_u64().unwrap() < 1000, "a pid of its namespace: {manifest}");
    assert!(worker["records"]["counter"].as_u64().unwrap() > 0, "{manifest}");
    drop(run);
    serving.end();
}
