//! What a test program said.

use std::collections::BTreeMap;

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a test ends in one of these")]
pub enum Ended {
    /// It ran and held.
    Passed,
    /// It looked and could not run here; the reason.
    Skipped(String),
    /// It did not hold.
    Failed,
}

/// Reads the output of a test program that ran with `--show-output`: each test and what became of
/// it. A test that cannot run prints `skipped: WHY`, or `skipped: NAME: WHY` past the capture.
#[must_use]
pub fn read(text: &str) -> BTreeMap<String, Ended> {
    let mut tests = BTreeMap::new();
    let mut section: Option<&str> = None;
    let mut reasons: Vec<(Option<&str>, &str)> = Vec::new();
    for line in text.lines() {
        if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            section = Some(name);
        } else if let Some(why) = line.strip_prefix("skipped: ") {
            reasons.push((section, why));
        } else if let Some(rest) = line.strip_prefix("test ") {
            // `test result: …` ends the list; it has no ` ... `.
            let Some((name, ended)) = rest.rsplit_once(" ... ") else { continue };
            let name = name.trim_end_matches(" - should panic").to_owned();
            if ended.starts_with("ok") {
                tests.insert(name, Ended::Passed);
            } else if ended.starts_with("FAILED") {
                tests.insert(name, Ended::Failed);
            }
        }
    }
    for (section, why) in reasons {
        let named = section.or_else(|| why.split_once(": ").map(|(name, _)| name));
        let Some(name) = named else { continue };
        let bare = why.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(why);
        let found = tests.keys().find(|test| *test == name || test.ends_with(&format!("::{name}")));
        let Some(found) = found.cloned() else { continue };
        if tests[&found] == Ended::Passed {
            tests.insert(found, Ended::Skipped(bare.to_owned()));
        }
    }
    tests
}

/// What each program said, by the name of its file, in a log of `cargo test`.
#[must_use]
pub fn by_program(log: &str) -> BTreeMap<String, String> {
    let mut programs: BTreeMap<String, String> = BTreeMap::new();
    let mut running: Option<String> = None;
    for line in log.lines() {
        // `     Running tests/linked.rs (target/debug/deps/linked-0123456789abcdef)`
        let words = line.trim_start().strip_prefix("Running ");
        let file = words.and_then(|rest| rest.rsplit_once(" (")?.1.strip_suffix(')'));
        if let Some(file) = file {
            running = file.rsplit('/').next().map(str::to_owned);
        } else if line.trim_start().starts_with("Doc-tests ") {
            running = None;
        } else if let Some(file) = &running {
            let said = programs.entry(file.clone()).or_default();
            said.push_str(line);
            said.push('\n');
        }
    }
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_apart() {
        let text = "\
running 5 tests
skipped: raw: no device
test inner::raw ... ok
test held ... ok
test broke ... FAILED
test quiet ... ok
test left ... ignored, needs a child

successes:

---- quiet stdout ----
skipped: no python3

failures:

---- broke stdout ----
thread 'broke' panicked

test result: FAILED. 3 passed; 1 failed; 1 ignored
";
        let told = read(text);
        assert_eq!(told.len(), 4, "{told:?}");
        assert_eq!(told["held"], Ended::Passed);
        assert_eq!(told["broke"], Ended::Failed);
        assert_eq!(told["quiet"], Ended::Skipped("no python3".to_owned()));
        assert_eq!(told["inner::raw"], Ended::Skipped("no device".to_owned()));
    }

    #[test]
    fn a_log_is_told_apart_by_program() {
        let log = "\
     Running unittests src/lib.rs (target/debug/deps/one-11)
test a ... ok
     Running tests/linked.rs (/somewhere/debug/deps/linked-22)
skipped: b: no device
test b ... ok
   Doc-tests one
test c ... ok
";
        let programs = by_program(log);
        assert_eq!(programs.len(), 2, "{programs:?}");
        assert_eq!(read(&programs["one-11"])["a"], Ended::Passed);
        assert_eq!(read(&programs["linked-22"])["b"], Ended::Skipped("no device".to_owned()));
    }
}
