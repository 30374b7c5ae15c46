//! What the spool and the exporters know of a row beyond its bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::RecordKind;

/// A fixed-size row.
///
/// Implemented by the `rows!` macro alone: it derives the layout table from the fields, so that
/// the two cannot differ.
pub trait Row: FromBytes + IntoBytes + Immutable + KnownLayout + Copy + Default + 'static {
    /// The number of this kind.
    const KIND: RecordKind;
    /// The layout of this kind.
    const SCHEMA: &'static Schema;
    /// The size of a row in bytes, a multiple of 8.
    const STRIDE: u32 = size_of::<Self>() as u32;
}

/// The layout of a kind of row.
#[derive(Debug)]
pub struct Schema {
    /// The number of this kind.
    pub kind: RecordKind,
    /// The name of this kind in manifests, tables and Parquet files (`api_call`).
    pub name: &'static str,
    /// The size of a row in bytes, a multiple of 8.
    pub stride: u32,
    /// The fields in the order of their offsets, without gaps.
    pub fields: &'static [Field],
}

impl Schema {
    /// The field of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// One field of a row.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The field's name, as in the struct.
    pub name: &'static str,
    /// Where it lies, in bytes from the row's start.
    pub offset: u32,
    /// Its size in bytes: 1, 2, 4 or 8.
    pub width: u32,
    /// What it means.
    pub role: Role,
}

/// What a field means: how the spool packs it and how tables show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// An instant in the clock domain of the stream (ns; ticks in a TSC stream). The first such
    /// field of a row is the one that orders it. 0 where there is none.
    Time,
    /// An instant that lies near the row's first [`Role::Time`]; 0 = the row never ended.
    EndTime,
    /// A number that mostly grows by small steps from row to row (correlation ids, addresses of a
    /// listing, sequence numbers).
    Sequence,
    /// An unsigned number without further structure.
    Number,
    /// A two's complement signed number.
    Signed,
    /// An IEEE 754 double.
    Float,
    /// A [`super::StringId`].
    String,
    /// A [`super::StackId`].
    Stack,
    /// A [`super::LaunchConfigId`].
    LaunchConfig,
    /// A [`super::HeapRef`]: offset in the low, length in the high four bytes.
    Heap,
    /// Zero bytes that keep the alignment. Writers may put them to use later.
    Reserved,
}

/// Declares rows: the struct, its layout table and its [`Row`] implementation.
macro_rules! rows {
    (const $schemas:ident; $($(#[$doc:meta])* $name:ident = $number:literal, $text:literal {
        $($(#[$field_doc:meta])* $field:ident : $type:ty = $role:ident,)*
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq)]
            #[derive(zerocopy::FromBytes, zerocopy::IntoBytes)]
            #[derive(zerocopy::Immutable, zerocopy::KnownLayout)]
            #[repr(C)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            impl $crate::record::Row for $name {
                const KIND: $crate::record::RecordKind = $crate::record::RecordKind($number);
                const SCHEMA: &'static $crate::record::Schema = {
                    const FIELDS: &[$crate::record::Field] = &[$(
                        $crate::record::Field {
                            name: stringify!($field),
                            offset: std::mem::offset_of!($name, $field) as u32,
                            width: size_of::<$type>() as u32,
                            role: $crate::record::Role::$role,
                        },
                    )*];
                    const { assert!(size_of::<$name>() % 8 == 0, "a stride is a multiple of 8") };
                    &$crate::record::Schema {
                        kind: $crate::record::RecordKind($number),
                        name: $text,
                        stride: size_of::<$name>() as u32,
                        fields: FIELDS,
                    }
                };
            }
        )*

        /// The layouts declared here, in the order of their numbers.
        pub(super) const $schemas: &[&$crate::record::Schema] =
            &[$(<$name as $crate::record::Row>::SCHEMA),*];
    };
}
pub(super) use rows;
