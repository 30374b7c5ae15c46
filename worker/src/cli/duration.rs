//! Times as they are typed.

/// Reads `250ms`, `1.5s`, `2m` or `1h` as milliseconds; a unit must be given.
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return Err("give a number and a unit: 250ms, 1.5s, 2m or 1h".to_owned()),
    };
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number: f64 = match number.parse() {
        Ok(number) if plain => number,
        _ => return Err(format!("{number:?} is no number")),
    };
    let ms = number * factor;
    if ms > 86_400_000.0 {
        return Err("at most 24h".to_owned());
    }
    Ok(ms.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        for (text, ms) in
            [("250ms", 250), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000), ("0ms", 0)]
        {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1e3s", "25h", "1.2.3s", "5 s", "NaNs", "infs", "5ks"] {
            assert!(parse_ms(text).is_err(), "{text}");
        }
    }
}
