//! Databases in a build without SQLite: refused, with what is read instead.

use super::ImportError;
use super::source::Source;
use super::survey::Survey;
use super::translate::Translator;

pub(super) fn survey(source: &Source) -> Result<Survey, ImportError> {
    Err(source.no_trace(
        "it is a database, which a build with the feature `npu` reads; JSON is read by all: `msprof \
         --export=on --type=text`, or `export_type=Text` of torch_npu's profiler, writes it",
    ))
}

pub(super) fn read(_: &mut Translator<'_>, source: &Source) -> Result<(), ImportError> {
    survey(source).map(drop)
}
