//! Secrets are masked before they leave a process.
//!
//! Command lines and environments hold keys. What is named like a secret (`--api-key`, `HF_TOKEN`)
//! is masked whatever it looks like, and what looks like one whatever its name.

/// What stands where a secret stood.
pub const MASK: &str = "***";

/// Parts of a name that mark a value as secret.
const WORDS: &[&str] = &[
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "api-key",
    "api_key",
    "apikey",
    "access-key",
    "access_key",
    "private-key",
    "private_key",
    "credential",
    "auth",
];

/// How keys of well-known services begin.
const BEGINNINGS: &[&str] = &[
    "sk-",
    "pk-",
    "rk-",
    "hf_",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "AKIA",
    "ASIA",
    "AIza",
    "ya29.",
    "eyJ",
    "nvapi-",
    "npm_",
    "pypi-",
];

/// A key has at least so many characters behind its beginning.
const MIN_KEY_CHARS: usize = 12;

/// A run of letters and digits so long is a key, whatever it begins with.
const MIN_RANDOM_CHARS: usize = 32;

/// A command line with its secrets masked: `--token X`, `--token=X`, `TOKEN=X`, passwords within
/// URLs, and what looks like a key.
#[must_use]
pub fn mask_command_line(parts: &[String]) -> Vec<String> {
    let mut masked = Vec::with_capacity(parts.len());
    let mut is_next_secret = false;
    for part in parts {
        if std::mem::take(&mut is_next_secret) && !part.starts_with('-') {
            masked.push(MASK.to_owned());
            continue;
        }
        match part.split_once('=') {
            Some((name, value)) => masked.push(format!("{name}={}", mask_value(name, value))),
            None => {
                is_next_secret = part.starts_with('-') && is_secret_name(part);
                masked.push(mask_text(part));
            }
        }
    }
    masked
}

/// The value of a variable or an option, masked where it or its name says so.
#[must_use]
pub fn mask_value(name: &str, value: &str) -> String {
    if is_secret_name(name) && !value.is_empty() {
        return MASK.to_owned();
    }
    mask_text(value)
}

/// Whether a name says that its value is secret.
fn is_secret_name(name: &str) -> bool {
    // Tokens of a language model are no secret, and an author is nobody's authentication.
    let lower = name.to_lowercase().replace("tokens", "").replace("tokeniz", "");
    let lower = lower.replace("author", "").replace("auto", "");
    WORDS.iter().any(|word| lower.contains(word))
}

/// A text without the words in it that look like keys, and without the passwords of URLs.
fn mask_text(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            masked.push(' ');
        }
        match is_key(word) {
            true => masked.push_str(MASK),
            false => masked.push_str(&mask_url(word)),
        }
    }
    masked
}

/// Whether a word looks like a key.
fn is_key(word: &str) -> bool {
    let is_begun = BEGINNINGS.iter().any(|begin| {
        word.strip_prefix(begin).is_some_and(|rest| rest.len() >= MIN_KEY_CHARS && is_run(rest))
    });
    is_begun || (word.len() >= MIN_RANDOM_CHARS && is_random(word))
}

/// Characters of base64, of base32 and of what joins them.
fn is_run(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+=".contains(&byte))
}

/// A long word of letters and digits in no order that a name has. Hexadecimal numbers of 40 and
/// more digits count: they may be keys as well as hashes.
fn is_random(word: &str) -> bool {
    const MIN_HEX_CHARS: usize = 40;
    if word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return word.len() >= MIN_HEX_CHARS;
    }
    let is_plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=".contains(&byte));
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let upper = word.bytes().filter(u8::is_ascii_uppercase).count();
    let lower = word.bytes().filter(u8::is_ascii_lowercase).count();
    is_plain && digits >= 3 && upper >= 3 && lower >= 3
}

/// `scheme://user:password@host` without the password.
fn mask_url(word: &str) -> String {
    let masked = || {
        let (scheme, rest) = word.split_once("://")?;
        let authority = rest.split('/').next()?;
        let (user, _) = authority.rsplit_once('@')?;
        let (name, _) = user.split_once(':')?;
        let after = &rest[user.len()..];
        Some(format!("{scheme}://{name}:{MASK}{after}"))
    };
    masked().unwrap_or_else(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(line: &[&str]) -> String {
        let line: Vec<String> = line.iter().map(|part| (*part).to_owned()).collect();
        mask_command_line(&line).join(" ")
    }

    #[test]
    fn secrets_of_a_command_line_are_masked() {
        let line = [
            "server",
            "--model",
            "m",
            "--api-key",
            "sk-1",
            "--hf_token=hf-2",
            "DB_PASSWORD=3",
            "--max-tokens",
            "512",
            "--url",
            "https://me:pw4@host/path",
            "https://host/?a=b@c",
            "--dtype=auto",
        ];
        assert_eq!(
            masked(&line),
            "server --model m --api-key *** --hf_token=*** DB_PASSWORD=*** --max-tokens \
             512 --url https://me:***@host/path https://host/?a=b@c --dtype=auto"
        );
    }

    #[test]
    fn what_looks_like_a_key_is_masked_whatever_its_name() {
        for key in [
            "sk-abcdefghijklmnop",
            "hf_AbCdEfGhIjKlMnOpQr",
            "ghp_0123456789abcdefghij",
            "AKIAIOSFODNN7EXAMPLE",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "0123456789abcdef0123456789abcdef01234567",
            "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE",
        ] {
            assert_eq!(masked(&["run", key]), format!("run {MASK}"), "{key}");
            assert_eq!(mask_value("PLAIN", key), MASK);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "/opt/models/Qwen2.5-Omni-7B-Instruct-GPTQ-Int4/snapshot",
            "sk-1",
            "VLLM::EngineCore_DP0",
            "a_rather_long_name_of_a_python_function_2",
            "--tensor-parallel-size",
            "max_num_batched_tokens=8192",
            "0,1,2,3",
        ] {
            assert_eq!(masked(&[text]), text);
        }
        assert_eq!(mask_value("RANK", "3"), "3");
    }

    proptest! {
        #[test]
        fn any_text_is_masked_without_panic(name in ".*", value in ".*") {
            let line = [name.clone(), value.clone()];
            prop_assert_eq!(mask_command_line(&line).len(), 2);
            prop_assert!(mask_value("API_KEY", &value).len() <= MASK.len());
        }

        #[test]
        fn a_named_secret_never_gets_out(value in "[a-z]{8}") {
            let line = masked(&["--api-key", &value, &format!("HF_TOKEN={value}")]);
            prop_assert!(!line.contains(&value), "{}", line);
        }
    }
}
