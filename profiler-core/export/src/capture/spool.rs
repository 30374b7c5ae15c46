//! Blocks of a spool file.

use std::path::{Path, PathBuf};

use profiler_core::sink::{StreamId, StreamInfo};
use profiler_core::spool::{Block, SpoolReadError, SpoolReader};

use super::CaptureError;
use super::source::{BlockHead, BlockSource, LeftOut, Origin, Place, SourceBlock};

/// Opens a spool.
pub(super) fn open(path: &Path) -> Result<Box<dyn BlockSource>, CaptureError> {
    let reader = open_reader(path)?;
    let header = reader.header();
    let origin = Origin {
        session: header.session.clone(),
        prefix: header.prefix.clone(),
        worker: header.worker.clone(),
        writer: header.writer.clone(),
        created: header.created,
    };
    let loaders = [const { None }; LOADERS];
    Ok(Box::new(SpoolSource {
        path: path.to_owned(),
        origin,
        reader,
        loaders,
        block: Block::new(),
    }))
}

fn open_reader(path: &Path) -> Result<SpoolReader, CaptureError> {
    SpoolReader::open(path).map_err(|source| CaptureError::Spool { path: path.to_owned(), source })
}

/// Readers of blocks; each keeps a MiB of the file.
const LOADERS: usize = 3;

struct SpoolSource {
    path: PathBuf,
    origin: Origin,
    /// Walks over the blocks.
    reader: SpoolReader,
    /// Read them, each some of the streams: the blocks of one stream lie in the order in which
    /// they are wanted, and each reader reads ahead.
    loaders: [Option<SpoolReader>; LOADERS],
    block: Block,
}

impl SpoolSource {
    fn error(&self, source: SpoolReadError) -> CaptureError {
        CaptureError::Spool { path: self.path.clone(), source }
    }
}

impl BlockSource for SpoolSource {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn skim(&mut self) -> Result<Option<BlockHead>, CaptureError> {
        let Some(info) = self.reader.skim().map_err(|error| self.error(error))? else {
            return Ok(None);
        };
        Ok(Some(BlockHead {
            stream: info.stream,
            kind: info.kind,
            first_time: info.first_time,
            last_time: info.last_time,
            repeated: info.is_repeated,
            place: Place::File(info),
        }))
    }

    fn load(&mut self, head: &BlockHead) -> Result<bool, CaptureError> {
        let Place::File(info) = head.place else { return Ok(false) };
        let place = &mut self.loaders[info.stream.0 as usize % LOADERS];
        let loader = match place {
            Some(loader) => loader,
            None => place.insert(open_reader(&self.path)?),
        };
        let loaded = loader.load(&info, &mut self.block);
        loaded.map_err(|error| self.error(error))
    }

    fn block(&self) -> Option<SourceBlock<'_>> {
        let info = self.block.info()?;
        Some(SourceBlock {
            stream: info.stream,
            kind: info.kind,
            stride: self.block.stride() as u32,
            rows: self.block.row_bytes(),
            heap: self.block.heap(),
        })
    }

    fn stream(&self, stream: StreamId) -> Option<&StreamInfo> {
        self.reader.stream(stream)
    }

    fn is_closed(&self) -> bool {
        self.reader.is_closed()
    }

    fn writer_alive(&self) -> Result<bool, CaptureError> {
        self.reader
            .writer_alive()
            .map_err(|source| CaptureError::Lock { path: self.path.clone(), source })
    }

    fn left_out(&self) -> LeftOut {
        let skipped = self.reader.skipped();
        let unreadable: u64 =
            self.loaders.iter().flatten().map(|loader| loader.skipped().damaged_ranges).sum();
        LeftOut {
            damaged: skipped.damaged_ranges + skipped.missing_blocks + unreadable,
            unknown_rows: skipped.unknown_kinds.values().sum(),
        }
    }
}
