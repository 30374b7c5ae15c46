//! Names of code that was generated at run time: perf maps and jit dumps.
//!
//! Both are written by the profiled program, so both are read as foreign bytes: line by line or
//! record by record, with a bound on what is kept.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use super::demangle::shorten;

/// The most functions that are kept of one process.
const MAX_FUNCTIONS: usize = 1 << 20;
/// The most bytes of names that are kept of one process.
const MAX_NAMES_BYTES: usize = 64 << 20;
/// The longest line of a perf map, and the longest name of a jit dump.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// Functions by address; the last one at an address holds.
#[derive(Debug, Default)]
pub(super) struct JitFunctions {
    by_start: BTreeMap<u64, Function>,
    names_bytes: usize,
}

#[derive(Clone, Debug)]
struct Function {
    end: u64,
    name: Arc<str>,
}

impl JitFunctions {
    /// The function at an address, and where it begins.
    pub(super) fn find(&self, address: u64) -> Option<(Arc<str>, u64)> {
        let (&start, function) = self.by_start.range(..=address).next_back()?;
        (address < function.end).then(|| (function.name.clone(), start))
    }

    /// Reads a perf map: a line `start size name` for each function, in hexadecimal. Broken lines
    /// are passed over; answers how many were.
    pub(super) fn read_perf_map(&mut self, mut map: impl BufRead) -> io::Result<u64> {
        let mut broken = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = map.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(broken);
            }
            if line.last() != Some(&b'\n') && read as u64 == MAX_LINE_BYTES {
                skip_line(&mut map)?;
            }
            let text = String::from_utf8_lossy(&line);
            match parse_line(text.trim_end()) {
                Some((start, size, name)) => self.insert(start, size, name),
                None => broken += 1,
            }
        }
    }

    /// Reads a jit dump as far as it is whole.
    pub(super) fn read_jit_dump(&mut self, mut dump: impl Read) -> io::Result<()> {
        let mut header = [0; 40];
        if !fill(&mut dump, &mut header)? {
            return Ok(());
        }
        let big = match header[..4] {
            [b'D', b'T', b'i', b'J'] => false,
            [b'J', b'i', b'T', b'D'] => true,
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        };
        let header_bytes = u64::from(u32_at(&header, 8, big));
        skip(&mut dump, header_bytes.saturating_sub(40))?;

        let mut prefix = [0; 16];
        while fill(&mut dump, &mut prefix)? {
            let id = u32_at(&prefix, 0, big);
            let Some(mut left) = u64::from(u32_at(&prefix, 4, big)).checked_sub(16) else { break };
            let mut body = [0; 48];
            let fixed = match id {
                JIT_CODE_LOAD => 40,
                JIT_CODE_MOVE => 48,
                _ => 0,
            };
            if fixed > left {
                break;
            }
            if !fill(&mut dump, &mut body[..fixed as usize])? {
                break;
            }
            left -= fixed;
            match id {
                JIT_CODE_LOAD => {
                    let (address, size) = (u64_at(&body, 16, big), u64_at(&body, 24, big));
                    let mut name = vec![0; left.min(MAX_LINE_BYTES) as usize];
                    if !fill(&mut dump, &mut name)? {
                        break;
                    }
                    left -= name.len() as u64;
                    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
                    self.insert(address, size, &String::from_utf8_lossy(&name[..end]));
                }
                JIT_CODE_MOVE => {
                    let (old, new) = (u64_at(&body, 16, big), u64_at(&body, 24, big));
                    if let Some(function) = self.by_start.get(&old).cloned() {
                        self.insert(new, u64_at(&body, 32, big), &function.name);
                    }
                }
                _ => {}
            }
            skip(&mut dump, left)?;
        }
        Ok(())
    }

    /// Later functions hide what they cover of earlier ones; only heads stay of those.
    fn insert(&mut self, start: u64, size: u64, name: &str) {
        let name = shorten(name);
        let end = start.saturating_add(size);
        if size == 0
            || name.is_empty()
            || self.by_start.len() >= MAX_FUNCTIONS
            || self.names_bytes + name.len() > MAX_NAMES_BYTES
        {
            return;
        }
        if let Some((_, before)) = self.by_start.range_mut(..start).next_back() {
            before.end = before.end.min(start);
        }
        let covered: Vec<u64> = self.by_start.range(start..end).map(|(&key, _)| key).collect();
        for key in covered {
            if let Some(gone) = self.by_start.remove(&key) {
                self.names_bytes -= gone.name.len().min(self.names_bytes);
            }
        }
        self.names_bytes += name.len();
        self.by_start.insert(start, Function { end, name: Arc::from(&*name) });
    }
}

const JIT_CODE_LOAD: u32 = 0;
const JIT_CODE_MOVE: u32 = 1;

fn parse_line(line: &str) -> Option<(u64, u64, &str)> {
    let (start, rest) = line.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    Some((hex(start)?, hex(size)?, name.trim()))
}

fn skip_line(map: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = map.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let (taken, found) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (buffer.len(), false),
        };
        map.consume(taken);
        if found {
            return Ok(());
        }
    }
}

/// Fills `buffer`; `false` where the input ends before.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn skip(input: &mut impl Read, bytes: u64) -> io::Result<()> {
    io::copy(&mut input.take(bytes), &mut io::sink()).map(drop)
}

fn u32_at(bytes: &[u8], at: usize, big: bool) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}

fn u64_at(bytes: &[u8], at: usize, big: bool) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    if big { u64::from_be_bytes(word) } else { u64::from_le_bytes(word) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_perf_map_names_addresses() {
        let mut functions = JitFunctions::default();
        let map = b"7f00 10 py::f:/a b.py\nnonsense\n0x8000 0x20 second\n" as &[u8];
        assert_eq!(functions.read_perf_map(map).unwrap(), 1);
        let name = |address| functions.find(address).map(|(name, _)| name.to_string());
        assert_eq!(name(0x7f00).as_deref(), Some("py::f:/a b.py"));
        assert_eq!(name(0x7f10), None);
        assert_eq!(name(0x801f).as_deref(), Some("second"));
    }

    #[test]
    fn the_last_function_at_an_address_holds() {
        let mut functions = JitFunctions::default();
        functions.read_perf_map(b"100 100 old\n180 10 new\n" as &[u8]).unwrap();
        let name = |address| functions.find(address).map(|(name, _)| name.to_string());
        assert_eq!(name(0x17f).as_deref(), Some("old"));
        assert_eq!(name(0x180).as_deref(), Some("new"));
        assert_eq!(name(0x190), None);
    }

    fn dump(records: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let mut dump = Vec::new();
        for word in [0x4A69_5444_u32, 1, 40, 62, 0, 7] {
            dump.extend(word.to_le_bytes());
        }
        dump.extend([0; 16]);
        for (id, body) in records {
            dump.extend(id.to_le_bytes());
            dump.extend((body.len() as u32 + 16).to_le_bytes());
            dump.extend(1_u64.to_le_bytes());
            dump.extend(body);
        }
        dump
    }

    fn load(address: u64, size: u64, name: &str) -> (u32, Vec<u8>) {
        let mut body = vec![0; 8];
        for number in [address, address, size, 1] {
            body.extend(number.to_le_bytes());
        }
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(vec![0xCC; size as usize]);
        (0, body)
    }

    #[test]
    fn a_jit_dump_names_and_moves_code() {
        let mut moved = vec![0; 8];
        for number in [0, 0x1000_u64, 0x5000, 16, 1] {
            moved.extend(number.to_le_bytes());
        }
        let bytes = dump(&[
            load(0x1000, 16, "first"),
            (9, vec![1; 24]),
            (1, moved),
            load(0x2000, 8, "second"),
        ]);
        let mut functions = JitFunctions::default();
        functions.read_jit_dump(&*bytes).unwrap();
        let name = |address| functions.find(address).map(|(name, _)| name.to_string());
        assert_eq!(name(0x100f).as_deref(), Some("first"));
        assert_eq!(name(0x5001).as_deref(), Some("first"));
        assert_eq!(name(0x2007).as_deref(), Some("second"));

        let mut cut = JitFunctions::default();
        cut.read_jit_dump(&bytes[..bytes.len() - 20]).unwrap();
        assert!(cut.find(0x1000).is_some());
    }

    proptest! {
        #[test]
        fn foreign_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut functions = JitFunctions::default();
            functions.read_perf_map(&*bytes).unwrap();
            let mut dump = dump(&[load(0x1000, 16, "first")]);
            dump.extend(&bytes);
            functions.read_jit_dump(&*dump).unwrap();
            prop_assert!(functions.find(0x1000).is_some());
        }
    }
}
