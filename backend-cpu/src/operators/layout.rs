//! What lies where in libtorch's objects: the same from 2.8 to 2.15, and looked at again in every
//! process.
//!
//! `at::RecordFunction` (ATen/record_function.h) is 344 bytes long, an `IValue`
//! (ATen/core/ivalue.h) 16.
#![expect(unsafe_code, reason = "reads objects of a foreign library")]

use std::ffi::c_void;

use super::library::Symbols;

/// `at::RecordFunctionCallback`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RecordFunctionCallback {
    pub(super) start: StartCallback,
    pub(super) end: EndCallback,
    pub(super) sampling_probability: f64,
    pub(super) scopes: [bool; SCOPES],
    pub(super) needs_inputs: bool,
    pub(super) needs_outputs: bool,
    pub(super) needs_ids: bool,
}

const _: () = assert!(size_of::<RecordFunctionCallback>() == 40);

/// Returns a `std::unique_ptr<ObserverContext>`: on x86-64 through a hidden pointer, which comes
/// first and is returned.
pub(super) type StartCallback =
    unsafe extern "C" fn(*mut *mut c_void, *const u8) -> *mut *mut c_void;

pub(super) type EndCallback = unsafe extern "C" fn(*const u8, *mut c_void);

/// Kinds of functions, `at::RecordScope`.
pub(super) const SCOPES: usize = 10;

/// `RecordScope::USER_SCOPE`: what `record_function` marks.
pub(super) const USER_SCOPE: u8 = 7;

const THREAD: usize = 88;
const SCOPE: usize = 96;
const SEQUENCE: usize = 200;
const INPUTS: usize = 208;
const INPUT_COUNT: usize = 216;
const FORWARD_THREAD: usize = 304;

const VALUE_BYTES: usize = 16;
const VALUE_TAG: usize = 8;

/// A running function.
#[derive(Clone, Copy)]
pub(super) struct RecordFunction(*const u8);

impl RecordFunction {
    /// The object at an address.
    ///
    /// # Safety
    ///
    /// * libtorch gave the address to a callback, and the callback has not returned.
    pub(super) unsafe fn new(address: *const u8) -> Self {
        Self(address)
    }

    /// Tells functions apart that run at the same time.
    #[inline]
    pub(super) fn address(self) -> usize {
        self.0 as usize
    }

    /// libtorch's number of the thread.
    #[inline]
    pub(super) fn thread(self) -> u64 {
        self.read(THREAD)
    }

    #[inline]
    pub(super) fn scope(self) -> u8 {
        self.read(SCOPE)
    }

    #[inline]
    pub(super) fn sequence(self) -> i64 {
        self.read(SEQUENCE)
    }

    /// Backward: libtorch's number of the forward pass's thread; else 0.
    #[inline]
    pub(super) fn forward_thread(self) -> u64 {
        self.read(FORWARD_THREAD)
    }

    /// The inputs, where they were asked for.
    #[inline]
    pub(super) fn inputs(self) -> impl Iterator<Item = Value> {
        let first: *const u8 = self.read(INPUTS);
        let count: usize = self.read(INPUT_COUNT);
        // SAFETY: libtorch keeps so many values there while the start callback runs; their number
        // was looked at by `is_as_expected`.
        (0..count).map(move |index| Value(unsafe { first.add(index * VALUE_BYTES) }))
    }

    /// Whether the object looks as it must, by what libtorch itself says.
    pub(super) fn is_as_expected(self, symbols: &Symbols, with_inputs: bool) -> bool {
        // SAFETY: a static function without parameters.
        let thread = unsafe { (symbols.current_thread_id)() };
        // SAFETY: the object is a RecordFunction, whatever its layout.
        let inputs = unsafe { (symbols.num_inputs)(self.0) };
        self.thread() == thread
            && usize::from(self.scope()) < SCOPES
            && self.sequence() >= -1
            && (!with_inputs || self.read::<usize>(INPUT_COUNT) == inputs)
    }

    #[inline]
    fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: every offset lies within the object, which is 344 bytes long in all releases.
        let field = unsafe { self.0.add(offset) };
        // SAFETY: any bits are a value of the types that are read here; a pointer among them is
        // followed only after `is_as_expected`.
        unsafe { field.cast::<T>().read_unaligned() }
    }
}

/// An input, `c10::IValue`.
#[derive(Clone, Copy)]
pub(super) struct Value(*const u8);

/// What an input is, as far as it is recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ValueKind {
    Tensor,
    Double(f64),
    Int(i64),
    Bool(bool),
    Other,
}

impl Value {
    #[inline]
    pub(super) fn kind(self) -> ValueKind {
        match self.read::<u32>(VALUE_TAG) {
            1 => ValueKind::Tensor,
            3 => ValueKind::Double(self.read(0)),
            5 => ValueKind::Int(self.read(0)),
            9 => ValueKind::Bool(self.read::<u8>(0) != 0),
            _ => ValueKind::Other,
        }
    }

    /// Where the functions of a tensor's class lie; 0 = it points at nothing.
    #[inline]
    pub(super) fn class(self) -> usize {
        let target: *const usize = self.read(0);
        if target.is_null() {
            return 0;
        }
        // SAFETY: a value with the tag of a tensor points at one, and that begins so: it has
        // virtual functions.
        unsafe { target.read() }
    }

    /// As libtorch's C interface takes a tensor.
    #[inline]
    pub(super) fn handle(self) -> *const c_void {
        self.0.cast()
    }

    #[inline]
    fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: both offsets lie within the value.
        let field = unsafe { self.0.add(offset) };
        // SAFETY: any bits are a value of the types that are read here.
        unsafe { field.cast::<T>().read_unaligned() }
    }
}

/// Objects as libtorch would lay them out.
#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) struct FakeFunction {
        pub(in super::super) bytes: [u64; 43],
    }

    impl FakeFunction {
        pub(in super::super) fn new(thread: u64, scope: u8, sequence: i64) -> Self {
            let mut bytes = [0; 43];
            bytes[THREAD / 8] = thread;
            bytes[SCOPE / 8] = u64::from(scope);
            bytes[SEQUENCE / 8] = sequence as u64;
            Self { bytes }
        }

        pub(in super::super) fn with_inputs(mut self, inputs: &[[u64; 2]]) -> Self {
            self.bytes[INPUTS / 8] = inputs.as_ptr() as u64;
            self.bytes[INPUT_COUNT / 8] = inputs.len() as u64;
            self
        }

        pub(in super::super) fn address(&self) -> *const u8 {
            self.bytes.as_ptr().cast()
        }
    }

    #[test]
    fn values_are_told_apart_by_their_tags() {
        let tensor = [7usize];
        let values = [
            [tensor.as_ptr() as u64, 1],
            [1.5f64.to_bits(), 3],
            [3, 5],
            [1, 9],
            [0, 0],
            [0, 0xFF11],
        ];
        let function = FakeFunction::new(1, 0, -1).with_inputs(&values);
        // SAFETY: the object is laid out as libtorch's are and lives to the end of the test.
        let function = unsafe { RecordFunction::new(function.address()) };
        let kinds: Vec<ValueKind> = function.inputs().map(Value::kind).collect();
        let expected = [
            ValueKind::Tensor,
            ValueKind::Double(1.5),
            ValueKind::Int(3),
            ValueKind::Bool(true),
            ValueKind::Other,
            ValueKind::Other,
        ];
        assert_eq!(kinds, expected);
        assert_eq!(function.inputs().next().map(Value::class), Some(7));
        assert_eq!(function.sequence(), -1);
    }
}
