//! Parquet files, read again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};
use profiler_core::record::*;
use profiler_core::sink::StreamId;
use profiler_export::parquet::ParquetWriter;
use profiler_export::symbolize::SymbolizerOptions;
use proptest::prelude::*;

mod tables_common;

use tables_common::{Builder, T0, capture, kernel, origin, pipeline};

fn write(directory: &Path, spools: Vec<Builder>) -> BTreeMap<&'static str, u64> {
    let mut writer = ParquetWriter::create(directory, SymbolizerOptions::default()).unwrap();
    capture(spools).read(&mut writer).unwrap();
    writer.written().iter().map(|table| (table.name, table.rows)).collect()
}

fn rows(directory: &Path, table: &str) -> Vec<Row> {
    let file = File::open(directory.join(format!("{table}.parquet"))).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    reader.get_row_iter(None).unwrap().map(Result::unwrap).collect()
}

fn field<'a>(row: &'a Row, name: &str) -> &'a Field {
    row.get_column_iter().find(|(column, _)| *column == name).map(|(_, field)| field).unwrap()
}

#[test]
fn every_kind_has_a_table_with_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("trace.parquet");
    let written = write(&target, pipeline());
    insta::assert_debug_snapshot!("tables", written);
    for (table, &count) in &written {
        assert_eq!(rows(&target, table).len() as u64, count, "{table}");
    }
    let kernels = rows(&target, "kernel");
    let first = &kernels[0];
    assert_eq!(field(first, "worker"), &Field::UInt(0));
    assert_eq!(field(first, "stage"), &Field::UInt(0));
    assert_eq!(field(first, "role"), &Field::Str("thinker".to_owned()));
    assert_eq!(field(first, "rank"), &Field::UInt(0));
    assert_eq!(field(first, "host"), &Field::Str("host".to_owned()));
    assert_eq!(field(first, "start"), &Field::Long((T0 + 100_000) as i64));
    assert_eq!(field(first, "end"), &Field::Long((T0 + 200_000) as i64));
    assert_eq!(field(first, "name"), &Field::Str("_Z4gemmIfEvPKT_S2_PS0_i".to_owned()));
    let demangled = "void gemm<float>(float const*, float const*, float*, int)";
    assert_eq!(field(first, "demangled_name"), &Field::Str(demangled.to_owned()));
    assert_eq!(field(first, "config"), &Field::Null);
    let copies = rows(&target, "memcpy");
    assert_eq!(field(&copies[0], "copy_kind_text"), &Field::Str("HtoD".to_owned()));
    assert_eq!(field(&copies[0], "size_bytes"), &Field::ULong(4_000_000));
    let operators = rows(&target, "operator");
    assert_eq!(field(&operators[0], "sequence"), &Field::Long(-1));
    let counters = rows(&target, "counter");
    assert_eq!(field(&counters[0], "value"), &Field::Double(1000.0));
    assert_eq!(field(&counters[0], "device"), &Field::Null);
    let frames = rows(&target, "frames");
    assert_eq!(field(&frames[0], "function"), &Field::Str("loop_main".to_owned()));
}

#[test]
fn times_and_sequences_are_delta_packed_and_all_is_zstd() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("trace.parquet");
    write(&target, pipeline());
    let file = File::open(target.join("kernel.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let group = reader.metadata().row_group(0);
    for column in group.columns() {
        assert!(matches!(column.compression(), parquet::basic::Compression::ZSTD(_)));
        let delta = column.encodings().any(|e| e == parquet::basic::Encoding::DELTA_BINARY_PACKED);
        let name = column.column_path().string();
        assert_eq!(delta, ["start", "end", "correlation"].contains(&&*name), "{name}");
    }
    let keys = reader.metadata().file_metadata().key_value_metadata().unwrap();
    assert!(keys.iter().any(|pair| pair.key == "omniprof.parquet_version"));
}

#[test]
fn row_groups_are_bounded() {
    let mut worker = Builder::new(origin(0, "thinker", 0));
    let name = worker.string("kernel");
    let kernels: Vec<Kernel> = (0..150_000).map(|at| kernel(name, at, at + 1)).collect();
    for block in kernels.chunks(8192) {
        worker.push(block);
    }
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("trace.parquet");
    assert_eq!(write(&target, vec![worker])["kernel"], 150_000);
    let file = File::open(target.join("kernel.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let groups = reader.metadata().row_groups();
    assert_eq!(
        groups.iter().map(|group| group.num_rows()).collect::<Vec<_>>(),
        [65_536, 65_536, 18_928]
    );
}

#[test]
fn a_directory_that_is_there_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    assert!(ParquetWriter::create(dir.path(), SymbolizerOptions::default()).is_err());
}

#[test]
fn launch_configurations_and_losses_and_facts_have_tables() {
    let mut worker = Builder::new(origin(0, "thinker", 0));
    let name = worker.string("kernel");
    worker.push(&[LaunchConfigDef {
        id: LaunchConfigId(1),
        grid_x: 7,
        block_x: 256,
        ..LaunchConfigDef::default()
    }]);
    worker.push(&[Kernel { config: LaunchConfigId(1), ..kernel(name, 0, 10) }]);
    let mut heap = Vec::new();
    let (key, value) =
        (HeapRef::push(&mut heap, b"cpu.sampler"), HeapRef::push(&mut heap, b"perf"));
    worker.spool.push_with_heap(StreamId(0), &[Fact { time: T0, key, value }], &heap);
    worker.spool.push(StreamId(0), &[Loss { count: 3, cause: 6, ..Loss::default() }]);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("trace.parquet");
    write(&target, vec![worker]);
    let config = field(&rows(&target, "kernel")[0], "config").clone();
    let configs = rows(&target, "launch_configs");
    assert_eq!(field(&configs[0], "config"), &config);
    assert_eq!(field(&configs[0], "grid_x"), &Field::UInt(7));
    assert_eq!(field(&rows(&target, "facts")[0], "value"), &Field::Str("perf".to_owned()));
    assert_eq!(field(&rows(&target, "losses")[0], "cause"), &Field::Str("byte_limit".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_was_put_in_comes_out(
        numbers in prop::collection::vec((0_u64..900_000, any::<u64>(), any::<u32>(), any::<f64>()), 1..100)
    ) {
        let mut worker = Builder::new(origin(0, "thinker", 0));
        let name = worker.string("c");
        let kernels: Vec<Kernel> = numbers
            .iter()
            .map(|&(start, graph_node, context, _)| Kernel { graph_node, context, ..kernel(name, start, start + 7) })
            .collect();
        worker.push(&kernels);
        let counters: Vec<Counter> = numbers
            .iter()
            .map(|&(time, _, _, value)| Counter { time: T0 + time, value, name, ..Counter::default() })
            .collect();
        worker.push(&counters);
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("trace.parquet");
        write(&target, vec![worker]);
        let rows_of = |table| rows(&target, table);
        for (row, &(start, graph_node, context, _)) in rows_of("kernel").iter().zip(&numbers) {
            prop_assert_eq!(field(row, "start"), &Field::Long((T0 + start) as i64));
            prop_assert_eq!(field(row, "graph_node"), &Field::ULong(graph_node));
            prop_assert_eq!(field(row, "context"), &Field::UInt(context));
        }
        for (row, &(.., value)) in rows_of("counter").iter().zip(&numbers) {
            let Field::Double(found) = field(row, "value") else { panic!() };
            prop_assert_eq!(found.to_bits(), value.to_bits());
        }
    }
}
