//! The inputs of an operator: packed by the application's thread, made text by ours.
//!
//! The text is a list with an entry for each input: `[[8,16],f32]` a tensor with its sizes and
//! type, `[=2]`, `[=0.5]`, `[=true]` a number or truth value, `[]` anything else, `[...]` where
//! more inputs were left out.
#![expect(unsafe_code, reason = "reads sizes that libtorch points at")]

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use super::layout::{RecordFunction, Value, ValueKind};
use super::library::TensorSymbols;

/// The packed inputs of an operator, at most.
pub(super) const MAX_PACKED_BYTES: usize = 1024;

/// A tensor with more dimensions is none that libtorch makes.
const MAX_DIMENSIONS: i64 = 64;

/// Inputs that libtorch refused to describe, until shapes are given up: for each it prints a line.
const MAX_REFUSED: u32 = 3;

const OTHER: u8 = 0;
const TENSOR: u8 = 1;
const DOUBLE: u8 = 2;
const INT: u8 = 3;
const BOOL: u8 = 4;
const CUT: u8 = 5;

/// Tensors whose sizes cannot be told (nested or symbolic ones), as counted since the last session
/// began.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// Begins to count anew.
pub(super) fn reset() {
    REFUSED.store(0, Ordering::Relaxed);
}

/// Whether shapes were given up.
pub(super) fn are_given_up() -> bool {
    REFUSED.load(Ordering::Relaxed) >= MAX_REFUSED
}

/// Packs the inputs of `function` into `out`, and returns how many bytes that took.
#[inline]
pub(super) fn pack(function: RecordFunction, symbols: &TensorSymbols, out: &mut [u8]) -> usize {
    let mut packed = Packed { out, len: 0 };
    for value in function.inputs() {
        if !packed.push(value, symbols) {
            packed.cut();
            break;
        }
    }
    packed.len
}

struct Packed<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Packed<'_> {
    /// Appends an input; `false` = there is no room.
    #[inline]
    fn push(&mut self, value: Value, symbols: &TensorSymbols) -> bool {
        match value.kind() {
            ValueKind::Tensor => self.tensor(value, symbols),
            ValueKind::Double(number) => self.write(DOUBLE, &number.to_le_bytes()),
            ValueKind::Int(number) => self.write(INT, &number.to_le_bytes()),
            ValueKind::Bool(truth) => self.write(BOOL, &[u8::from(truth)]),
            ValueKind::Other => self.write(OTHER, &[]),
        }
    }

    #[inline]
    fn tensor(&mut self, value: Value, symbols: &TensorSymbols) -> bool {
        let Some((sizes, dtype)) = describe(value, symbols) else { return self.write(OTHER, &[]) };
        let need = 3 + size_of_val(sizes);
        let Some(room) = self.out.get_mut(self.len..self.len + need) else { return false };
        room[0] = TENSOR;
        room[1] = u8::try_from(dtype).unwrap_or(u8::MAX);
        room[2] = sizes.len() as u8;
        for (place, size) in room[3..].chunks_exact_mut(8).zip(sizes) {
            place.copy_from_slice(&size.to_le_bytes());
        }
        self.len += need;
        true
    }

    #[inline]
    fn write(&mut self, tag: u8, bytes: &[u8]) -> bool {
        let Some(room) = self.out.get_mut(self.len..self.len + 1 + bytes.len()) else {
            return false;
        };
        room[0] = tag;
        room[1..].copy_from_slice(bytes);
        self.len += room.len();
        true
    }

    /// Says that inputs were left out; where there is no room, instead of the last byte's input.
    #[cold]
    fn cut(&mut self) {
        if let Some(place) = self.out.get_mut(self.len) {
            *place = CUT;
            self.len += 1;
        }
    }
}

/// Sizes and type of a tensor; `None` where it is undefined or has none.
#[inline]
fn describe(value: Value, symbols: &TensorSymbols) -> Option<(&'static [i64], i32)> {
    if value.class() != symbols.plain || are_given_up() {
        return None;
    }
    let handle = value.handle();
    let (mut dimensions, mut sizes, mut dtype) = (0, std::ptr::null(), 0);
    // SAFETY: the value holds a tensor that is defined, and a pointer to it serves as the handle.
    let failed = unsafe { (symbols.dim)(handle, &mut dimensions) };
    if failed != 0 || !(0..=MAX_DIMENSIONS).contains(&dimensions) {
        return refused();
    }
    // SAFETY: as above.
    let failed = unsafe { (symbols.sizes)(handle, &mut sizes) };
    if failed != 0 || (sizes.is_null() && dimensions > 0) {
        return refused();
    }
    // SAFETY: as above.
    unsafe { (symbols.dtype)(handle, &mut dtype) };
    if dimensions == 0 {
        return Some((&[], dtype));
    }
    // SAFETY: the tensor has so many sizes there for as long as the start callback runs; the
    // slice is used by the caller at once and no longer.
    Some((unsafe { std::slice::from_raw_parts(sizes, dimensions as usize) }, dtype))
}

#[cold]
fn refused<T>() -> Option<T> {
    REFUSED.fetch_add(1, Ordering::Relaxed);
    None
}

/// Packed inputs as text. What is no packed input ends the text.
pub(super) fn text(mut packed: &[u8], out: &mut String) {
    while let Some((tag, rest)) = packed.split_first() {
        if !out.is_empty() {
            out.push(',');
        }
        let taken = match *tag {
            TENSOR => tensor_text(rest, out),
            DOUBLE => number_text(rest, out, |bytes| {
                let number = f64::from_le_bytes(bytes);
                // A whole number would else look like an integer.
                format!("{number:?}")
            }),
            INT => number_text(rest, out, |bytes| i64::from_le_bytes(bytes).to_string()),
            BOOL => {
                let truth = rest.first().is_some_and(|byte| *byte != 0);
                out.push_str(if truth { "[=true]" } else { "[=false]" });
                1
            }
            CUT => {
                out.push_str("[...]");
                0
            }
            _ => {
                out.push_str("[]");
                0
            }
        };
        packed = rest.get(taken..).unwrap_or_default();
    }
}

fn number_text(rest: &[u8], out: &mut String, text: impl Fn([u8; 8]) -> String) -> usize {
    if let Some(bytes) = rest.first_chunk() {
        out.push_str("[=");
        out.push_str(&text(*bytes));
        out.push(']');
    }
    8
}

fn tensor_text(rest: &[u8], out: &mut String) -> usize {
    let Some(([dtype, dimensions], sizes)) = rest.split_first_chunk() else { return rest.len() };
    let bytes = usize::from(*dimensions) * 8;
    out.push_str("[[");
    for (index, size) in sizes.chunks_exact(8).take(usize::from(*dimensions)).enumerate() {
        let size = i64::from_le_bytes(size.try_into().unwrap_or_default());
        let comma = if index > 0 { "," } else { "" };
        // Writing to a text cannot fail.
        let _written: std::fmt::Result = write!(out, "{comma}{size}");
    }
    out.push_str("],");
    out.push_str(dtype_text(*dtype));
    out.push(']');
    2 + bytes
}

/// `c10::ScalarType`, by its number.
fn dtype_text(number: u8) -> &'static str {
    const TEXTS: [&str; 30] = [
        "u8",
        "i8",
        "i16",
        "i32",
        "i64",
        "f16",
        "f32",
        "f64",
        "c32",
        "c64",
        "c128",
        "bool",
        "qi8",
        "qu8",
        "qi32",
        "bf16",
        "qu4x2",
        "qu2x4",
        "bits1x8",
        "bits2x4",
        "bits4x2",
        "bits8",
        "bits16",
        "f8e5m2",
        "f8e4m3fn",
        "f8e5m2fnuz",
        "f8e4m3fnuz",
        "u16",
        "u32",
        "u64",
    ];
    TEXTS.get(usize::from(number)).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use proptest::prelude::*;

    use super::super::layout::tests::FakeFunction;
    use super::*;

    const PLAIN: usize = 0x1000;

    #[repr(C)]
    struct FakeTensor {
        class: usize,
        sizes: &'static [i64],
        fails: bool,
    }

    fn of(handle: *const c_void) -> &'static FakeTensor {
        // SAFETY: the tests' values hold addresses of fake tensors that are never freed.
        let address: usize = unsafe { handle.cast::<usize>().read() };
        // SAFETY: as above.
        unsafe { &*(address as *const FakeTensor) }
    }

    unsafe extern "C" fn sizes(handle: *const c_void, out: *mut *const i64) -> i32 {
        let tensor = of(handle);
        // SAFETY: the caller passes a place.
        unsafe { out.write(tensor.sizes.as_ptr()) };
        i32::from(tensor.fails)
    }

    unsafe extern "C" fn dim(handle: *const c_void, out: *mut i64) -> i32 {
        // SAFETY: the caller passes a place.
        unsafe { out.write(of(handle).sizes.len() as i64) };
        0
    }

    unsafe extern "C" fn dtype(_handle: *const c_void, out: *mut i32) -> i32 {
        // SAFETY: the caller passes a place.
        unsafe { out.write(6) };
        0
    }

    const SYMBOLS: TensorSymbols = TensorSymbols { sizes, dim, dtype, plain: PLAIN };

    fn tensor(sizes: &'static [i64], fails: bool) -> [u64; 2] {
        of_class(PLAIN, sizes, fails)
    }

    fn of_class(class: usize, sizes: &'static [i64], fails: bool) -> [u64; 2] {
        [std::ptr::from_ref(Box::leak(Box::new(FakeTensor { class, sizes, fails }))) as u64, 1]
    }

    fn packed(inputs: &[[u64; 2]]) -> Vec<u8> {
        let function = FakeFunction::new(1, 0, 0).with_inputs(inputs);
        // SAFETY: the object is laid out as libtorch's are and lives to the end of the function.
        let function = unsafe { RecordFunction::new(function.address()) };
        let mut out = [0; MAX_PACKED_BYTES];
        let len = pack(function, &SYMBOLS, &mut out);
        out[..len].to_vec()
    }

    fn shown(packed: &[u8]) -> String {
        let mut out = String::new();
        text(packed, &mut out);
        out
    }

    #[test]
    fn inputs_come_out_as_text() {
        let inputs = [
            tensor(&[8, 16], false),
            tensor(&[], false),
            of_class(0x2000, &[9], true),
            [2, 5],
            [1.0f64.to_bits(), 3],
            [1, 9],
            [0, 0],
        ];
        let text = shown(&packed(&inputs));
        assert_eq!(text, "[[8,16],f32],[[],f32],[],[=2],[=1.0],[=true],[]");
    }

    #[test]
    fn many_inputs_are_cut_and_say_so() {
        let inputs = vec![[7, 5]; 1000];
        let text = shown(&packed(&inputs));
        assert!(text.ends_with(",[=7],[...]"), "{text}");
        assert!(packed(&inputs).len() <= MAX_PACKED_BYTES);
    }

    #[test]
    fn shapes_are_given_up_where_libtorch_refuses_them() {
        reset();
        let inputs = [tensor(&[3], true), tensor(&[2], false)];
        assert_eq!(shown(&packed(&inputs)), "[],[[2],f32]");
        for _ in 1..MAX_REFUSED {
            packed(&inputs);
        }
        assert!(are_given_up());
        assert_eq!(shown(&packed(&inputs)), "[],[]");
        reset();
    }

    proptest! {
        #[test]
        fn any_bytes_are_made_text(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let text = shown(&bytes);
            prop_assert!(text.len() <= 32 * bytes.len() + 16);
        }
    }
}
