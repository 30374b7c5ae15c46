//! One Parquet file: columns are gathered in memory and written a row group at a time.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An instant, ns on the capture's axis.
    Instant,
    /// A 64-bit number that grows by small steps.
    Sequence,
    Unsigned32,
    Unsigned64,
    Signed32,
    Signed64,
    Float,
    Text,
    Flag,
}

/// A column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
}

impl Column {
    pub(super) fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind, nullable: false }
    }

    pub(super) fn nullable(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind, nullable: true }
    }
}

/// A value of a column.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    /// Any number that is no float; flags are 0 or 1.
    Number(u64),
    Float(f64),
    /// A text of this row alone.
    Text(ByteArray),
    /// A text whose bytes many rows share.
    Shared(ByteArray),
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(ByteArray::from(text))
    }

    pub(super) fn optional(number: Option<u32>) -> Self {
        number.map_or(Self::Null, |number| Self::Number(u64::from(number)))
    }
}

/// The values of a column since the last row group.
struct Values {
    data: Data,
    /// 0 where there is none, 1 where there is; empty where there always is one.
    present: Vec<i16>,
}

enum Data {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
}

/// The rows of a row group, at most.
pub(super) const GROUP_ROWS: usize = 1 << 16;

/// A file that is being written.
pub(super) struct TableWriter {
    writer: SerializedFileWriter<File>,
    columns: Vec<Column>,
    values: Vec<Values>,
    rows: usize,
    text_bytes: usize,
    written: u64,
}

impl TableWriter {
    pub(super) fn create(
        path: &Path,
        name: &str,
        columns: Vec<Column>,
        metadata: &[(&str, String)],
    ) -> Result<Self, ParquetError> {
        let mut fields = Vec::new();
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            // Indexes of pages are kept in memory until the end, and grow with the capture.
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_created_by(concat!("omniprof ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(
                metadata
                    .iter()
                    .map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone()))
                    .collect(),
            ));
        for column in &columns {
            fields.push(Arc::new(field(column)?));
            if matches!(column.kind, Kind::Instant | Kind::Sequence) {
                // Their differences are small and their values all different: deltas take a tenth
                // of what a dictionary would.
                let path = ColumnPath::from(column.name.as_str());
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
        }
        let schema = Type::group_type_builder(name).with_fields(fields).build()?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        let writer =
            SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))?;
        let values = columns.iter().map(|column| Values::new(column.kind)).collect();
        Ok(Self { writer, columns, values, rows: 0, text_bytes: 0, written: 0 })
    }

    /// Appends a row: a value for each column, in their order.
    pub(super) fn push(
        &mut self,
        row: impl IntoIterator<Item = Value>,
    ) -> Result<(), ParquetError> {
        for ((values, column), value) in self.values.iter_mut().zip(&self.columns).zip(row) {
            match &value {
                Value::Text(text) => self.text_bytes += size_of::<ByteArray>() + text.len(),
                Value::Shared(_) => self.text_bytes += size_of::<ByteArray>(),
                _ => {}
            }
            values.push(column, value);
        }
        self.rows += 1;
        if self.rows >= GROUP_ROWS {
            self.flush()?;
        }
        Ok(())
    }

    /// About how much memory the rows take that are not yet written.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.rows * self.columns.len() * 8 + self.text_bytes
    }

    /// Writes what was gathered as a row group.
    pub(super) fn flush(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for (column, values) in self.columns.iter().zip(&mut self.values) {
            let Some(mut writer) = group.next_column()? else {
                return Err(ParquetError::General("fewer columns than the schema has".to_owned()));
            };
            let present = column.nullable.then_some(&*values.present);
            match &mut values.data {
                Data::Bool(data) => {
                    write::<parquet::data_type::BoolType>(&mut writer, data, present)?;
                }
                Data::Int32(data) => write::<Int32Type>(&mut writer, data, present)?,
                Data::Int64(data) => write::<Int64Type>(&mut writer, data, present)?,
                Data::Double(data) => write::<DoubleType>(&mut writer, data, present)?,
                Data::Bytes(data) => write::<ByteArrayType>(&mut writer, data, present)?,
            }
            writer.close()?;
            values.present.clear();
        }
        group.close()?;
        self.written += self.rows as u64;
        (self.rows, self.text_bytes) = (0, 0);
        Ok(())
    }

    /// Writes the rest and the footer.
    pub(super) fn finish(mut self) -> Result<u64, ParquetError> {
        self.flush()?;
        let rows = self.written;
        self.writer.close()?;
        Ok(rows)
    }
}

fn write<T: DataType>(
    writer: &mut parquet::file::writer::SerializedColumnWriter<'_>,
    data: &mut Vec<T::T>,
    present: Option<&[i16]>,
) -> Result<(), ParquetError> {
    writer.typed::<T>().write_batch(data, present, None)?;
    data.clear();
    Ok(())
}

impl Values {
    fn new(kind: Kind) -> Self {
        let data = match kind {
            Kind::Flag => Data::Bool(Vec::new()),
            Kind::Unsigned32 | Kind::Signed32 => Data::Int32(Vec::new()),
            Kind::Instant | Kind::Sequence | Kind::Unsigned64 | Kind::Signed64 => {
                Data::Int64(Vec::new())
            }
            Kind::Float => Data::Double(Vec::new()),
            Kind::Text => Data::Bytes(Vec::new()),
        };
        Self { data, present: Vec::new() }
    }

    fn push(&mut self, column: &Column, value: Value) {
        if column.nullable {
            let present = !matches!(value, Value::Null);
            self.present.push(i16::from(present));
            if !present {
                return;
            }
        }
        let number = match value {
            Value::Number(number) => number,
            _ => 0,
        };
        match &mut self.data {
            Data::Bool(data) => data.push(number != 0),
            Data::Int32(data) => data.push(number as u32 as i32),
            // Instants are below 2^63; other numbers keep their bits.
            Data::Int64(data) => data.push(number as i64),
            Data::Double(data) => data.push(match value {
                Value::Float(float) => float,
                _ => 0.0,
            }),
            Data::Bytes(data) => data.push(match value {
                Value::Text(text) | Value::Shared(text) => text,
                _ => ByteArray::from(Vec::new()),
            }),
        }
    }
}

fn field(column: &Column) -> Result<Type, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Flag => (Physical::BOOLEAN, None),
        Kind::Instant | Kind::Signed64 => (Physical::INT64, None),
        Kind::Sequence | Kind::Unsigned64 => {
            (Physical::INT64, Some(LogicalType::integer(64, false)))
        }
        Kind::Unsigned32 => (Physical::INT32, Some(LogicalType::integer(32, false))),
        Kind::Signed32 => (Physical::INT32, None),
        Kind::Float => (Physical::DOUBLE, None),
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let repetition = if column.nullable { Repetition::OPTIONAL } else { Repetition::REQUIRED };
    Type::primitive_type_builder(&column.name, physical)
        .with_repetition(repetition)
        .with_logical_type(logical)
        .build()
}
