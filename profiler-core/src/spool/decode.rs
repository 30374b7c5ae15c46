//! Unpacks the columns of a block into rows.

use zerocopy::IntoBytes as _;

use crate::record::HeapRef;
use crate::spool::encode::{u32_of, u64_of, unzigzag};
use crate::spool::format::{
    COLUMN_BYTES, MAX_PAYLOAD_BYTES, PAYLOAD_HEADER_BYTES, TRANSFORM_DELTA, TRANSFORM_END,
    TRANSFORM_HEAP, TRANSFORM_PLAIN, u16_at, u64_at,
};

/// The payload contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Unpacks payloads; keeps its memory from block to block.
#[derive(Default)]
pub(crate) struct Decoder {
    numbers: Vec<u64>,
}

/// The shape of the rows: as stored, and as wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) count: usize,
    pub(crate) stored_stride: usize,
    /// A multiple of 8; longer rows are cut, shorter ones filled with zeros.
    pub(crate) stride: usize,
    pub(crate) heap_len: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    offset: usize,
    width: usize,
    transform: u8,
    planes: usize,
    reference: usize,
    base: u64,
    bias: u64,
}

impl Entry {
    fn parse(bytes: &[u8], shape: &Shape) -> Result<Self, Malformed> {
        let entry = Self {
            offset: usize::from(u16_at(bytes, 0)),
            width: usize::from(bytes[2]),
            transform: bytes[3],
            planes: usize::from(bytes[4]),
            reference: usize::from(u16_at(bytes, 6)),
            base: u64_at(bytes, 8),
            bias: u64_at(bytes, 16),
        };
        let sound = matches!(entry.width, 1 | 2 | 4 | 8)
            && entry.planes <= 8
            && entry.offset + entry.width <= shape.stored_stride
            && entry.reference + 8 <= shape.stored_stride.max(8)
            && (!matches!(entry.transform, TRANSFORM_END | TRANSFORM_HEAP) || entry.width == 8);
        if sound { Ok(entry) } else { Err(Malformed) }
    }
}

impl Decoder {
    /// Unpacks `payload`: rows of `shape.stride` bytes into `rows`, the heap into `heap`.
    pub(crate) fn decode(
        &mut self,
        payload: &[u8],
        shape: Shape,
        rows: &mut Vec<u64>,
        heap: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        rows.clear();
        heap.clear();
        let column_count = usize::from(u16_at(payload.get(..2).ok_or(Malformed)?, 0));
        let directory_end = PAYLOAD_HEADER_BYTES + column_count * COLUMN_BYTES;
        let directory = payload.get(PAYLOAD_HEADER_BYTES..directory_end).ok_or(Malformed)?;
        rows.resize(shape.count * shape.stride / 8, 0);
        self.numbers.resize(shape.count, 0);
        let out = rows.as_mut_slice().as_mut_bytes();

        let mut at = directory_end;
        let mut heap_fields = Vec::new();
        let mut hidden = Vec::new();
        for bytes in directory.chunks_exact(COLUMN_BYTES) {
            let entry = Entry::parse(bytes, &shape)?;
            let end = at + entry.planes * shape.count;
            let planes = payload.get(at..end).ok_or(Malformed)?;
            at = end;
            let within = entry.offset + entry.width <= shape.stride;
            if !within && entry.transform != TRANSFORM_HEAP {
                continue;
            }
            // The rows are zero already, and many fields of most rows stay so.
            if entry.planes == 0 && entry.bias == 0 && entry.transform == TRANSFORM_PLAIN {
                continue;
            }
            self.join_planes(planes, &entry);
            match within {
                true => self.place(out, &shape, &entry)?,
                false => hidden.push(self.lengths()?),
            }
            if entry.transform == TRANSFORM_HEAP {
                heap_fields.push(match within {
                    true => HeapField::Known(entry.offset),
                    false => HeapField::Hidden(hidden.len() - 1),
                });
            }
        }
        let stored_heap = payload.get(at..).ok_or(Malformed)?;
        if stored_heap.len() != shape.heap_len {
            return Err(Malformed);
        }
        heap.extend_from_slice(stored_heap);
        if !heap_fields.is_empty() {
            rebuild_offsets(out, shape.stride, &heap_fields, &hidden, heap.len())?;
        }
        Ok(())
    }

    fn lengths(&self) -> Result<Vec<u32>, Malformed> {
        self.numbers.iter().map(|&number| length(number)).collect()
    }

    fn join_planes(&mut self, planes: &[u8], entry: &Entry) {
        let count = self.numbers.len();
        let mut planes = planes.chunks_exact(count.max(1));
        let Some(lowest) = planes.next() else { return self.numbers.fill(entry.bias) };
        for (number, &byte) in self.numbers.iter_mut().zip(lowest) {
            *number = entry.bias.wrapping_add(u64::from(byte));
        }
        for (plane, bytes) in (1..).zip(planes) {
            for (number, &byte) in self.numbers.iter_mut().zip(bytes) {
                *number = number.wrapping_add(u64::from(byte) << (8 * plane));
            }
        }
    }

    fn place(&mut self, out: &mut [u8], shape: &Shape, entry: &Entry) -> Result<(), Malformed> {
        match entry.transform {
            TRANSFORM_PLAIN => {}
            TRANSFORM_DELTA => {
                let mut value = entry.base;
                for number in &mut self.numbers {
                    value = value.wrapping_add(unzigzag(*number));
                    *number = value;
                }
            }
            TRANSFORM_END => {
                if entry.reference + 8 > shape.stride {
                    return Err(Malformed);
                }
                for (number, row) in self.numbers.iter_mut().zip(out.chunks_exact(shape.stride)) {
                    *number = match *number {
                        0 => 0,
                        stored => u64_of(row, entry.reference).wrapping_add(stored.wrapping_sub(1)),
                    };
                }
            }
            TRANSFORM_HEAP => {
                for number in &mut self.numbers {
                    *number = u64::from(length(*number)?) << 32;
                }
            }
            _ => return Err(Malformed),
        }
        let rows = out.chunks_exact_mut(shape.stride);
        let at = entry.offset;
        match entry.width {
            8 => {
                for (row, number) in rows.zip(&self.numbers) {
                    row[at..at + 8].copy_from_slice(&number.to_le_bytes());
                }
            }
            4 => {
                for (row, number) in rows.zip(&self.numbers) {
                    row[at..at + 4].copy_from_slice(&(*number as u32).to_le_bytes());
                }
            }
            2 => {
                for (row, number) in rows.zip(&self.numbers) {
                    row[at..at + 2].copy_from_slice(&(*number as u16).to_le_bytes());
                }
            }
            _ => {
                for (row, number) in rows.zip(&self.numbers) {
                    row[at] = *number as u8;
                }
            }
        }
        Ok(())
    }
}

fn length(number: u64) -> Result<u32, Malformed> {
    match number {
        0..=MAX_LENGTH => Ok(number as u32),
        _ => Err(Malformed),
    }
}

const MAX_LENGTH: u64 = MAX_PAYLOAD_BYTES as u64;

/// A heap reference whose bytes have their place in the heap.
enum HeapField {
    /// At this offset of the row.
    Known(usize),
    /// In the part of the row that this build does not know: its lengths stand in this list.
    Hidden(usize),
}

fn rebuild_offsets(
    out: &mut [u8],
    stride: usize,
    fields: &[HeapField],
    hidden: &[Vec<u32>],
    heap_len: usize,
) -> Result<(), Malformed> {
    let mut next = 0usize;
    for (index, row) in out.chunks_exact_mut(stride).enumerate() {
        for field in fields {
            let len = match field {
                HeapField::Known(at) => u32_of(row, at + 4) as usize,
                HeapField::Hidden(list) => hidden[*list][index] as usize,
            };
            if len == 0 {
                continue;
            }
            let place = HeapRef { offset: next as u32, len: len as u32 };
            next += len;
            if next > heap_len {
                return Err(Malformed);
            }
            if let HeapField::Known(at) = field {
                row[*at..at + 8].copy_from_slice(place.as_bytes());
            }
        }
    }
    Ok(())
}
