//! What crosses as JSON: `{"version": 1, "body": …}`.
//!
//! The version rises where an older reader would misunderstand; what is only added does not raise
//! it, for readers skip fields that they do not know and have defaults for those that are missing.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{BackendError, chain};

/// The version of all messages.
pub const MESSAGE_VERSION: u32 = 1;

/// The longest message that either side reads, in bytes.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;

#[derive(Serialize)]
struct Outgoing<'a, T> {
    version: u32,
    body: &'a T,
}

#[derive(Deserialize)]
struct Envelope {
    version: u32,
}

#[derive(Deserialize)]
struct Incoming<T> {
    body: T,
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("it is longer than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    #[error("it is of version {version}, and version {MESSAGE_VERSION} is understood here")]
    Version { version: u32 },
    #[error("it cannot be read")]
    Json {
        #[source]
        source: serde_json::Error,
    },
}

/// A message's text.
pub(super) fn write<T: Serialize>(body: &T) -> Result<String, MessageError> {
    serde_json::to_string(&Outgoing { version: MESSAGE_VERSION, body })
        .map_err(|source| MessageError::Json { source })
}

/// A message's body.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(MessageError::TooLong);
    }
    let json = |source| MessageError::Json { source };
    let Envelope { version } = serde_json::from_slice(bytes).map_err(json)?;
    if version > MESSAGE_VERSION {
        return Err(MessageError::Version { version });
    }
    let Incoming { body } = serde_json::from_slice(bytes).map_err(json)?;
    Ok(body)
}

/// A [`BackendError`] on its way.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ErrorMessage {
    /// Which error; one that the reader does not know still has code and message.
    kind: String,
    code: String,
    message: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    facts: BTreeMap<String, String>,
}

impl ErrorMessage {
    pub(super) fn of(error: &BackendError) -> Self {
        let (kind, facts): (&str, Vec<(&str, String)>) = match error {
            BackendError::Unavailable { .. } => ("unavailable", Vec::new()),
            BackendError::Busy { holder } => {
                ("busy", holder.iter().map(|holder| ("holder", holder.clone())).collect())
            }
            BackendError::SessionOpen => ("session_open", Vec::new()),
            BackendError::AlreadyStarted => ("already_started", Vec::new()),
            BackendError::NotStarted => ("not_started", Vec::new()),
            BackendError::InvalidConfig { field, reason } => {
                ("invalid_config", vec![("field", field.clone()), ("reason", reason.clone())])
            }
            BackendError::Permission { what, remedy } => {
                ("permission", vec![("what", what.clone()), ("remedy", remedy.clone())])
            }
            BackendError::Panicked { backend, message } => {
                ("panicked", vec![("backend", backend.clone()), ("message", message.clone())])
            }
            other => (other.code(), Vec::new()),
        };
        Self {
            kind: kind.to_owned(),
            code: error.code().to_owned(),
            message: chain(error),
            facts: facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        }
    }

    pub(super) fn panicked(backend: &str, message: &str) -> Self {
        Self::of(&BackendError::Panicked {
            backend: backend.to_owned(),
            message: message.to_owned(),
        })
    }

    /// The error, as a linked backend would have given it where its facts crossed.
    #[cfg(any(test, feature = "plugins"))]
    pub(super) fn into_error(mut self) -> BackendError {
        let mut fact = |name: &str| self.facts.remove(name);
        match self.kind.as_str() {
            "unavailable" => BackendError::Unavailable { code: self.code, message: self.message },
            "busy" => BackendError::Busy { holder: fact("holder") },
            "session_open" => BackendError::SessionOpen,
            "already_started" => BackendError::AlreadyStarted,
            "not_started" => BackendError::NotStarted,
            "invalid_config" => match (fact("field"), fact("reason")) {
                (Some(field), Some(reason)) => BackendError::InvalidConfig { field, reason },
                _ => BackendError::Plugin { code: self.code, message: self.message },
            },
            "permission" => match (fact("what"), fact("remedy")) {
                (Some(what), Some(remedy)) => BackendError::Permission { what, remedy },
                _ => BackendError::Plugin { code: self.code, message: self.message },
            },
            "panicked" => BackendError::Panicked {
                backend: fact("backend").unwrap_or_default(),
                message: fact("message").unwrap_or(self.message),
            },
            _ => BackendError::Plugin { code: self.code, message: self.message },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::backend::{SessionConfig, SessionSummary};
    use crate::probe::ProbeReport;

    fn crossed(error: &BackendError) -> BackendError {
        let text = write(&ErrorMessage::of(error)).unwrap();
        read::<ErrorMessage>(text.as_bytes()).unwrap().into_error()
    }

    #[test]
    fn errors_that_callers_tell_apart_cross_as_they_are() {
        for error in [
            BackendError::Unavailable { code: "no_driver".into(), message: "no driver".into() },
            BackendError::Busy { holder: Some("nsys".into()) },
            BackendError::Busy { holder: None },
            BackendError::SessionOpen,
            BackendError::AlreadyStarted,
            BackendError::NotStarted,
            BackendError::InvalidConfig { field: "preset".into(), reason: "unknown".into() },
            BackendError::Permission { what: "perf".into(), remedy: "sysctl".into() },
            BackendError::Panicked { backend: "cuda".into(), message: "index".into() },
        ] {
            assert_eq!(format!("{:?}", crossed(&error)), format!("{error:?}"));
        }
    }

    #[test]
    fn other_errors_keep_their_code_and_all_of_their_text() {
        let errors = [
            BackendError::Vendor { call: "cuptiSubscribe", code: 39, name: "MULTIPLE".into() },
            BackendError::Io {
                what: "opening x".into(),
                source: std::io::ErrorKind::NotFound.into(),
            },
            BackendError::Library {
                path: PathBuf::from("/x.so"),
                source: "a symbol is missing".into(),
            },
        ];
        for error in errors {
            let crossed = crossed(&error);
            assert_eq!(crossed.code(), error.code());
            assert_eq!(crossed.to_string(), chain(&error));
        }
    }

    #[test]
    fn additions_are_skipped_and_a_later_version_is_refused() {
        let newer = br#"{"version":1,"later":1,"body":{"sample_hz":7,"later":[1],"preset":"gpu"}}"#;
        let config: SessionConfig = read(newer).unwrap();
        assert_eq!(config.sample_hz, 7);
        assert_eq!(config.drain_ms, SessionConfig::default().drain_ms);
        let later = br#"{"version":2,"body":{"anything":"else"}}"#;
        let error = read::<SessionConfig>(later).unwrap_err();
        assert!(matches!(error, MessageError::Version { version: 2 }), "{error}");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [&b""[..], b"{", b"[]", b"{\"version\":1}", b"{\"version\":-1,\"body\":{}}"] {
            assert!(read::<SessionSummary>(bytes).is_err());
        }
        let deep = [b"{\"version\":1,\"body\":".to_vec(), vec![b'['; 100_000]].concat();
        assert!(read::<ProbeReport>(&deep).is_err());
        let long = vec![b' '; MAX_MESSAGE_BYTES + 1];
        assert!(matches!(read::<ProbeReport>(&long), Err(MessageError::TooLong)));
    }
}
