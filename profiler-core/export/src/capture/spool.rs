//! Blocks of a spool file.

use std::path::{Path, PathBuf};

use profiler_core::record::RecordKind;
use profiler_core::spool::{Block, SpoolReadError, SpoolReader};

use super::source::{BlockSource, LeftOut, Origin, SourceBlock};
use super::CaptureError;

/// Opens a spool.
pub(super) fn open(path: &Path) -> Result<Box<dyn BlockSource>, CaptureError> {
    let reader = SpoolReader::open(path)
        .map_err(|source| CaptureError::Spool { path: path.to_owned(), source })?;
    let header = reader.header();
    let origin = Origin {
        session: header.session.clone(),
        prefix: header.prefix.clone(),
        worker: header.worker.clone(),
        writer: header.writer.clone(),
        created: header.created,
    };
    Ok(Box::new(SpoolSource { path: path.to_owned(), origin, reader, block: Block::new() }))
}

struct SpoolSource {
    path: PathBuf,
    origin: Origin,
    reader: SpoolReader,
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

    fn advance(&mut self, wanted: &dyn Fn(RecordKind) -> bool) -> Result<bool, CaptureError> {
        loop {
            let Some(info) = self.reader.skim().map_err(|error| self.error(error))? else {
                return Ok(false);
            };
            if !wanted(info.kind) {
                continue;
            }
            let loaded = self.reader.load(&info, &mut self.block);
            if loaded.map_err(|error| self.error(error))? {
                return Ok(true);
            }
        }
    }

    fn block(&self) -> Option<SourceBlock<'_>> {
        let info = self.block.info()?;
        Some(SourceBlock {
            stream: info.stream,
            info: self.reader.stream(info.stream),
            kind: info.kind,
            stride: self.block.stride() as u32,
            rows: self.block.row_bytes(),
            heap: self.block.heap(),
            last_time: info.last_time,
            repeated: info.is_repeated,
        })
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
        LeftOut {
            damaged: skipped.damaged_ranges + skipped.missing_blocks,
            unknown_rows: skipped.unknown_kinds.values().sum(),
        }
    }
}
