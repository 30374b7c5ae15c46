//! One event of a trace.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// An event, its arguments unread.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event<'a> {
    #[serde(borrow)]
    pub(super) ph: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) cat: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) pid: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) tid: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) ts: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) dur: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) args: Option<&'a RawValue>,
}

impl<'a> Event<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// When it began, ns after `base`.
    pub(super) fn start(&self, base: u64) -> Option<u64> {
        base.checked_add_signed(nanoseconds(plain(self.ts?.get()))?)
    }

    /// How long it took, ns; what is missing or negative took no time.
    pub(super) fn duration(&self) -> u64 {
        let text = self.dur.map(|dur| plain(dur.get()));
        text.and_then(nanoseconds).and_then(|ns| u64::try_from(ns).ok()).unwrap_or(0)
    }

    pub(super) fn arguments<T: Deserialize<'a> + Default>(&self) -> T {
        let text = self.args.map(|args| args.get());
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    pub(super) fn pid_text(&self) -> &'a str {
        self.pid.map_or("", |pid| plain(pid.get()))
    }

    pub(super) fn tid_text(&self) -> &'a str {
        self.tid.map_or("", |tid| plain(tid.get()))
    }
}

/// A number or string without its quotes.
pub(super) fn plain(raw: &str) -> &str {
    raw.trim().trim_matches('"')
}

/// Microseconds as decimal text, in nanoseconds: exact, for doubles have no room for the
/// nanoseconds of an instant since 1970.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    if digits.contains(['e', 'E']) {
        let us: f64 = digits.parse().ok()?;
        let ns = us * 1_000.0;
        // The cast saturates; what is no instant is refused by whoever adds it.
        return ns.is_finite().then(|| sign * ns.round() as i64);
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let us: i64 = whole.parse().ok()?;
    let below: String = fraction.chars().chain("000".chars()).take(3).collect();
    let ns = us.checked_mul(1_000)?.checked_add(below.parse::<i64>().ok()?)?;
    Some(sign * ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_exact() {
        assert_eq!(nanoseconds("1752839462723407.123"), Some(1_752_839_462_723_407_123));
        assert_eq!(nanoseconds("4653489339252.474"), Some(4_653_489_339_252_474));
        assert_eq!(nanoseconds("12"), Some(12_000));
        assert_eq!(nanoseconds("-1.5"), Some(-1_500));
        assert_eq!(nanoseconds("1.5e3"), Some(1_500_000));
        assert_eq!(nanoseconds("0.0004"), Some(0));
        for text in ["", "x", "1.x", ".5", "99999999999999999999", "nan"] {
            assert_eq!(nanoseconds(text), None, "{text}");
        }
    }

    #[test]
    fn strings_and_numbers_are_instants_alike() {
        let event = Event::parse(br#"{"ts":"1700000000000000.123","dur":2.5,"pid":"7"}"#).unwrap();
        assert_eq!(event.start(0), Some(1_700_000_000_000_000_123));
        assert_eq!((event.duration(), event.pid_text()), (2_500, "7"));
        assert!(Event::parse(b"[1]").is_none());
    }
}
