//! `omniprof doctor`: what can be recorded here, and what to change so that more can.

mod checks;

use serde::Serialize;

use crate::cli::{CommandError, DoctorArgs, Exit, Output};

/// What a check found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    check: String,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What would make it better, empty = nothing.
    remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Good,
    /// Works, with less.
    Less,
    /// Does not work.
    Bad,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Less => "less",
            Self::Bad => "BAD",
        }
    }
}

impl Finding {
    fn good(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Good, found, "")
    }

    /// A line for what was found, and one for what to do.
    fn text(&self) -> String {
        let mut text = format!("{:<5} {:<14} {}\n", self.verdict.word(), self.check, self.found);
        if !self.remedy.is_empty() {
            text.push_str(&format!("{:<21}-> {}\n", "", self.remedy));
        }
        text
    }

    fn new(
        check: &str,
        verdict: Verdict,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check: check.to_owned(), verdict, found: found.into(), remedy: remedy.into() }
    }
}

/// Looks and tells; fails where something does not work at all.
pub(crate) fn run(args: &DoctorArgs, out: &Output) -> Result<Exit, CommandError> {
    let resolved = args.config.load()?;
    let findings = {
        let root = resolved.root(args.root.dir.as_deref());
        checks::all(&resolved, &root, args.plugin_dir.as_deref())
    };
    let worst_is_bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    if args.json {
        out.json(&findings)?;
    } else {
        for finding in &findings {
            out.text(&finding.text())?;
        }
    }
    Ok(if worst_is_bad { Exit::Failed } else { Exit::Done })
}
