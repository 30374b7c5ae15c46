//! The phases of a server's steps, as a start body names them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{StartRequest, StartRequestError};

/// What a step of a language model does. Workers' steps do not say which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Phase {
    /// Reads the prompt.
    Prefill,
    /// Makes the next token.
    Decode,
}

impl StartRequest {
    /// Refuses what would need to know a step's phase: a window of one of them.
    pub(super) fn check_phases(&self) -> Result<(), StartRequestError> {
        let phases = self.profile_stages.as_deref().unwrap_or_default();
        let has_both = phases.contains(&Phase::Prefill) && phases.contains(&Phase::Decode);
        if phases.is_empty() || has_both {
            return Ok(());
        }
        Err(StartRequestError::Refused {
            field: "profile_stages".to_owned(),
            reason: "a step does not say whether it is prefill or decode, and one step may be \
                     both, so neither can be recorded alone: name both or none, and tell them \
                     apart by their spans"
                .to_owned(),
        })
    }

    /// What is applied otherwise than a client of another server may expect, in whole sentences.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let asks_for_phases = self.profile_by_stage == Some(true)
            || self.profile_stages.as_ref().is_some_and(|phases| !phases.is_empty());
        if !asks_for_phases {
            return Vec::new();
        }
        let counted = match self.num_steps.or(self.max_iterations) {
            Some(steps) if steps > 0 => ", and a step of either counts",
            _ => "",
        };
        vec![format!(
            "prefill and decode are recorded by one window{counted}; they lie in one trace, told \
             apart by their spans"
        )]
    }
}
