//! Processes under `omniprof run` that use a device and do not join: each is told with the reason.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli_support;
mod run_support;

use std::process::Stdio;

use cli_support::{Place, skipped, until};
use run_support::{Running, get, has_python};
use rustix::process::Signal;

#[test]
fn a_process_that_uses_a_device_and_has_not_joined_is_told_with_the_reason() {
    if !has_python() {
        return skipped("no python3");
    }
    let place = Place::new();
    // The driver's library by its name, which is all that can be seen from outside.
    let library = place.write("libcuda.so.1", "stands in for the driver's library");
    let script = format!(
        "import mmap, time\nf = open({:?}, 'rb')\nm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
         print('ready 0', flush=True)\ntime.sleep(120)",
        library.display().to_string()
    );
    let run = Running::start(&place, &[], &["python3", "-c", &script]);
    let status = until("the reason is told", || {
        let status = get(&run.url, "/profile/status");
        (!status["not_joined"].as_array().unwrap().is_empty()).then_some(status)
    });
    // Whoever builds the whole workspace has the file that joins beside the program.
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_omniprof"));
    let has_file = program.with_file_name("libomniprof_inject.so").exists();
    let (code, text_part) =
        if has_file { ("not_loaded", "is not loaded") } else { ("no_file", "OMNIPROF_BIN_DIR") };
    assert_eq!(status["not_joined"][0]["code"], code, "{status}");
    assert_eq!(status["workers"][0]["joined_by"], "outside", "{status}");
    let text = place.run(&["status", "--server", &run.url]);
    assert!(text.out.contains("has not joined") && text.out.contains(text_part), "{text}");
    run.signal(Signal::TERM);
    let ended = run.ended();
    assert!(ended.err.contains("uses a device and has not joined"), "{ended}");
}

/// Maps the file that it is given, as a driver's library is mapped, and stays.
const MAPS_A_FILE: &str = "\
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count > 1) mmap(0, 1, PROT_READ, MAP_PRIVATE, open(words[1], O_RDONLY), 0);
    sleep(120);
}
";

/// Whether the kernel gives a program more rights than who starts it has: file systems and
/// containers may refuse that.
fn runs_with_more_rights(program: &std::path::Path) -> bool {
    const AT_SECURE: u64 = 23;
    let mut child = std::process::Command::new(program).spawn().unwrap();
    let vector = std::fs::read(format!("/proc/{}/auxv", child.id())).unwrap_or_default();
    child.kill().unwrap();
    child.wait().unwrap();
    let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
    vector.chunks_exact(16).any(|pair| number(&pair[..8]) == AT_SECURE && number(&pair[8..]) != 0)
}

#[test]
fn of_programs_that_no_loader_joins_it_is_told_which() {
    let place = Place::new();
    let source = place.write("program.c", MAPS_A_FILE);
    let library = place.write("libcuda.so.1", "stands in for the driver's library");
    let compile = |name: &str, how: &[&str]| {
        let mut compiler = std::process::Command::new("cc");
        compiler.args(how).arg("-o").arg(place.join(name)).arg(&source);
        compiler.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !compile("dynamic", &[]) {
        return skipped("no C compiler");
    }
    let mut expected = Vec::new();
    if compile("fixed", &["-static"]) {
        expected.push(("fixed", "static"));
    } else {
        skipped("no static C library");
    }
    let dynamic = place.join("dynamic");
    // In this order: a change of the owner takes the mode away.
    if std::os::unix::fs::chown(&dynamic, Some(65_534), None).is_ok() {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
        std::fs::set_permissions(&dynamic, mode).unwrap();
        match runs_with_more_rights(&dynamic) {
            true => expected.push(("dynamic", "secure")),
            false => skipped("set-user-id programs run here as any other"),
        }
    } else {
        skipped("who is not root can make no program that runs as another user");
    }
    // Any library for this machine will do: nothing opens it here.
    std::fs::create_dir(place.join("bin")).unwrap();
    std::fs::copy(&dynamic, place.join("bin/libomniprof_inject.so")).unwrap();
    let started: Vec<String> = expected
        .iter()
        .map(|(name, _)| format!("{} {} &", place.join(name).display(), library.display()))
        .collect();
    let script = format!("{}\necho ready 0\nwait", started.join("\n"));
    let bin = place.join("bin");
    let path = std::env::var("PATH").unwrap();
    let variables = [("OMNIPROF_BIN_DIR", bin.to_str().unwrap()), ("PATH", &path)];
    let words = ["--dir", "traces", "--listen", "127.0.0.1:0"];
    let run = Running::start_behind(&place, &["env"], &variables, &words, &["sh", "-c", &script]);
    let told = until("the reasons are told", || {
        let status = get(&run.url, "/profile/status");
        let told = status["not_joined"].as_array().unwrap().clone();
        (told.len() == expected.len()).then_some(told)
    });
    for (name, code) in expected {
        let line = told.iter().find(|line| line["code"] == code);
        assert!(
            line.is_some_and(|line| line["title"].as_str().unwrap().contains(name)),
            "{told:?}"
        );
    }
    // The shell waits for them.
    for line in &told {
        run_support::kill(u32::try_from(line["pid"].as_u64().unwrap()).unwrap());
    }
    assert_eq!(run.ended().code, Some(0));
}
