//! The inputs of operators, as their rows hold them (`[[8,16],f32],[=2],[]`).

/// An input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input<'a> {
    /// A tensor: its sizes with commas between, and its type.
    Tensor { sizes: &'a str, dtype: &'a str },
    /// A number or truth value.
    Number(&'a str),
    /// Anything else, or inputs that were left out.
    Other,
}

/// Reads the inputs; `None` where the text is none of such.
pub(crate) fn parse(mut text: &str) -> Option<Vec<Input<'_>>> {
    let mut inputs = Vec::new();
    while !text.is_empty() {
        if !inputs.is_empty() {
            text = text.strip_prefix(',')?;
        }
        let inner = text.strip_prefix('[')?;
        let input = if let Some(sizes) = inner.strip_prefix('[') {
            let (sizes, rest) = sizes.split_once("],")?;
            let (dtype, rest) = rest.split_once(']')?;
            text = rest;
            let is_size = |part: &str| part.parse::<i64>().is_ok();
            if !sizes.is_empty() && !sizes.split(',').all(is_size) {
                return None;
            }
            Input::Tensor { sizes, dtype }
        } else {
            let (value, rest) = inner.split_once(']')?;
            text = rest;
            value.strip_prefix('=').map_or(Input::Other, Input::Number)
        };
        inputs.push(input);
    }
    Some(inputs)
}

/// The sizes of all inputs, as PyTorch's tables show them: `[[8, 16], [], []]`.
pub(crate) fn table_text(text: &str) -> String {
    let Some(inputs) = parse(text) else { return text.to_owned() };
    let parts: Vec<String> = inputs
        .iter()
        .map(|input| match input {
            Input::Tensor { sizes, .. } => format!("[{}]", sizes.replace(',', ", ")),
            Input::Number(_) | Input::Other => "[]".to_owned(),
        })
        .collect();
    format!("[{}]", parts.join(", "))
}

/// What PyTorch's traces call a type.
pub(crate) fn pytorch_type(dtype: &str) -> &str {
    match dtype {
        "u8" => "unsigned char",
        "i8" => "signed char",
        "i16" => "short",
        "i32" => "int",
        "i64" => "long int",
        "f16" => "c10::Half",
        "f32" => "float",
        "f64" => "double",
        "c32" => "c10::complex<c10::Half>",
        "c64" => "c10::complex<float>",
        "c128" => "c10::complex<double>",
        "bf16" => "c10::BFloat16",
        "f8e5m2" => "c10::Float8_e5m2",
        "f8e4m3fn" => "c10::Float8_e4m3fn",
        "u16" => "unsigned short",
        "u32" => "unsigned int",
        "u64" => "unsigned long",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn inputs_are_read_as_they_were_written() {
        let inputs = parse("[[8,16],f32],[[],i64],[=2],[=true],[],[...]").unwrap();
        let expected = [
            Input::Tensor { sizes: "8,16", dtype: "f32" },
            Input::Tensor { sizes: "", dtype: "i64" },
            Input::Number("2"),
            Input::Number("true"),
            Input::Other,
            Input::Other,
        ];
        assert_eq!(inputs, expected);
        assert_eq!(table_text("[[8,16],f32],[=2]"), "[[8, 16], []]");
        assert_eq!(parse("").unwrap(), []);
        for text in ["x", "[", "[[8],", "[[8,f32]", "[[a],f32]", "[],"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}", brackets in "[\\[\\],=0-9a]{0,80}") {
            parse(&text);
            parse(&brackets);
            table_text(&brackets);
        }
    }
}
