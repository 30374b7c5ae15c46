//! JSON's numbers and strings.

/// A whole number.
#[inline]
pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A whole number with a sign.
#[inline]
pub(super) fn signed(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Nanoseconds as microseconds with three digits behind the point.
#[inline]
pub(super) fn time(out: &mut Vec<u8>, ns: u64) {
    let fraction = (ns % 1000) as usize;
    number(out, ns / 1000);
    let digit = |value: usize| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[b'.', digit(fraction / 100), digit(fraction / 10), digit(fraction)]);
}

/// A double; what JSON has no number for is 0.
pub(super) fn double(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        return out.push(b'0');
    }
    out.extend_from_slice(value.to_string().as_bytes());
}

/// A string with its quotes.
pub(super) fn escape(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' => out.extend_from_slice(br#"\""#),
            b'\\' => out.extend_from_slice(br"\\"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            0..0x20 | 0x7f => {
                out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
