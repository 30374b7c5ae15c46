//! The layout tables of all kinds, as the spool and the plugin door rely on them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use profiler_core::record::{self, Kernel, RecordKind, Row as _};

#[test]
fn fields_cover_each_row_without_gaps() {
    for schema in record::schemas() {
        let mut offset = 0;
        for field in schema.fields {
            assert_eq!(field.offset, offset, "{}.{}", schema.name, field.name);
            assert!(matches!(field.width, 1 | 2 | 4 | 8), "{}.{}", schema.name, field.name);
            offset += field.width;
        }
        assert_eq!(offset, schema.stride, "{}", schema.name);
        assert_eq!(schema.stride % 8, 0, "{}", schema.name);
    }
}

#[test]
fn numbers_and_names_are_given_once() {
    let mut numbers = BTreeSet::new();
    let mut names = BTreeSet::new();
    for schema in record::schemas() {
        assert!(numbers.insert(schema.kind), "{} stands twice", schema.kind.0);
        assert!(names.insert(schema.name), "{} stands twice", schema.name);
        assert_eq!(schema.kind.is_definition(), schema.kind.0 >= 256, "{}", schema.name);
        assert!(schema.kind < RecordKind::FIRST_FOREIGN);
    }
}

#[test]
fn an_unknown_kind_has_a_name_for_counts() {
    assert_eq!(RecordKind(77).name(), None);
    assert_eq!(RecordKind(77).to_string(), "kind-77");
    assert_eq!(Kernel::KIND.to_string(), "kernel");
}

/// The version-1 layout: fields may be appended, never moved, renumbered or given a new meaning.
#[test]
fn version_1_layout() {
    let mut table = String::new();
    for schema in record::schemas() {
        writeln!(table, "{} {} stride {}", schema.kind.0, schema.name, schema.stride).unwrap();
        for field in schema.fields {
            writeln!(
                table,
                "  {:>3} {} {} {:?}",
                field.offset, field.width, field.name, field.role
            )
            .unwrap();
        }
    }
    insta::assert_snapshot!(table);
}
