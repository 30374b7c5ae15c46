//! One rule.

use std::fmt;

use profiler_core::control::CalledWorker;
use regex::{Captures, Regex, RegexBuilder};

use super::ProcessText;

/// The longest rule, in bytes.
const MAX_RULE_BYTES: usize = 1 << 10;

/// The most memory that a compiled pattern may take, in bytes.
const MAX_PATTERN_BYTES: usize = 256 << 10;

/// The longest role that is taken, in characters.
const MAX_ROLE_CHARS: usize = 64;

/// The names that groups may have.
const GROUPS: [&str; 6] = ["stage", "role", "replica", "rank", "pp", "tp"];

/// What of a process a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapSource {
    /// The process's title: the first word of its command line, which servers overwrite.
    Title,
    /// The command line, its words joined by spaces.
    CommandLine,
    /// Each variable of its environment, as `NAME=value`, as it was when the process began.
    Environment,
}

impl MapSource {
    const ALL: [(&'static str, Self); 3] =
        [("title", Self::Title), ("cmdline", Self::CommandLine), ("env", Self::Environment)];
}

impl fmt::Display for MapSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, source)| source == self).map(|(name, _)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

/// Takes parts of a worker's name out of what its process shows.
///
/// The groups `stage`, `replica` and `rank` are numbers, `role` is a word. `tp` and `pp` are the
/// tensor and the pipeline rank of a title that has both: the rank is `pp` times the number of
/// tensor ranks, plus `tp`; 0 where the pattern fits and neither is there.
#[derive(Clone, Debug)]
pub struct MapRule {
    source: MapSource,
    pattern: Regex,
}

/// Why a text is no rule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapRuleError {
    /// It does not begin with a source.
    #[error(
        "a rule is `title:REGEX`, `cmdline:REGEX` or `env:REGEX`, and {text:?} begins with none \
         of these"
    )]
    NoSource {
        /// The text.
        text: String,
    },
    /// It is too long.
    #[error("a rule has at most {MAX_RULE_BYTES} bytes, this one {len}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The pattern is none.
    #[error("the pattern of {text:?} cannot be read")]
    Pattern {
        /// The rule.
        text: String,
        /// What is wrong.
        #[source]
        source: regex::Error,
    },
    /// A group has a name that means nothing.
    #[error("the group {group:?} means nothing; there are {}", GROUPS.join(", "))]
    Group {
        /// Its name.
        group: String,
    },
    /// Nothing is taken.
    #[error(
        "{text:?} takes nothing: name a group, as `title:^worker-(?<rank>[0-9]+)$`; there are {}",
        GROUPS.join(", ")
    )]
    NoGroup {
        /// The rule.
        text: String,
    },
}

impl MapRule {
    /// Reads `title:REGEX`, `cmdline:REGEX` or `env:REGEX`, whose groups name what they take.
    ///
    /// # Errors
    ///
    /// [`MapRuleError`].
    pub fn parse(text: &str) -> Result<Self, MapRuleError> {
        if text.len() > MAX_RULE_BYTES {
            return Err(MapRuleError::TooLong { len: text.len() });
        }
        let named = text.split_once(':').and_then(|(name, pattern)| {
            let source = MapSource::ALL.iter().find(|(known, _)| *known == name)?;
            Some((source.1, pattern))
        });
        let Some((source, pattern)) = named else {
            return Err(MapRuleError::NoSource { text: text.to_owned() });
        };
        let pattern = RegexBuilder::new(pattern)
            .size_limit(MAX_PATTERN_BYTES)
            .dfa_size_limit(MAX_PATTERN_BYTES)
            .build()
            .map_err(|source| MapRuleError::Pattern { text: text.to_owned(), source })?;
        let mut names = pattern.capture_names().flatten().peekable();
        if names.peek().is_none() {
            return Err(MapRuleError::NoGroup { text: text.to_owned() });
        }
        if let Some(group) = names.find(|name| !GROUPS.contains(name)) {
            return Err(MapRuleError::Group { group: group.to_owned() });
        }
        drop(names);
        Ok(Self { source, pattern })
    }

    pub(super) fn find(&self, text: &ProcessText) -> Found {
        let found = |text: &str| self.pattern.captures(text).map(|groups| self.take(&groups));
        match self.source {
            MapSource::Title => found(&text.title),
            MapSource::CommandLine => found(&text.command_line),
            MapSource::Environment => text.environment.iter().find_map(|variable| found(variable)),
        }
        .unwrap_or_default()
    }

    fn take(&self, groups: &Captures<'_>) -> Found {
        let number = |name| groups.name(name)?.as_str().parse().ok();
        let role = groups.name("role").map(|role| role.as_str().trim());
        let role = role.map(|role| role.chars().take(MAX_ROLE_CHARS).collect::<String>());
        let has = |name: &str| self.pattern.capture_names().flatten().any(|known| known == name);
        let is_parallel = has("tp") || has("pp");
        Found {
            stage: number("stage"),
            role: role.filter(|role| !role.is_empty()),
            replica: number("replica"),
            rank: number("rank"),
            pipeline: is_parallel.then(|| number("pp").unwrap_or(0)),
            tensor: is_parallel.then(|| number("tp").unwrap_or(0)),
        }
    }
}

impl fmt::Display for MapRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.pattern)
    }
}

/// What rules found of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) stage: Option<u32>,
    pub(super) role: Option<String>,
    pub(super) replica: Option<u32>,
    pub(super) rank: Option<u32>,
    pub(super) pipeline: Option<u32>,
    pub(super) tensor: Option<u32>,
}

impl Found {
    /// Takes what is not known yet.
    pub(super) fn add(&mut self, other: Self) {
        self.stage = self.stage.or(other.stage);
        self.role = self.role.take().or(other.role);
        self.replica = self.replica.or(other.replica);
        // A rank that was found first holds against parts of one, and these against a rank.
        if self.rank.is_none() && self.tensor.is_none() {
            self.rank = other.rank;
            self.pipeline = other.pipeline;
            self.tensor = other.tensor;
        }
    }

    pub(super) fn place(&self) -> (Option<u32>, Option<u32>) {
        (self.stage, self.replica)
    }

    /// The name, where a stage has so many tensor ranks.
    pub(super) fn called(self, width: u32) -> CalledWorker {
        let parallel = self.tensor.map(|tensor| {
            let pipeline = self.pipeline.unwrap_or(0);
            pipeline.saturating_mul(width).saturating_add(tensor)
        });
        CalledWorker {
            stage: self.stage,
            role: self.role,
            replica: self.replica,
            rank: self.rank.or(parallel),
        }
    }
}
