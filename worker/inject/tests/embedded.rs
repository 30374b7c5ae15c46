//! A program that embeds an agent, and into which the file comes as well, has one agent.
//!
//! The test program starts itself again to play such a program.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(unsafe_code, reason = "opens the file as the driver does")]

mod common;

use std::ffi::c_int;
use std::io::BufRead as _;

use common::{Launcher, PATIENCE, Spoken, eventually, injected_file, threads};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_agent::{Agent, AgentError};
use profiler_core::control::FromAgent;
use profiler_core::registry::BackendRegistry;

const ROLE: &str = "OMNIPROF_TEST_ROLE";

fn open_device() {
    // SAFETY: our own file, whose constructor finds that it was not preloaded.
    let library = unsafe { Library::open(Some(injected_file()), RTLD_NOW | RTLD_LOCAL) }.unwrap();
    // SAFETY: the driver's documentation gives the symbol this type.
    let door = unsafe { library.get::<extern "C" fn() -> c_int>(c"InitializeInjection") }.unwrap();
    assert_eq!(door(), 1);
}

/// Does nothing where it is run as a test like others.
#[test]
fn the_program() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut input = std::io::stdin().lock().lines();
    let builder = || Agent::builder().registry(BackendRegistry::empty());
    if role == "program first" {
        let _agent = builder().connect().unwrap();
        println!("entered");
        input.next().unwrap().unwrap();
        open_device();
        println!("opened");
        input.next().unwrap().unwrap();
    } else {
        open_device();
        println!("opened");
        input.next().unwrap().unwrap();
        let refused = builder().connect();
        assert!(matches!(refused, Err(AgentError::OtherCopy)), "{refused:?}");
        println!("refused");
        input.next().unwrap().unwrap();
    }
}

fn play(launcher: &Launcher, role: &str) -> Spoken {
    let mut command = launcher.command(&std::env::current_exe().unwrap());
    command
        .args(["the_program", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env("OMNIPROF_TEST_INJECT", injected_file());
    Spoken::start(&mut command)
}

fn until(child: &mut Spoken, word: &str) {
    // The harness says more than the program.
    assert!((0..20).any(|_| child.hear().ends_with(word)), "nobody says {word}");
}

fn links(pid: u32) -> usize {
    threads(pid).iter().filter(|name| name.starts_with("omniprof-link")).count()
}

#[test]
fn the_file_leaves_a_program_to_the_agent_that_it_embeds() {
    let launcher = Launcher::new();
    let mut child = play(&launcher, "program first");
    let (_worker, hello) = launcher.worker();
    assert_eq!(hello.joined_by, "embedded");
    until(&mut child, "entered");
    child.say("open");
    until(&mut child, "opened");
    let link = launcher.connection(PATIENCE).expect("the launcher is told");
    let (message, _) = link.recv_timeout::<FromAgent>(PATIENCE).unwrap();
    let FromAgent::Declined { worker, .. } = message else { panic!("{message:?}") };
    assert_eq!(worker.pid, hello.worker.pid);
    let pid = child.child.id();
    assert!(eventually(|| links(pid) == 1), "{:?}", threads(pid));
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn a_program_that_comes_second_is_told() {
    let launcher = Launcher::new();
    let mut child = play(&launcher, "file first");
    let (_worker, hello) = launcher.worker();
    assert_eq!(hello.joined_by, "cuda_injection");
    until(&mut child, "opened");
    child.say("enter");
    until(&mut child, "refused");
    assert_eq!(links(child.child.id()), 1);
    assert!(launcher.nobody_waits());
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}
