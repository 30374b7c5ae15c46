//! Parquet: a directory of tables for DuckDB, pandas and whatever else reads columns.
//!
//! A table holds the rows of one kind (`kernel.parquet`, `span.parquet`, …); its columns are the
//! fields of the kind, after those that say whose row it is (`worker`, `stage`, `role`, `replica`,
//! `rank`, `host`, `pid`). Names and fields are text in place; a code has a second column
//! `<field>_text`. The stage that an application gave a span is `span_stage`. Instants are ns on the
//! capture's axis: add `workers.realtime_offset_ns` for ns since 1970. Where a number means none,
//! the value is null.
//!
//! Beside them lie the tables that rows refer to (`launch_configs` by `config`; `stacks`, a tree, by
//! `stack`; `frames`, with the names of functions, by `frame`; `threads`, `processes`, `devices`,
//! `device_streams`, `modules`), what is known of the capture (`workers`, `windows`, `facts`,
//! `losses`) and all `strings`. A table without rows has no file.
//!
//! ```sql
//! select demangled_name, count(*), sum("end" - start) / 1e3 as us
//! from 'trace.parquet/kernel.parquet' group by 1 order by 3 desc;
//! ```
//!
//! Instants and sequence numbers are delta-packed, all is compressed by zstd. At most
//! [`MAX_BUFFERED_BYTES`] of rows wait in memory.

mod meta;
mod rows;
mod table;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use profiler_core::record::{
    ApiCall, Communication, Counter, ExternalCorrelation, Kernel, Marker, Memcpy, Memory, Memset,
    Operator, Overhead, RecordKind, Row, Sample, Span, Step, Synchronization,
};

use self::rows::{Texts, row_columns, row_values, worker_columns, worker_values};
use self::table::{TableWriter, Value};
use crate::capture::{Consumer, Definitions, Place, Worker};
use crate::stacks::FrameNames;
use crate::symbolize::SymbolizerOptions;

/// The version of this layout, in each file's metadata as `omniprof.parquet_version`.
pub const PARQUET_VERSION: u32 = 1;

/// How much the rows that are not yet written may take together; then the largest table is
/// written.
pub const MAX_BUFFERED_BYTES: usize = 24 << 20;

/// A table that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its name: the file's without `.parquet`.
    pub name: &'static str,
    /// How many rows it has.
    pub rows: u64,
}

/// Writes a capture into a directory.
pub struct ParquetWriter {
    directory: PathBuf,
    symbols: SymbolizerOptions,
    tables: BTreeMap<RecordKind, TableWriter>,
    texts: Texts,
    values: Vec<Value>,
    written: Vec<Written>,
}

impl ParquetWriter {
    /// Makes the directory, which must not exist.
    ///
    /// # Errors
    ///
    /// The directory exists or cannot be made.
    pub fn create(directory: &Path, symbols: SymbolizerOptions) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            symbols,
            tables: BTreeMap::new(),
            texts: Texts::default(),
            values: Vec::new(),
            written: Vec::new(),
        })
    }

    /// The tables that were written; complete after the capture's end was seen.
    #[must_use]
    pub fn written(&self) -> &[Written] {
        &self.written
    }

    fn take<R: Row>(&mut self, place: &Place<'_>, rows: &[R]) -> io::Result<()> {
        let table = match self.tables.entry(R::KIND) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let name = R::SCHEMA.name;
                let path = self.directory.join(format!("{name}.parquet"));
                let columns = worker_columns().into_iter().chain(row_columns(R::SCHEMA)).collect();
                entry.insert(
                    TableWriter::create(&path, name, columns, &metadata(name)).map_err(to_io)?,
                )
            }
        };
        let worker = worker_values(place.worker);
        for row in rows {
            self.values.extend_from_slice(&worker);
            row_values(place, row, &mut self.texts, &mut self.values);
            table.push(self.values.drain(..)).map_err(to_io)?;
        }
        self.write_largest()
    }

    fn write_largest(&mut self) -> io::Result<()> {
        let buffered: usize = self.tables.values().map(TableWriter::buffered_bytes).sum();
        if buffered <= MAX_BUFFERED_BYTES {
            return Ok(());
        }
        match self.tables.values_mut().max_by_key(|table| table.buffered_bytes()) {
            Some(table) => table.flush().map_err(to_io),
            None => Ok(()),
        }
    }
}

fn metadata(table: &str) -> [(&'static str, String); 3] {
    [
        ("omniprof.parquet_version", PARQUET_VERSION.to_string()),
        ("omniprof.table", table.to_owned()),
        ("omniprof.axis", "ns, CLOCK_MONOTONIC of worker 0".to_owned()),
    ]
}

fn to_io(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        error => io::Error::other(error),
    }
}

impl Consumer for ParquetWriter {
    fn kernels(&mut self, place: &Place<'_>, rows: &[Kernel]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn memcpys(&mut self, place: &Place<'_>, rows: &[Memcpy]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn memsets(&mut self, place: &Place<'_>, rows: &[Memset]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn memory(&mut self, place: &Place<'_>, rows: &[Memory]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn communications(&mut self, place: &Place<'_>, rows: &[Communication]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn api_calls(&mut self, place: &Place<'_>, rows: &[ApiCall]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn synchronizations(&mut self, place: &Place<'_>, rows: &[Synchronization]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn overheads(&mut self, place: &Place<'_>, rows: &[Overhead]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn operators(&mut self, place: &Place<'_>, rows: &[Operator]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn spans(&mut self, place: &Place<'_>, rows: &[Span]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn markers(&mut self, place: &Place<'_>, rows: &[Marker]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn counters(&mut self, place: &Place<'_>, rows: &[Counter]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn external_correlations(
        &mut self,
        place: &Place<'_>,
        rows: &[ExternalCorrelation],
    ) -> io::Result<()> {
        self.take(place, rows)
    }

    fn steps(&mut self, place: &Place<'_>, rows: &[Step]) -> io::Result<()> {
        self.take(place, rows)
    }

    fn end(&mut self, workers: &[Worker], definitions: &Definitions) -> io::Result<()> {
        for (kind, table) in std::mem::take(&mut self.tables) {
            let rows = table.finish().map_err(to_io)?;
            self.written.push(Written { name: kind.name().unwrap_or("unknown"), rows });
        }
        let mut names = FrameNames::new(workers, self.symbols.clone());
        meta::write(&self.directory, workers, definitions, &mut names, &mut self.written)
            .map_err(to_io)
    }
}
