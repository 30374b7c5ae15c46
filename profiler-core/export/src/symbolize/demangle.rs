//! Readable names from mangled ones, at a bounded cost.

use std::borrow::Cow;
use std::fmt::{self, Write};

use cpp_demangle::{BorrowedSymbol, DemangleOptions};

/// The longest name that leaves this module. Substitutions let a few hundred mangled bytes stand
/// for gigabytes.
pub const MAX_NAME_BYTES: usize = 16 << 10;

/// The longest mangled name that is looked at; a longer one stays as it is.
const MAX_MANGLED_BYTES: usize = 64 << 10;

/// The readable form of a Rust or C++ name, with parameters; any other name as it is.
///
/// The hash at the end of Rust names is left out. A name longer than [`MAX_NAME_BYTES`] is cut
/// and ends in `…`.
#[must_use]
pub fn demangle(name: &str) -> Cow<'_, str> {
    demangle_with(name, DemangleOptions::new())
}

/// As [`demangle`], without the parameters and return types of C++ functions: for call stacks,
/// where the name alone tells enough.
#[must_use]
pub fn demangle_function(name: &str) -> Cow<'_, str> {
    demangle_with(name, DemangleOptions::new().no_params().no_return_type())
}

fn demangle_with(name: &str, options: DemangleOptions) -> Cow<'_, str> {
    if name.len() > MAX_MANGLED_BYTES {
        return shorten(name);
    }
    // `_R` is Rust's own scheme, `_ZN…17h<hash>E` its older one; both before C++, whose names the
    // older one resembles.
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        let mut text = Limited::default();
        return match write!(text, "{rust:#}") {
            Ok(()) => Cow::Owned(text.text),
            Err(_) => shorten(name),
        };
    }
    if !name.starts_with("_Z") && !name.starts_with("__Z") && !name.starts_with("_GLOBAL_") {
        return shorten(name);
    }
    let Ok(symbol) = BorrowedSymbol::new(name.as_bytes()) else { return shorten(name) };
    let mut text = Limited::default();
    match symbol.structured_demangle(&mut text, &options) {
        Ok(()) if !text.text.is_empty() => Cow::Owned(text.text),
        _ if text.full => Cow::Owned(text.cut()),
        _ => shorten(name),
    }
}

/// `name`, cut at [`MAX_NAME_BYTES`].
pub(crate) fn shorten(name: &str) -> Cow<'_, str> {
    if name.len() <= MAX_NAME_BYTES {
        return Cow::Borrowed(name);
    }
    let end = char_boundary(name, MAX_NAME_BYTES - ELLIPSIS.len());
    Cow::Owned(format!("{}{ELLIPSIS}", &name[..end]))
}

/// The greatest character boundary of `text` up to `at`.
fn char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0)
}

const ELLIPSIS: &str = "…";

/// Text that refuses to grow past [`MAX_NAME_BYTES`], which ends the demangling.
#[derive(Default)]
struct Limited {
    text: String,
    full: bool,
}

impl Limited {
    fn cut(mut self) -> String {
        self.text.push_str(ELLIPSIS);
        self.text
    }
}

impl Write for Limited {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = MAX_NAME_BYTES - ELLIPSIS.len() - self.text.len();
        if part.len() <= room {
            self.text.push_str(part);
            return Ok(());
        }
        self.text.push_str(&part[..char_boundary(part, room)]);
        self.full = true;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_names_lose_their_hash() {
        assert_eq!(
            demangle("_ZN4core3fmt9Formatter9write_str17h0123456789abcdefE"),
            "core::fmt::Formatter::write_str"
        );
        assert_eq!(demangle("_RNvCs1234_7mycrate3foo"), "mycrate::foo");
    }

    #[test]
    fn cpp_names_keep_or_lose_their_parameters() {
        assert_eq!(
            demangle("_ZN2at6native3addERKNS_6TensorEi"),
            "at::native::add(at::Tensor const&, int)"
        );
        assert_eq!(demangle_function("_ZN2at6native3addERKNS_6TensorEi"), "at::native::add");
    }

    #[test]
    fn other_names_stay() {
        for name in ["main", "", "_start", "_Z", "cudaLaunchKernel", "_ZN", "ΩmegaKernel"] {
            assert_eq!(demangle(name), name);
        }
    }

    #[test]
    fn a_name_that_doubles_forty_times_is_cut() {
        // Each pair<S_, S_> refers twice to the one before it.
        let mut name = String::from("_Z1fSt4pairIiiE");
        for level in 0..40_u32 {
            let id = match level {
                0 => "S_".to_owned(),
                n => format!(
                    "S{}_",
                    char::from_digit(n - 1, 36).map_or('Z', |c| c.to_ascii_uppercase())
                ),
            };
            name.push_str(&format!("St4pairI{id}{id}E"));
        }
        assert!(demangle(&name).len() <= MAX_NAME_BYTES);
    }

    #[test]
    fn a_long_plain_name_is_cut_at_a_character() {
        let name = "é".repeat(MAX_NAME_BYTES);
        let short = demangle(&name);
        assert!(short.len() <= MAX_NAME_BYTES && short.ends_with('…'));
    }
}
