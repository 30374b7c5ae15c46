//! Titles, command lines and variables as the servers set them.

use proptest::prelude::*;

use super::*;

fn titled(title: &str, parent: u32) -> ProcessText {
    ProcessText {
        title: title.to_owned(),
        command_line: title.to_owned(),
        environment: Vec::new(),
        parent,
    }
}

fn called(stage: Option<u32>, role: &str, replica: Option<u32>, rank: Option<u32>) -> CalledWorker {
    let role = (!role.is_empty()).then(|| role.to_owned());
    CalledWorker { stage, role, replica, rank }
}

/// What a process is called that has no ancestor.
fn alone(text: &ProcessText) -> CalledWorker {
    let calls = MapRules::default().call_with(&[7], |pid| (pid == 7).then(|| text.clone()));
    calls[&7].clone()
}

#[test]
fn the_titles_of_servers_are_known() {
    for (title, stage, role, replica, rank) in [
        // vLLM, `vllm/v1`: a part where its size is above 1.
        ("VLLM::EngineCore", None, "EngineCore", None, None),
        ("VLLM::EngineCore_DP1", None, "EngineCore", Some(1), None),
        ("VLLM::Worker", None, "Worker", None, Some(0)),
        ("VLLM::Worker_TP0", None, "Worker", None, Some(0)),
        ("VLLM::Worker_TP3", None, "Worker", None, Some(3)),
        ("VLLM::Worker_TP1_EP1", None, "Worker", None, Some(1)),
        ("VLLM::Worker_DP2_TP1_EP5", None, "Worker", Some(2), Some(1)),
        ("VLLM::Worker_TP3_DCP1", None, "Worker", None, Some(3)),
        ("VLLM::APIServer_0", None, "APIServer", None, None),
        ("VLLM::DPCoordinator", None, "DPCoordinator", None, None),
        // vLLM-Omni.
        (
            "VLLM::StageEngineCoreProc_stage2_replica1_DP0",
            Some(2),
            "StageEngineCoreProc",
            Some(1),
            None,
        ),
        ("VLLM::StageEngineCoreProc_noid_replica0_DP0", None, "StageEngineCoreProc", None, None),
        // SGLang.
        ("sglang::scheduler", None, "scheduler", None, Some(0)),
        ("sglang::scheduler_TP1", None, "scheduler", None, Some(1)),
        ("sglang::scheduler_DP1_TP2_EP2", None, "scheduler", Some(1), Some(2)),
        ("sglang::detokenizer", None, "detokenizer", None, None),
        ("sglang::data_parallel_controller", None, "data_parallel_controller", None, None),
        ("sglang::tokenizer_worker:4711", None, "tokenizer_worker", None, None),
        // What is nobody's.
        ("python", None, "", None, None),
        ("", None, "", None, None),
    ] {
        assert_eq!(alone(&titled(title, 1)), called(stage, role, replica, rank), "{title}");
    }
}

#[test]
fn command_lines_and_variables_are_known() {
    let with = |line: &str, environment: &[&str]| ProcessText {
        title: "/usr/bin/python3".to_owned(),
        command_line: line.to_owned(),
        environment: environment.iter().map(|text| (*text).to_owned()).collect(),
        parent: 1,
    };
    for (text, expected) in [
        (
            with("/usr/bin/python3 /usr/local/bin/vllm serve m --port 1", &[]),
            called(None, "vllm", None, None),
        ),
        (
            with("python3 -m sglang.launch_server --model m", &[]),
            called(None, "sglang", None, None),
        ),
        (with("python3 train.py", &["RANK=5", "LOCAL_RANK=1"]), called(None, "", None, Some(5))),
        (with("python3 train.py", &["LOCAL_RANK=1"]), called(None, "", None, Some(1))),
        (with("x", &["VLLM_OMNI_REPLICA_ID=2"]), called(None, "", Some(2), None)),
        (with("x", &["RANK=x", "MYRANK=3"]), called(None, "", None, None)),
        (
            with(
                "x",
                &["OMNIPROF_STAGE=1", "OMNIPROF_ROLE=talker", "OMNIPROF_REPLICA=0", "RANK=2"],
            ),
            called(Some(1), "talker", Some(0), Some(2)),
        ),
    ] {
        assert_eq!(alone(&text), expected, "{text:?}");
    }
}

#[test]
fn a_worker_has_the_stage_of_the_process_above_it() {
    // API server 10; stage 1's engine core 20 with two workers, stage 0's without any.
    let read = |pid: u32| match pid {
        10 => Some(titled("python", 1)),
        19 => Some(titled("VLLM::StageEngineCoreProc_stage0_replica0_DP0", 10)),
        20 => Some(titled("VLLM::StageEngineCoreProc_stage1_replica3_DP0", 10)),
        21 => Some(titled("VLLM::Worker_TP0", 20)),
        22 => Some(titled("VLLM::Worker_TP1", 20)),
        23 => Some(titled("python", 22)),
        _ => None,
    };
    let calls = MapRules::default().call_with(&[10, 19, 21, 22, 23, 99], read);
    assert_eq!(calls[&10], called(None, "", None, None));
    assert_eq!(calls[&19], called(Some(0), "StageEngineCoreProc", Some(0), None));
    assert_eq!(calls[&21], called(Some(1), "Worker", Some(3), Some(0)));
    assert_eq!(calls[&22], called(Some(1), "Worker", Some(3), Some(1)));
    // A child of a worker that says nothing has no rank of its own.
    assert_eq!(calls[&23], called(Some(1), "", Some(3), None));
    assert_eq!(calls[&99], called(None, "", None, None));
}

#[test]
fn pipeline_and_tensor_ranks_are_one_rank() {
    let titles = ["PP0_TP0", "PP0_TP1", "PP1_TP0", "PP1_TP1"];
    for server in ["VLLM::Worker_", "sglang::scheduler_"] {
        let read = |pid: u32| {
            let title = titles.get(pid.checked_sub(10)? as usize)?;
            Some(titled(&format!("{server}{title}"), 1))
        };
        let calls = MapRules::default().call_with(&[10, 11, 12, 13], read);
        let ranks: Vec<_> = calls.values().map(|call| call.rank).collect();
        assert_eq!(ranks, [Some(0), Some(1), Some(2), Some(3)], "{server}");
    }
    let old = alone(&titled("sglang::scheduler_DP0_TP1_PP2", 1));
    assert_eq!((old.replica, old.rank), (Some(0), Some(5)));
}

#[test]
fn rules_that_were_given_stand_before_those_built_in_and_behind_the_launchers() {
    let rule = |text| MapRule::parse(text).unwrap();
    let rules = MapRules::new(vec![
        rule("title:^VLLM::(?<role>Work)"),
        rule("env:^SLOT=(?<stage>[0-9]+)/(?<rank>[0-9]+)$"),
    ]);
    let mut text = titled("VLLM::Worker_TP4", 1);
    text.environment.push("SLOT=3/9".to_owned());
    let call = |text: &ProcessText| rules.call_with(&[7], |_| Some(text.clone()))[&7].clone();
    assert_eq!(call(&text), called(Some(3), "Work", None, Some(9)));
    text.environment.push("OMNIPROF_STAGE=0".to_owned());
    assert_eq!(call(&text).stage, Some(0));
    // Rules that the launcher gave the process itself.
    let own = serde_json::to_string(&["title:_TP(?<stage>[0-9]+)", "no rule"]).unwrap();
    let mut text = titled("VLLM::Worker_TP4", 1);
    text.environment.push(format!("{MAP_VARIABLE}={own}"));
    assert_eq!(alone(&text), called(Some(4), "Worker", None, Some(4)));
    let texts = rules.texts();
    assert_eq!(texts[0], "title:^VLLM::(?<role>Work)");
    assert!(texts.iter().all(|text| MapRule::parse(text).is_ok()));
}

#[test]
fn what_is_no_rule_is_refused_with_a_reason() {
    for (text, said) in [
        ("^x(?<rank>1)", "begins with none"),
        ("name:(?<rank>1)", "begins with none"),
        ("title:(?<rank>1", "cannot be read"),
        ("title:(?<shard>1)", "\"shard\""),
        ("title:(1)", "takes nothing"),
        ("title:(?<rank>(?:(?:\\w{100}){100}){100})", "cannot be read"),
    ] {
        let error = MapRule::parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let long = format!("title:(?<rank>{})", "a".repeat(4096));
    assert!(matches!(MapRule::parse(&long), Err(MapRuleError::TooLong { .. })));
}

#[test]
fn this_process_is_read() {
    let text = ProcessText::read(std::process::id()).unwrap();
    assert!(text.command_line.starts_with(&text.title) && !text.title.is_empty());
    assert!(text.parent > 0);
    assert_eq!(ProcessText::read(u32::MAX), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_makes_a_rule_or_a_call_panic(
        rule in ".{0,60}",
        title in "(VLLM::|sglang::)?[A-Za-z_]{0,12}(_(DP|PP|TP)[0-9]{1,12}){0,4}",
        environment in proptest::collection::vec("[A-Z_]{0,8}=?.{0,20}", 0..4),
    ) {
        let given = MapRule::parse(&rule).into_iter().collect();
        let text = ProcessText { title, environment, ..ProcessText::default() };
        let calls = MapRules::new(given).call_with(&[1, 2], |_| Some(text.clone()));
        prop_assert_eq!(calls.len(), 2);
        let role = calls[&1].role.clone().unwrap_or_default();
        prop_assert!(role.chars().count() <= MAX_ROLE_CHARS_OF_TESTS);
    }

    #[test]
    fn ancestors_that_form_a_ring_end(length in 1_u32..6) {
        let read = |pid: u32| Some(titled("python", 2 + (pid + 1) % length));
        let calls = MapRules::default().call_with(&[2, 3], read);
        prop_assert_eq!(calls.len(), 2);
    }
}

const MAX_ROLE_CHARS_OF_TESTS: usize = 64;
