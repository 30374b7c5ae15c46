//! Walking over the records of a buffer.
//!
//! `msptiActivityGetNextRecord` keeps a cursor for each thread and resets it at a buffer's end
//! alone: a walk that ends early makes the thread's next walk begin inside the next buffer. So a
//! walk goes to the end even where its records are not wanted; where the library refuses to go on,
//! the thread is of no more use for walks ([`Walked::cursor_lost`]).
//!
//! A record carries no size. The distance to the next one must be the size that is known for its
//! kind; where it is not, this libmspti has other layouts and nothing of it may be believed.

use super::layout::{self, Raw};
use super::library::{END_OF_BUFFER, SUCCESS};

/// One step: the code, and the record's place in the buffer. A place outside it is no place.
pub(crate) trait Steps {
    /// The next record.
    fn next(&mut self) -> (i32, Option<usize>);
}

/// A kind whose records are not as long as they are known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drift {
    pub(crate) kind: u32,
    pub(crate) expected: usize,
    pub(crate) found: usize,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Records that were read.
    pub(crate) records: u64,
    /// Records that were not understood; an estimate where the library did not go on.
    pub(crate) undecodable: u64,
    /// What did not fit.
    pub(crate) drift: Option<Drift>,
    /// The code with which the library refused to go on.
    pub(crate) refused: Option<i32>,
    /// This thread's cursor stands inside the buffer.
    pub(crate) cursor_lost: bool,
}

/// Walks over a buffer, and gives each record whose size is certain to `read`.
pub(crate) fn walk(bytes: &[u8], steps: &mut dyn Steps, read: &mut dyn FnMut(Raw<'_>)) -> Walked {
    let mut walked = Walked::default();
    // The record that waits for the distance to the next.
    let mut waiting: Option<usize> = None;
    let mut believed = true;
    // No record is shorter than 8 bytes, so that a library cannot keep us here.
    for _ in 0..=bytes.len() / 8 + 1 {
        let (code, place) = steps.next();
        let end = match (code, place) {
            (SUCCESS, Some(place)) => place,
            (SUCCESS, None) => bytes.len() + 1,
            (END_OF_BUFFER, _) => bytes.len(),
            (code, _) => {
                walked.refused = Some(code);
                walked.cursor_lost = true;
                let read_to = waiting.map_or(0, |start| finish(bytes, start, read, &mut walked));
                let rest = bytes.len().saturating_sub(read_to);
                walked.undecodable += rest.div_ceil(layout::SMALLEST_RECORD_BYTES * 2) as u64;
                return walked;
            }
        };
        if let Some(start) = waiting {
            let kind = Raw(bytes.get(start..).unwrap_or_default()).kind();
            let expected = layout::size(kind).unwrap_or(0);
            let found = end.saturating_sub(start);
            if believed && (found != expected || end > bytes.len()) {
                believed = false;
                walked.drift = Some(Drift { kind, expected, found });
            }
            match bytes.get(start..start + expected) {
                Some(record) if believed => {
                    walked.records += 1;
                    read(Raw(record));
                }
                _ => walked.undecodable += 1,
            }
        } else if end != 0 && code == SUCCESS {
            // The walk did not begin at the buffer's first byte.
            believed = false;
            walked.drift = Some(Drift { kind: 0, expected: 0, found: end });
        }
        if code == END_OF_BUFFER {
            return walked;
        }
        waiting = Some(end.min(bytes.len()));
    }
    walked.cursor_lost = true;
    walked.refused = Some(SUCCESS);
    walked
}

/// Reads the last record before the one that the library refused; says where it ends.
fn finish(bytes: &[u8], start: usize, read: &mut dyn FnMut(Raw<'_>), walked: &mut Walked) -> usize {
    let kind = Raw(bytes.get(start..).unwrap_or_default()).kind();
    let Some(size) = layout::size(kind) else { return start };
    let Some(record) = bytes.get(start..start + size).filter(|_| walked.drift.is_none()) else {
        return start;
    };
    walked.records += 1;
    read(Raw(record));
    start + size
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A library that answers from a list.
    struct Listed(std::vec::IntoIter<(i32, Option<usize>)>);

    impl Steps for Listed {
        fn next(&mut self) -> (i32, Option<usize>) {
            self.0.next().unwrap_or((END_OF_BUFFER, None))
        }
    }

    fn kernels(count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count * layout::kernel::SIZE];
        for record in bytes.chunks_mut(layout::kernel::SIZE) {
            record[0] = layout::kind::KERNEL as u8;
        }
        bytes
    }

    fn walk_listed(bytes: &[u8], answers: Vec<(i32, Option<usize>)>) -> (Walked, usize) {
        let mut read = 0;
        let walked = walk(bytes, &mut Listed(answers.into_iter()), &mut |_| read += 1);
        (walked, read)
    }

    #[test]
    fn records_of_the_known_size_are_read() {
        let bytes = kernels(3);
        let answers = vec![(SUCCESS, Some(0)), (SUCCESS, Some(56)), (SUCCESS, Some(112))];
        let (walked, read) = walk_listed(&bytes, answers);
        assert_eq!((walked, read), (Walked { records: 3, ..Walked::default() }, 3));
    }

    #[test]
    fn longer_records_are_drift_and_none_after_them_is_believed() {
        let bytes = kernels(3);
        let answers = vec![(SUCCESS, Some(0)), (SUCCESS, Some(64)), (SUCCESS, Some(128))];
        let (walked, read) = walk_listed(&bytes, answers);
        let drift = Drift { kind: layout::kind::KERNEL, expected: 56, found: 64 };
        assert_eq!((walked.drift, walked.undecodable, read), (Some(drift), 3, 0));
        assert!(!walked.cursor_lost);
    }

    #[test]
    fn a_refusal_costs_the_rest_of_the_buffer_and_the_cursor() {
        let bytes = kernels(3);
        let (walked, read) = walk_listed(&bytes, vec![(SUCCESS, Some(0)), (999, None)]);
        assert_eq!((walked.refused, walked.cursor_lost, read), (Some(999), true, 1));
        assert_eq!(walked.undecodable, 3, "112 bytes, at about 48 a record");
    }

    #[test]
    fn a_walk_that_begins_inside_the_buffer_is_not_believed() {
        let bytes = kernels(2);
        let (walked, read) = walk_listed(&bytes, vec![(SUCCESS, Some(56))]);
        assert_eq!((walked.undecodable, read), (1, 0));
        assert!(walked.drift.is_some());
    }

    proptest! {
        /// Whatever the library answers, a walk ends, and reads only what lies in the buffer.
        #[test]
        fn hostile_libraries(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            answers in proptest::collection::vec(
                (prop_oneof![4 => Just(0), 1 => 0i32..7, 1 => Just(999)],
                 proptest::option::of(0usize..500)), 0..80),
        ) {
            let (walked, read) = walk_listed(&bytes, answers);
            prop_assert_eq!(walked.records, read as u64);
            prop_assert!(read <= bytes.len() / 8 + 1);
        }
    }
}
