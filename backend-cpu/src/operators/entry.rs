//! What application threads leave in chunks.

use profiler_core::record::{Operator, Row as _};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An operator: [`OperatorHead`], then its inputs as [`super::shapes`] packs them.
pub(super) const OPERATOR: u16 = Operator::KIND.0;
/// A name: its id (4 bytes), then its text.
pub(super) const NAME: u16 = 1;
/// libtorch's number (8 bytes) of the thread that writes it.
pub(super) const THREAD: u16 = 2;

/// What stands before the inputs of an operator.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct OperatorHead {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) sequence: i64,
    /// libtorch's number, cut to 32 bits; 0 = none.
    pub(super) forward_thread: u32,
    pub(super) name: u32,
    pub(super) depth: u16,
    pub(super) scope: u16,
    pub(super) reserved: u32,
}
