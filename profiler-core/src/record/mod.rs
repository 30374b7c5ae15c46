//! Rows: the one record format from a driver's callback to the disk.
//!
//! A row is a small plain-old-data struct of fixed size. The same bytes cross the plugin door,
//! fill the spool and feed the exporters. A backend produces rows, an exporter reads them, and
//! neither knows the other.
//!
//! Three rules keep old readers and new writers together:
//!
//! * a kind is a number ([`RecordKind`]); a reader skips and counts a kind that it does not know;
//! * fields are only ever appended; every batch and block carries its *stride*, and a longer row
//!   than the reader knows is read by its prefix;
//! * variable bytes (names, shapes, frames) lie beside the rows in one heap; a row points there
//!   with a [`HeapRef`].
//!
//! Ids of strings, stacks and launch configurations are given by the producer and valid in its
//! stream only. A definition travels in the same group as, or before, its first use.

mod definitions;
mod fields;
mod rows;

pub use definitions::*;
pub use fields::{Field, Role, Row, Schema};
pub use rows::*;

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The number of a kind of row.
///
/// Rows have numbers below [`RecordKind::FIRST_DEFINITION`], definitions from there on. A number
/// is never given twice; kinds of other producers than this project start at
/// [`RecordKind::FIRST_FOREIGN`].
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct RecordKind(pub u16);

impl RecordKind {
    /// The first number of a definition.
    pub const FIRST_DEFINITION: Self = Self(256);
    /// The first number that this project will never use.
    pub const FIRST_FOREIGN: Self = Self(0x8000);

    /// Whether rows of this kind define an id for others to use.
    #[must_use]
    pub fn is_definition(self) -> bool {
        self >= Self::FIRST_DEFINITION && self < Self::FIRST_FOREIGN
    }

    /// The layout of this kind, if this build knows it.
    #[must_use]
    pub fn schema(self) -> Option<&'static Schema> {
        schemas().find(|schema| schema.kind == self)
    }

    /// The name of this kind as manifests and tables print it (`kernel`, `api_call`), if known.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.schema().map(|schema| schema.name)
    }
}

impl fmt::Debug for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "kind-{}", self.0),
        }
    }
}

/// The layouts of all kinds that this build knows, rows first, in the order of their numbers.
pub fn schemas() -> impl Iterator<Item = &'static Schema> {
    ROW_SCHEMAS.iter().chain(DEFINITION_SCHEMAS).copied()
}

macro_rules! stream_local_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The id that names nothing. Producers number from 1.
            pub const NONE: Self = Self(0);

            /// Whether this id names nothing.
            #[must_use]
            pub fn is_none(self) -> bool {
                self == Self::NONE
            }
        }
    };
}

stream_local_id! {
    /// A string defined in the same stream by a [`StringDef`].
    StringId
}
stream_local_id! {
    /// A call stack defined in the same stream by a [`StackDef`].
    StackId
}
stream_local_id! {
    /// A launch configuration defined in the same stream by a [`LaunchConfigDef`].
    LaunchConfigId
}

/// Bytes in the heap of the batch or block that holds the row.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct HeapRef {
    /// Where the bytes begin, in bytes from the heap's start.
    pub offset: u32,
    /// How many bytes there are.
    pub len: u32,
}

impl HeapRef {
    /// The bytes in `heap`, or `None` where the reference leaves it.
    #[must_use]
    pub fn of(self, heap: &[u8]) -> Option<&[u8]> {
        let start = self.offset as usize;
        heap.get(start..start.checked_add(self.len as usize)?)
    }

    /// The text in `heap`; broken UTF-8 is replaced, and a reference that leaves the heap is
    /// `None`.
    #[must_use]
    pub fn text(self, heap: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
        self.of(heap).map(String::from_utf8_lossy)
    }

    /// Appends `bytes` to `heap` and returns where they lie.
    ///
    /// Bytes past 4 GiB cannot be named; callers bound their heaps far below.
    pub fn push(heap: &mut Vec<u8>, bytes: &[u8]) -> Self {
        let place = Self { offset: heap.len() as u32, len: bytes.len() as u32 };
        heap.extend_from_slice(bytes);
        place
    }
}
