//! Reads spools: whole ones, growing ones, broken ones.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::process::{Flock, FlockType, fcntl_getlk};
use serde::Deserialize;

use crate::clock::Instant;
use crate::record::{LossCause, RecordKind};
use crate::sink::{StreamId, StreamInfo};
use crate::spool::SpoolHeader;
use crate::spool::block::{Block, BlockInfo};
use crate::spool::error::SpoolReadError;
use crate::spool::format::{
    ALIGNMENT, BLOCK_MAGIC, BlockHeader, MAX_BLOCK_HEADER_BYTES, MAX_HEADER_BYTES, PREAMBLE_BYTES,
    ParsedHeader, block_type, parse_preamble,
};
use crate::spool::layout::Layout;
use crate::spool::progress::{LossCounts, SpoolEnd};
use crate::spool::scan::{SCAN_BYTES, Scan};
use crate::spool::skipped::Skipped;
use crate::spool::unpack::Unpacker;
use crate::spool::window::{FileWindow, payload};
use crate::spool::writer::is_written_here;

/// Where the header is damaged, a segment is looked for in so many bytes.
const RECOVERY_BYTES: u64 = 64 << 20;
/// Streams that a reader takes.
const MAX_STREAMS: usize = 1 << 20;

/// Reads the blocks of a spool in their order.
pub struct SpoolReader {
    window: FileWindow,
    header: SpoolHeader,
    streams: Vec<Option<StreamInfo>>,
    /// Where the next block begins.
    position: u64,
    /// Where the part that this reader reads ends, `None` = with the file.
    end: Option<u64>,
    /// Where damaged bytes began whose end is not found yet.
    lost_since: Option<u64>,
    next_sequence: Option<u64>,
    takes_repeated: bool,
    footer: Option<Footer>,
    skipped: Skipped,
    unpacker: Unpacker,
}

/// A part of a spool that can be read by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// Its number, from 0.
    pub number: u32,
    /// Where it begins in the file.
    pub offset: u64,
    /// Where the next one begins, or the file ended.
    pub end: u64,
    /// Whether it repeats all definitions that its rows use; where not, they stand in earlier
    /// segments only.
    pub is_complete: bool,
}

/// What a clean file says at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footer {
    /// Why the file ended.
    pub end: SpoolEnd,
    /// When.
    pub ended: Instant,
    /// Rows in the file, by kind.
    pub rows: std::collections::BTreeMap<RecordKind, u64>,
    /// Rows lost, by kind and cause.
    pub lost: LossCounts,
}

#[derive(Deserialize)]
struct FooterJson {
    end: SpoolEnd,
    ended: Instant,
    rows: Vec<(u16, u64)>,
    losses: Vec<(u16, u16, u64)>,
}

#[derive(Deserialize)]
struct MarkerJson {
    header: SpoolHeader,
    streams: Vec<(u32, StreamInfo)>,
    complete: bool,
}

#[derive(Deserialize)]
struct StreamsJson {
    streams: Vec<(u32, StreamInfo)>,
}

/// What the next bytes of the file are.
enum Next {
    Rows(BlockHeader),
    Control,
    Nothing,
}

impl std::fmt::Debug for SpoolReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolReader")
            .field("header", &self.header)
            .field("position", &self.position)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

impl SpoolReader {
    /// Opens a spool. Its writer may still be at work.
    ///
    /// # Errors
    ///
    /// [`SpoolReadError`] where the file is no spool, or is damaged so early that nothing says
    /// whose rows it holds.
    pub fn open(path: &Path) -> Result<Self, SpoolReadError> {
        let file = File::open(path).map_err(|source| SpoolReadError::Io {
            action: "open",
            offset: 0,
            source,
        })?;
        Self::from_file(file)
    }

    /// Reads a spool through a descriptor that is open for reading.
    ///
    /// # Errors
    ///
    /// As [`SpoolReader::open`].
    pub fn from_file(file: File) -> Result<Self, SpoolReadError> {
        let mut window = FileWindow::new(file);
        let bytes = window.read(0, PREAMBLE_BYTES + MAX_HEADER_BYTES)?;
        match parse_preamble(bytes) {
            Ok((json, first_block)) => {
                let header = serde_json::from_slice(&bytes[json]).map_err(|source| {
                    SpoolReadError::Header { offset: PREAMBLE_BYTES as u64, source }
                })?;
                Ok(Self::at(window, header, first_block))
            }
            Err(error) => Self::recover(window, error),
        }
    }

    fn at(window: FileWindow, header: SpoolHeader, position: u64) -> Self {
        Self {
            window,
            header,
            streams: Vec::new(),
            position,
            end: None,
            lost_since: None,
            next_sequence: Some(0),
            takes_repeated: false,
            footer: None,
            skipped: Skipped::default(),
            unpacker: Unpacker::new(),
        }
    }

    /// Looks for a segment that repeats the header.
    fn recover(window: FileWindow, error: SpoolReadError) -> Result<Self, SpoolReadError> {
        if matches!(error, SpoolReadError::Version { .. } | SpoolReadError::Io { .. }) {
            return Err(error);
        }
        let limit = window.file_len()?.min(RECOVERY_BYTES);
        let mut unpacker = Unpacker::new();
        let mut scan = Scan { window, position: 0 };
        while let Some(header) = scan.next(limit)? {
            let whole = scan.position + header.block_len();
            if header.block_type == block_type::SEGMENT
                && let Some(payload) = scan.payload(&header)?
                && let Ok(marker) = unpacker.json::<MarkerJson>(&header, payload)
            {
                let mut reader = Self::at(scan.window, marker.header, scan.position);
                reader.skipped.damage(0, scan.position);
                reader.takes_repeated = true;
                reader.next_sequence = None;
                return Ok(reader);
            }
            scan.position = whole;
        }
        Err(error)
    }

    /// What was known when the file was made.
    #[must_use]
    pub fn header(&self) -> &SpoolHeader {
        &self.header
    }

    /// What is known of a stream, as far as it was read.
    #[must_use]
    pub fn stream(&self, stream: StreamId) -> Option<&StreamInfo> {
        self.streams.get(stream.0 as usize)?.as_ref()
    }

    /// All streams, as far as they were read.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, &StreamInfo)> {
        self.streams
            .iter()
            .enumerate()
            .filter_map(|(id, info)| Some((StreamId(id as u32), info.as_ref()?)))
    }

    /// The next block of rows of a known kind; `None` = nothing more yet. A file that grows may
    /// have more later: call again.
    ///
    /// # Errors
    ///
    /// [`SpoolReadError::Io`] alone; damage is skipped and counted.
    pub fn next_block(&mut self) -> Result<Option<Block>, SpoolReadError> {
        let mut block = Block::new();
        Ok(self.next_into(&mut block)?.then_some(block))
    }

    /// As [`SpoolReader::next_block`], into a block that was used before. `false` = nothing more
    /// yet; the block then holds nothing of use.
    ///
    /// # Errors
    ///
    /// As [`SpoolReader::next_block`].
    pub fn next_into(&mut self, block: &mut Block) -> Result<bool, SpoolReadError> {
        self.next_into_where(block, |_| true)
    }

    /// As [`SpoolReader::next_into`], but passes over the blocks that are not wanted without
    /// unpacking them.
    ///
    /// # Errors
    ///
    /// As [`SpoolReader::next_block`].
    pub fn next_into_where(
        &mut self,
        block: &mut Block,
        mut wanted: impl FnMut(&BlockInfo) -> bool,
    ) -> Result<bool, SpoolReadError> {
        loop {
            match self.advance()? {
                Next::Nothing => return Ok(false),
                Next::Control => {}
                Next::Rows(header) => {
                    let is_wanted = self.is_wanted(&header) && wanted(&BlockInfo::of(&header));
                    // What follows is likely to be of the same use.
                    self.window.skim(!is_wanted);
                    if is_wanted && self.take_rows(&header, block)? {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// As [`SpoolReader::next_block`], but passes over the blocks that are not wanted without
    /// unpacking them.
    ///
    /// # Errors
    ///
    /// As [`SpoolReader::next_block`].
    pub fn next_block_where(
        &mut self,
        mut wanted: impl FnMut(StreamId, RecordKind) -> bool,
    ) -> Result<Option<Block>, SpoolReadError> {
        let mut block = Block::new();
        let is_there = self.next_into_where(&mut block, |info| wanted(info.stream, info.kind))?;
        Ok(is_there.then_some(block))
    }

    /// What is known of the next block of rows of a known kind, which is passed over unread.
    ///
    /// Shows in little time what a file holds; [`SpoolReader::load`] then reads a block.
    ///
    /// # Errors
    ///
    /// As [`SpoolReader::next_block`].
    pub fn skim(&mut self) -> Result<Option<BlockInfo>, SpoolReadError> {
        self.window.skim(true);
        loop {
            match self.advance()? {
                Next::Nothing => return Ok(None),
                Next::Control => {}
                Next::Rows(header) => {
                    if self.is_wanted(&header) {
                        return Ok(Some(BlockInfo::of(&header)));
                    }
                }
            }
        }
    }

    /// Reads the block that [`SpoolReader::skim`] named; `false` = it is damaged, which is
    /// counted.
    ///
    /// # Errors
    ///
    /// As [`SpoolReader::next_block`].
    pub fn load(&mut self, info: &BlockInfo, block: &mut Block) -> Result<bool, SpoolReadError> {
        let bytes = self.window.read(info.offset, MAX_BLOCK_HEADER_BYTES)?;
        match BlockHeader::parse(bytes) {
            ParsedHeader::Block(header)
                if header.offset == info.offset && header.block_type == block_type::ROWS =>
            {
                self.take_rows(&header, block)
            }
            _ => {
                self.skipped.damage(info.offset, info.bytes);
                Ok(false)
            }
        }
    }

    /// Whether the footer was read: the file is whole and grows no more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.footer.is_some()
    }

    /// The footer, once it was read.
    #[must_use]
    pub fn footer(&self) -> Option<&Footer> {
        self.footer.as_ref()
    }

    /// Whether the spool's writer lives: it holds a lock on the file until its process ends.
    ///
    /// # Errors
    ///
    /// What the operating system answers; file systems without locks exist.
    pub fn writer_alive(&self) -> io::Result<bool> {
        let file = self.window.file();
        if is_written_here(file)? {
            return Ok(true);
        }
        let lock = fcntl_getlk(file, &Flock::from(FlockType::WriteLock))?;
        Ok(lock.is_some())
    }

    /// What could not be read so far.
    #[must_use]
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// How far the file was read, in bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The file's length now.
    ///
    /// # Errors
    ///
    /// [`SpoolReadError::Io`].
    pub fn file_len(&self) -> Result<u64, SpoolReadError> {
        self.window.file_len()
    }

    /// The segments of the file as it is now. Each can be read by a reader of its own.
    ///
    /// # Errors
    ///
    /// As [`SpoolReader::next_block`].
    pub fn segments(&self) -> Result<Vec<Segment>, SpoolReadError> {
        let mut reader = Self::from_file(self.clone_file()?)?;
        reader.window.skim(true);
        let mut segments: Vec<Segment> = Vec::new();
        let mut found = Vec::new();
        while let Some(header) = reader.next_header()? {
            if header.block_type == block_type::SEGMENT {
                found.push(header);
            }
            reader.pass(&header);
        }
        for header in found {
            if let Some(last) = segments.last_mut() {
                last.end = header.offset;
            }
            let payload = reader
                .window
                .read(header.offset + u64::from(header.header_len), header.stored_len as usize)?;
            let marker = reader.unpacker.json::<MarkerJson>(&header, payload);
            segments.push(Segment {
                number: header.segment,
                offset: header.offset,
                end: reader.position,
                is_complete: marker.is_ok_and(|marker| marker.complete),
            });
        }
        Ok(segments)
    }

    /// A reader of one segment; it gives the repeated rows, too.
    ///
    /// # Errors
    ///
    /// [`SpoolReadError::Io`].
    pub fn segment(&self, segment: &Segment) -> Result<Self, SpoolReadError> {
        let window = FileWindow::new(self.clone_file()?);
        let mut reader = Self::at(window, self.header.clone(), segment.offset);
        reader.end = Some(segment.end);
        reader.next_sequence = None;
        reader.takes_repeated = true;
        Ok(reader)
    }

    fn clone_file(&self) -> Result<File, SpoolReadError> {
        self.window.file().try_clone().map_err(|source| SpoolReadError::Io {
            action: "duplicate the descriptor of",
            offset: 0,
            source,
        })
    }

    /// Passes over the next block; control blocks are taken in.
    fn advance(&mut self) -> Result<Next, SpoolReadError> {
        let Some(header) = self.next_header()? else { return Ok(Next::Nothing) };
        self.pass(&header);
        if header.block_type == block_type::ROWS {
            return Ok(Next::Rows(header));
        }
        self.take_control(&header)?;
        Ok(Next::Control)
    }

    /// The header of the next block that lies whole in the file; skips damage.
    fn next_header(&mut self) -> Result<Option<BlockHeader>, SpoolReadError> {
        if self.footer.is_some() {
            return Ok(None);
        }
        loop {
            let end = match self.end {
                Some(end) => end,
                None => self.window.file_len()?,
            };
            let len = end.saturating_sub(self.position);
            let wanted = (MAX_BLOCK_HEADER_BYTES as u64).min(len) as usize;
            let bytes = self.window.read(self.position, wanted)?;
            match BlockHeader::parse(bytes) {
                ParsedHeader::Block(header) if header.offset == self.position => {
                    if header.block_len() > len {
                        return Ok(self.at_the_end(end));
                    }
                    if let Some(since) = self.lost_since.take() {
                        self.skipped.damage(since, self.position - since);
                    }
                    self.skipped.tail_bytes = 0;
                    return Ok(Some(header));
                }
                ParsedHeader::Incomplete => return Ok(self.at_the_end(end)),
                ParsedHeader::Block(_) | ParsedHeader::Invalid => {
                    self.lost_since.get_or_insert(self.position);
                    self.takes_repeated = true;
                    if !self.scan(end)? {
                        return Ok(self.at_the_end(end));
                    }
                }
            }
        }
    }

    fn at_the_end(&mut self, end: u64) -> Option<BlockHeader> {
        let whole = self.lost_since.unwrap_or(self.position);
        self.skipped.tail_bytes = end.saturating_sub(whole);
        // What stands here may be written again, as a footer after a failed write is.
        self.window.forget();
        None
    }

    /// Moves on to the next bytes that look like a block's beginning; `false` = there are none.
    fn scan(&mut self, end: u64) -> Result<bool, SpoolReadError> {
        self.position += ALIGNMENT as u64;
        loop {
            let len = end.saturating_sub(self.position);
            if len < BLOCK_MAGIC.len() as u64 {
                return Ok(false);
            }
            let bytes = self.window.read(self.position, (SCAN_BYTES as u64).min(len) as usize)?;
            if bytes.len() < BLOCK_MAGIC.len() {
                return Ok(false);
            }
            let found = bytes.chunks(ALIGNMENT).position(|word| word.starts_with(&BLOCK_MAGIC));
            if let Some(words) = found {
                self.position += (words * ALIGNMENT) as u64;
                return Ok(true);
            }
            let passed = bytes.len() / ALIGNMENT * ALIGNMENT;
            if passed == 0 {
                return Ok(false);
            }
            self.position += passed as u64;
        }
    }

    fn pass(&mut self, header: &BlockHeader) {
        if let Some(expected) = self.next_sequence
            && header.sequence > expected
        {
            self.skipped.missing_blocks += header.sequence - expected;
            self.takes_repeated = true;
        }
        self.next_sequence = Some(header.sequence.wrapping_add(1));
        self.position += header.block_len();
    }

    fn is_wanted(&mut self, header: &BlockHeader) -> bool {
        if header.is_repeated() && !self.takes_repeated {
            return false;
        }
        let kind = RecordKind(header.kind);
        if Layout::of(kind).is_some() {
            return true;
        }
        if !header.is_repeated() {
            let rows = self.skipped.unknown_kinds.entry(kind).or_default();
            *rows = rows.saturating_add(u64::from(header.rows));
        }
        false
    }

    fn take_rows(
        &mut self,
        header: &BlockHeader,
        block: &mut Block,
    ) -> Result<bool, SpoolReadError> {
        let payload = payload(&mut self.window, header)?;
        let is_whole = self.unpacker.rows(header, payload, block);
        if !is_whole {
            self.damaged(header);
        }
        Ok(is_whole)
    }

    fn damaged(&mut self, header: &BlockHeader) {
        self.skipped.damage(header.offset, header.block_len());
        self.takes_repeated = true;
    }

    fn take_control(&mut self, header: &BlockHeader) -> Result<(), SpoolReadError> {
        let payload = payload(&mut self.window, header)?;
        let understood = match header.block_type {
            block_type::SEGMENT => self
                .unpacker
                .json::<MarkerJson>(header, payload)
                .map(|marker| add_streams(&mut self.streams, marker.streams)),
            block_type::STREAMS => self
                .unpacker
                .json::<StreamsJson>(header, payload)
                .map(|new| add_streams(&mut self.streams, new.streams)),
            block_type::FOOTER => self
                .unpacker
                .json::<FooterJson>(header, payload)
                .map(|footer| self.footer = Some(Footer::of(footer))),
            _ => {
                self.skipped.unknown_blocks += 1;
                return Ok(());
            }
        };
        if understood.is_err() {
            self.damaged(header);
        }
        Ok(())
    }
}

fn add_streams(streams: &mut Vec<Option<StreamInfo>>, new: Vec<(u32, StreamInfo)>) {
    for (id, info) in new {
        let id = id as usize;
        if id >= MAX_STREAMS {
            continue;
        }
        if streams.len() <= id {
            streams.resize(id + 1, None);
        }
        streams[id] = Some(info);
    }
}

impl Footer {
    fn of(json: FooterJson) -> Self {
        let mut lost = LossCounts::default();
        for (kind, cause, count) in json.losses {
            // A cause of a later version is kept as the nearest that is known.
            let cause = LossCause::from_number(cause).unwrap_or(LossCause::Undecodable);
            lost.add(RecordKind(kind), cause, count);
        }
        let rows = json.rows.into_iter().map(|(kind, count)| (RecordKind(kind), count));
        Self { end: json.end, ended: json.ended, rows: rows.collect(), lost }
    }
}
