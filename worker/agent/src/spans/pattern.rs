//! Spans and markers that are steps.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;

use crate::core::Core;

/// A pattern of names: `*` stands for any text, everything else for itself.
#[derive(Clone, Debug)]
pub(crate) struct StepPattern {
    parts: Vec<String>,
}

impl StepPattern {
    pub(crate) fn parse(text: &str) -> Self {
        Self { parts: text.split('*').map(str::to_owned).collect() }
    }

    fn matches(&self, name: &str) -> bool {
        let [first, middle @ .., last] = self.parts.as_slice() else {
            return self.parts.first().is_some_and(|only| only == name);
        };
        let Some(mut rest) = name.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            let Some(at) = rest.find(part.as_str()) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last.as_str())
    }
}

struct Target {
    pattern: StepPattern,
    core: Weak<Core>,
}

/// Who counts steps by their names.
static TARGET: ArcSwapOption<Target> = ArcSwapOption::const_empty();

/// Names count as steps of `core` from now on, where it has a pattern.
pub(super) fn set(core: &Arc<Core>, pattern: StepPattern) {
    let target = Target { pattern, core: Arc::downgrade(core) };
    TARGET.store(Some(Arc::new(target)));
}

pub(super) fn clear() {
    TARGET.store(None);
}

/// A span or marker of this name begins.
#[cold]
pub(super) fn begin(name: &str) {
    let core = {
        let target = TARGET.load();
        let Some(target) = target.as_ref().filter(|target| target.pattern.matches(name)) else {
            return;
        };
        target.core.upgrade()
    };
    if let Some(core) = core {
        core.step();
    }
}

#[cfg(test)]
mod tests {
    use super::StepPattern;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, name, expected) in [
            ("decode", "decode", true),
            ("decode", "decode2", false),
            ("decode*", "decode", true),
            ("decode*", "decode step", true),
            ("*step", "decode step", true),
            ("*step", "decode steps", false),
            ("d*s*p", "decode step", true),
            ("d*s*p", "dsp", true),
            ("ab*ba", "aba", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(StepPattern::parse(pattern).matches(name), expected, "{pattern} {name}");
        }
    }
}
