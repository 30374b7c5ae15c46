//! Session ids: sortable by time, unique without anybody's help.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::label::{MAX_LABEL_CHARS, SessionLabel};
use crate::clock::ClockSource;
use crate::identity::{base32, random_u64};

/// `20261124T110807123Z-k3j9x2ab` or `20261124T110807123Z-k3j9x2ab-label`: UTC to the
/// millisecond, 40 random bits, the label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(String);

/// The length of the time, `YYYYMMDDTHHMMSSmmmZ`.
const TIME_BYTES: usize = 19;

/// The random part's length.
const RANDOM_BYTES: usize = 8;

impl SessionId {
    /// A new id.
    #[must_use]
    pub fn generate(clock: &dyn ClockSource, label: Option<&SessionLabel>) -> Self {
        Self::from_parts(clock.realtime_ns(), random_u64(), label)
    }

    /// The id of an instant and a random number, of which 40 bits are used.
    #[must_use]
    pub fn from_parts(realtime_ns: u64, random: u64, label: Option<&SessionLabel>) -> Self {
        let time = utc_text(realtime_ns / 1_000_000);
        let random = base32(random, RANDOM_BYTES);
        Self(match label {
            None => format!("{time}-{random}"),
            Some(label) => format!("{time}-{random}-{label}"),
        })
    }

    /// Reads an id as [`SessionId::generate`] makes it.
    ///
    /// # Errors
    ///
    /// [`SessionIdError`] where the text is none; it then names no directory either.
    pub fn parse(text: &str) -> Result<Self, SessionIdError> {
        if !is_session_id(text) {
            let shown: String = text.chars().take(64).collect();
            return Err(SessionIdError { text: shown });
        }
        Ok(Self(text.to_owned()))
    }

    /// The text: a plain file name and a plain path segment of a URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The label inside, as it was made fit.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.0.get(TIME_BYTES + 1 + RANDOM_BYTES + 1..)
    }
}

fn is_session_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    let head = TIME_BYTES + 1 + RANDOM_BYTES;
    if bytes.len() < head || bytes.len() > head + 1 + MAX_LABEL_CHARS {
        return false;
    }
    let time = bytes[..TIME_BYTES].iter().enumerate().all(|(index, byte)| match index {
        8 => *byte == b'T',
        18 => *byte == b'Z',
        _ => byte.is_ascii_digit(),
    });
    let random = bytes[TIME_BYTES] == b'-'
        && bytes[TIME_BYTES + 1..head]
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(byte));
    let label = &bytes[head..];
    let labelled = label.is_empty()
        || (label.len() > 1
            && label[0] == b'-'
            && label[1].is_ascii_alphanumeric() | (label[1] == b'_')
            && label[1..].iter().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(b))
            && !label.windows(2).any(|pair| pair == b".."));
    time && random && labelled
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SessionId {
    type Error = SessionIdError;

    fn try_from(text: String) -> Result<Self, SessionIdError> {
        Self::parse(&text)
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.0
    }
}

/// The text is no session id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no session id, which looks like 20260131T235959123Z-k3j9x2ab-label")]
pub struct SessionIdError {
    /// The text, cut.
    pub text: String,
}

/// `YYYYMMDDTHHMMSSmmmZ` of milliseconds since 1970; years beyond 9999 stop there.
fn utc_text(ms: u64) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days.min(MAX_DAYS));
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}{ms:03}Z")
}

/// 9999-12-31 in days since 1970.
const MAX_DAYS: u64 = 2_932_896;

/// The Gregorian date of a day since 1970-01-01, by Howard Hinnant's `civil_from_days`.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_time_is_utc() {
        assert_eq!(utc_text(0), "19700101T000000000Z");
        assert_eq!(utc_text(951_827_696_789), "20000229T123456789Z");
        assert_eq!(utc_text(1_795_518_487_123), "20261124T110807123Z");
        assert_eq!(utc_text(4_107_542_399_999), "21000228T235959999Z");
        assert_eq!(&utc_text(u64::MAX)[..8], "99991231");
    }

    #[test]
    fn ids_read_back_and_nothing_else_does() {
        let label = SessionLabel::parse("first try").unwrap();
        let id = SessionId::from_parts(1_795_518_487_123_456_789, 7, Some(&label));
        assert_eq!(id.as_str(), "20261124T110807123Z-aaaaaaah-first_try");
        assert_eq!(id.label(), Some("first_try"));
        assert_eq!(SessionId::parse(id.as_str()), Ok(id));
        for text in [
            "",
            ".",
            "..",
            "host",
            "20261124T110807123Z",
            "20261124T110807123Z-aaaaaaah-",
            "20261124T110807123Z-aaaaaaah-../x",
            "20261124T110807123Z-aaaaaaah/..",
            "20261124T110807123Z-AAAAAAAA",
            "20261124T110807123Z-aaaaaaah-.x",
        ] {
            assert!(SessionId::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn ids_sort_by_time(one in 0_u64..9_000_000_000_000, other in 0_u64..9_000_000_000_000, random: u64) {
            let id = |ms: u64, random| SessionId::from_parts(ms * 1_000_000, random, None);
            if one < other {
                prop_assert!(id(one, random) < id(other, !random));
            }
        }

        #[test]
        fn hostile_text_is_refused_without_a_panic(text in ".{0,200}") {
            if let Ok(id) = SessionId::parse(&text) {
                prop_assert_eq!(id.as_str(), text);
            }
        }
    }
}
