//! Packs the rows of a block into columns.

use crate::spool::format::{
    COLUMN_BYTES, PAYLOAD_HEADER_BYTES, TRANSFORM_DELTA, TRANSFORM_END, TRANSFORM_HEAP,
    TRANSFORM_PLAIN,
};
use crate::spool::layout::{Column, Packing};

/// Packs rows; keeps its memory from block to block.
#[derive(Default)]
pub(crate) struct Encoder {
    numbers: Vec<u64>,
}

/// The numbers of one column, before they are cut into planes.
struct Packed {
    transform: u8,
    reference: u16,
    base: u64,
    min: u64,
    max: u64,
}

impl Encoder {
    /// The memory that it keeps.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.numbers.capacity() * size_of::<u64>()
    }

    /// Writes the unpacked payload of `rows` to `out`, which is cleared before.
    ///
    /// `dense` says that the heap references follow each other without gaps and cover the heap.
    pub(crate) fn encode(
        &mut self,
        rows: &[u8],
        stride: usize,
        columns: &[Column],
        dense: bool,
        heap: &[u8],
        out: &mut Vec<u8>,
    ) {
        let count = rows.len() / stride;
        self.numbers.resize(count, 0);
        out.clear();
        let mut split = Vec::new();
        let columns = if dense { columns } else { split_heap(columns, &mut split) };
        out.extend_from_slice(&(columns.len() as u16).to_le_bytes());
        out.resize(PAYLOAD_HEADER_BYTES + columns.len() * COLUMN_BYTES, 0);
        for (index, column) in columns.iter().enumerate() {
            let packed = self.pack(rows, stride, column);
            let planes = (64 - (packed.max - packed.min).leading_zeros()).div_ceil(8) as usize;
            write_planes(&self.numbers, packed.min, planes, out);
            let at = PAYLOAD_HEADER_BYTES + index * COLUMN_BYTES;
            let entry = &mut out[at..at + COLUMN_BYTES];
            entry[0..2].copy_from_slice(&(column.offset as u16).to_le_bytes());
            entry[2] = column.width as u8;
            entry[3] = packed.transform;
            entry[4] = planes as u8;
            entry[6..8].copy_from_slice(&packed.reference.to_le_bytes());
            entry[8..16].copy_from_slice(&packed.base.to_le_bytes());
            entry[16..24].copy_from_slice(&packed.min.to_le_bytes());
        }
        out.extend_from_slice(heap);
    }

    fn pack(&mut self, rows: &[u8], stride: usize, column: &Column) -> Packed {
        let at = column.offset as usize;
        match (column.packing, column.width) {
            (Packing::Delta, 8) => self.pack_delta(rows, stride, at),
            (Packing::End(time), 8) => self
                .pack_end(rows, stride, at, time as usize)
                .unwrap_or_else(|| self.pack_delta(rows, stride, at)),
            (Packing::Heap, _) => {
                let packed = self.pack_plain(rows, stride, |row| u64::from(u32_of(row, at + 4)));
                Packed { transform: TRANSFORM_HEAP, ..packed }
            }
            (_, 8) => self.pack_plain(rows, stride, |row| u64_of(row, at)),
            (_, 4) => self.pack_plain(rows, stride, |row| u64::from(u32_of(row, at))),
            (_, 2) => self.pack_plain(rows, stride, |row| u64::from(u16_of(row, at))),
            (_, _) => self.pack_plain(rows, stride, |row| u64::from(row[at])),
        }
    }

    #[inline]
    fn pack_plain(&mut self, rows: &[u8], stride: usize, read: impl Fn(&[u8]) -> u64) -> Packed {
        let (mut min, mut max) = (u64::MAX, 0);
        for (number, row) in self.numbers.iter_mut().zip(rows.chunks_exact(stride)) {
            let value = read(row);
            min = min.min(value);
            max = max.max(value);
            *number = value;
        }
        Packed { transform: TRANSFORM_PLAIN, reference: 0, base: 0, min: min.min(max), max }
    }

    fn pack_delta(&mut self, rows: &[u8], stride: usize, at: usize) -> Packed {
        let mut values = rows.chunks_exact(stride).map(|row| u64_of(row, at));
        let first = values.next().unwrap_or(0);
        // The row before the first is made up such that a constant step needs no plane.
        let step = values.next().map_or(0, |second| second.wrapping_sub(first));
        let base = first.wrapping_sub(step);
        let (mut min, mut max) = (u64::MAX, 0);
        let mut before = base;
        for (number, row) in self.numbers.iter_mut().zip(rows.chunks_exact(stride)) {
            let value = u64_of(row, at);
            let stored = zigzag(value.wrapping_sub(before));
            before = value;
            min = min.min(stored);
            max = max.max(stored);
            *number = stored;
        }
        Packed { transform: TRANSFORM_DELTA, reference: 0, base, min: min.min(max), max }
    }

    /// `None` where a row ends one tick before it begins: that number means "unfinished".
    fn pack_end(&mut self, rows: &[u8], stride: usize, at: usize, time: usize) -> Option<Packed> {
        let (mut min, mut max) = (u64::MAX, 0);
        let mut ambiguous = false;
        for (number, row) in self.numbers.iter_mut().zip(rows.chunks_exact(stride)) {
            let end = u64_of(row, at);
            let stored = match end {
                0 => 0,
                end => end.wrapping_sub(u64_of(row, time)).wrapping_add(1),
            };
            ambiguous |= stored == 0 && end != 0;
            min = min.min(stored);
            max = max.max(stored);
            *number = stored;
        }
        let reference = time as u16;
        let packed =
            Packed { transform: TRANSFORM_END, reference, base: 0, min: min.min(max), max };
        (!ambiguous).then_some(packed)
    }
}

/// Heap references whose offsets do not follow from the lengths: two plain columns each.
fn split_heap<'a>(columns: &[Column], split: &'a mut Vec<Column>) -> &'a [Column] {
    for column in columns {
        if column.packing != Packing::Heap {
            split.push(*column);
            continue;
        }
        for half in [0, 4] {
            split.push(Column { offset: column.offset + half, width: 4, packing: Packing::Plain });
        }
    }
    split
}

fn write_planes(numbers: &[u64], min: u64, planes: usize, out: &mut Vec<u8>) {
    if planes == 0 {
        return;
    }
    let count = numbers.len();
    let start = out.len();
    out.resize(start + planes * count, 0);
    let area = &mut out[start..];
    match planes {
        1 => cut::<1>(numbers, min, area),
        2 => cut::<2>(numbers, min, area),
        3 => cut::<3>(numbers, min, area),
        4 => cut::<4>(numbers, min, area),
        5 => cut::<5>(numbers, min, area),
        6 => cut::<6>(numbers, min, area),
        7 => cut::<7>(numbers, min, area),
        _ => cut::<8>(numbers, min, area),
    }
}

fn cut<const PLANES: usize>(numbers: &[u64], min: u64, area: &mut [u8]) {
    let count = numbers.len();
    for plane in 0..PLANES {
        let target = &mut area[plane * count..(plane + 1) * count];
        for (byte, number) in target.iter_mut().zip(numbers) {
            *byte = (number.wrapping_sub(min) >> (8 * plane)) as u8;
        }
    }
}

pub(crate) fn zigzag(delta: u64) -> u64 {
    (delta << 1) ^ (((delta as i64) >> 63) as u64)
}

pub(crate) fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

#[inline]
pub(crate) fn u64_of(row: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&row[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[inline]
pub(crate) fn u32_of(row: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&row[at..at + 4]);
    u32::from_le_bytes(bytes)
}

#[inline]
fn u16_of(row: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([row[at], row[at + 1]])
}
