//! Configuration files and rules of names, as people write them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use profiler_worker::who::{MapRule, MapRules, ProcessText};

/// What begins a YAML file of the corpus; others are TOML.
const YAML: &[&[u8]] = &[b"stages:", b"stage_args:", b"profiler_config:", b"base_config:"];

pub(super) const FILES: &[&[u8]] = &[
    b"[profiler_config]\nsample_hz = 49\ntorch_profiler_dir = \"/tmp/x\"\n\
      [stages.2.profiler_config]\npreset = \"full\"\nformats = [\"pftrace-gz\"]\n\
      [server]\nlisten = \"127.0.0.1:8790\"\ntoken_file = \"/run/secrets/omniprof\"\n\
      [retention]\nmax_bytes = 21474836480\nmax_sessions = 50\n",
    b"stages:\n  - stage_id: 0\n    profiler_config: {profiler: torch, torch_profiler_dir: /tmp/x}\n  \
      - stage_id: 2\n    engine_args: &args\n      profiler_config:\n        with_stack: true\n  \
      - stage_id: 3\n    engine_args: *args\n",
    b"stage_args:\n  - stage_id: 0\n    engine_args:\n      model_stage: thinker\n      \
      profiler_config: {delay_iterations: 3, max_iterations: 9}\n",
    b"profiler_config:\n  sample_hz: 49\nbase_config: input.yaml\n",
];

pub(super) const FILE_WORDS: &[&str] = &[
    "profiler_config",
    "stages",
    "stage_args",
    "stage_id",
    "engine_args",
    "engine_extras",
    "base_config",
    "retention",
    "server",
    "max_bytes",
    "true",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "0x_1",
    "1979-05-27T07:32:00Z",
    "\"\"\"",
    "'''",
    "\"\\ud800\"",
    "&a",
    "*a",
    "<<",
    "!!binary",
    "---",
    "|",
    "[[",
    "]]",
    "{",
    "}",
];

pub(super) const RULES: &[&[u8]] = &[
    b"title:^VLLM::(?<role>Worker)(?:_DP(?<replica>[0-9]+))?(?:_TP(?<tp>[0-9]+))?$\nVLLM::Worker_DP1_TP3",
    b"cmdline: --stage[= ](?<stage>[0-9]+)\npython serve.py --stage 2",
    b"env:^RANK=(?<rank>[0-9]+)$\nRANK=17",
];

pub(super) const RULE_WORDS: &[&str] = &[
    "title:",
    "cmdline:",
    "env:",
    "(?<stage>",
    "(?<role>",
    "(?<rank>",
    "(?<replica>",
    "(?<pp>",
    "(?<tp>",
    ")",
    "(?:",
    "(?i)",
    "\\w{1000}",
    "{1,1000}",
    "{0}",
    ".*",
    "+?",
    "[^]",
    "\\pL",
    "\\b",
    "|",
    "^",
    "$",
];

/// The program reads a file, for which it is started: no library has its readers.
pub(super) fn read_files(input: &[u8], scratch: &Path) {
    static PROGRAM: LazyLock<std::path::PathBuf> =
        LazyLock::new(|| crate::programs::omniprof().expect("the program is built"));
    let is_yaml = YAML.iter().any(|begin| input.windows(begin.len()).any(|part| part == *begin));
    let (flag, name) =
        if is_yaml { ("--deploy-config", "input.yaml") } else { ("--config", "input.toml") };
    let file = scratch.join(name);
    std::fs::write(&file, input).expect("the scratch folder takes a file");
    let output = Command::new(&*PROGRAM)
        .args(["config", "--json", flag])
        .arg(&file)
        .current_dir(scratch)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    // 101 is what a panic ends with, and no code what a signal does.
    assert!(matches!(output.status.code(), Some(0..=100)), "{}: {said}", output.status);
    if output.status.success() {
        let document: Result<serde_json::Value, _> = serde_json::from_slice(&output.stdout);
        assert!(document.is_ok(), "what holds is JSON: {document:?}");
    }
}

/// A line with a rule, and behind it what a process shows.
pub(super) fn read_rule(input: &[u8], _scratch: &Path) {
    let text = String::from_utf8_lossy(input);
    let (rule, shown) = text.split_once('\n').unwrap_or((&text, &text));
    let Ok(rule) = MapRule::parse(rule) else { return };
    // It is passed on to children as a text.
    let again = MapRule::parse(&rule.to_string());
    assert!(again.is_ok(), "{again:?}");
    let process = ProcessText {
        title: shown.to_owned(),
        command_line: shown.to_owned(),
        environment: shown.lines().map(str::to_owned).collect(),
        parent: 1,
    };
    let rules = MapRules::new(vec![rule]);
    let called =
        rules.call_with(&[1, 2, 3], |pid| Some(ProcessText { parent: pid - 1, ..process.clone() }));
    assert_eq!(called.len(), 3, "{called:?}");
}
