//! Which fields of a row become which columns.

use std::sync::LazyLock;

use crate::record::{
    LaunchConfigDef, RecordKind, Role, Row as _, Schema, StackDef, StringDef, schemas,
};

/// How a column is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// As it is, less the smallest.
    Plain,
    /// The difference to the row before.
    Delta,
    /// The difference to the row's instant, which lies at this offset.
    End(u32),
    /// A heap reference.
    Heap,
}

/// A column of a kind of row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) offset: u32,
    pub(crate) width: u32,
    pub(crate) packing: Packing,
}

/// What the writer needs to know of a kind.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The columns in the order of their offsets.
    pub(crate) columns: Vec<Column>,
    /// The offset of the instant that orders the rows.
    pub(crate) time: Option<u32>,
    /// The offsets of the heap references.
    pub(crate) heap_refs: Vec<u32>,
    /// The fields that name definitions of the stream: offset, kind of the definition.
    pub(crate) ids: Vec<(u32, RecordKind)>,
}

impl Layout {
    fn new(schema: &Schema) -> Self {
        let time = schema.fields.iter().find(|f| f.role == Role::Time).map(|f| f.offset);
        let mut columns = Vec::with_capacity(schema.fields.len());
        let mut heap_refs = Vec::new();
        let mut ids = Vec::new();
        let defines = schema.kind.is_definition();
        for field in schema.fields {
            let packing = match (field.role, time) {
                (Role::Time | Role::Sequence, _) => Packing::Delta,
                (Role::EndTime, Some(time)) if time < field.offset => Packing::End(time),
                (Role::Heap, _) => Packing::Heap,
                _ => Packing::Plain,
            };
            columns.push(Column { offset: field.offset, width: field.width, packing });
            if field.role == Role::Heap {
                heap_refs.push(field.offset);
            }
            let target = match field.role {
                Role::String => Some(StringDef::KIND),
                Role::Stack => Some(StackDef::KIND),
                Role::LaunchConfig => Some(LaunchConfigDef::KIND),
                _ => None,
            };
            if let Some(target) = target
                && !(defines && target == schema.kind)
            {
                ids.push((field.offset, target));
            }
        }
        Self { columns, time, heap_refs, ids }
    }

    /// The size of the row that this build knows.
    pub(crate) fn stride(&self) -> usize {
        self.columns.last().map_or(0, |last| (last.offset + last.width) as usize)
    }

    /// The layout of a kind, if this build knows it.
    pub(crate) fn of(kind: RecordKind) -> Option<&'static Self> {
        let index = usize::from(*KNOWN.index.get(usize::from(kind.0))?);
        KNOWN.layouts.get(index)
    }
}

/// Reached through by every batch, hence a table and no search.
static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let mut known = Known { index: Vec::new(), layouts: Vec::new() };
    for schema in schemas() {
        let number = usize::from(schema.kind.0);
        if known.index.len() <= number {
            known.index.resize(number + 1, u16::MAX);
        }
        known.index[number] = known.layouts.len() as u16;
        known.layouts.push(Layout::new(schema));
    }
    known
});

struct Known {
    index: Vec<u16>,
    layouts: Vec<Layout>,
}

/// The columns of rows of `stride` bytes: those of the layout that lie within, and the rest as
/// words.
pub(crate) fn columns(layout: Option<&Layout>, stride: usize) -> Vec<Column> {
    let mut columns = Vec::new();
    let mut covered = 0;
    for column in layout.map_or(&[][..], |layout| &layout.columns) {
        if (column.offset + column.width) as usize > stride {
            break;
        }
        columns.push(*column);
        covered = (column.offset + column.width) as usize;
    }
    // A row of an older producer may end within two fields of four bytes, never within a field.
    while covered < stride {
        let width = if covered % 8 == 0 { 8 } else { 1 };
        columns.push(Column { offset: covered as u32, width, packing: Packing::Plain });
        covered += width as usize;
    }
    columns
}
