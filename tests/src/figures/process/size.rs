//! How large the files are that are brought into other people's processes, and the least program.

use std::path::PathBuf;

use crate::figures::{Bound, Context, FigureEntry, Measured};

/// The profile by which they are built, and the folder beside `release` where they then lie.
const PROFILE: &str = "small";
/// What a file that is brought into other people's processes may have, in MB.
const JOINED: f64 = 3.0;
/// What the program without features may have, in MB.
const MINIMAL: f64 = 4.0;

pub(super) fn figures() -> Vec<FigureEntry> {
    let how = "cargo build --profile small: stripped, opt-level s but for what records";
    vec![
        entry("injected-file-size", JOINED, how, |context| {
            size(context, "profiler-inject", "libomniprof_inject.so")
        }),
        entry("plugin-size-cpu", JOINED, how, |context| {
            size(context, "backend-cpu-plugin", "libomniprof_backend_cpu.so")
        }),
        entry("plugin-size-cuda", JOINED, how, |context| {
            size(context, "backend-cuda-plugin", "libomniprof_backend_cuda.so")
        }),
        entry("plugin-size-npu", JOINED, how, |context| {
            size(context, "backend-npu-plugin", "libomniprof_backend_npu.so")
        }),
        entry(
            "minimal-size",
            MINIMAL,
            "the program without features, by the same profile",
            |context| size(context, "profiler-worker --no-default-features", "omniprof"),
        ),
    ]
}

fn entry(
    name: &'static str,
    at_most: f64,
    anchor: &'static str,
    run: fn(&Context) -> anyhow::Result<Measured>,
) -> FigureEntry {
    FigureEntry { name, unit: "MB", required: Some(Bound::AtMost(at_most)), anchor, run }
}

fn size(context: &Context, package: &str, name: &str) -> anyhow::Result<Measured> {
    let Some(file) = file(context, name) else {
        return Ok(Measured::Skipped(format!(
            "{name} is not built so: cargo build --profile {PROFILE} -p {package}"
        )));
    };
    let bytes = std::fs::metadata(file)?.len();
    Ok(Measured::noted(bytes as f64 / 1e6, format!("{name} {bytes} bytes")))
}

fn file(context: &Context, name: &str) -> Option<PathBuf> {
    let file = context.bin_dir().parent()?.join(PROFILE).join(name);
    file.is_file().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Line, Verdict};

    fn lines(context: &Context) -> Vec<Line> {
        let entries = figures();
        entries.iter().map(|entry| Line::judge("process", entry, (entry.run)(context))).collect()
    }

    #[test]
    fn each_file_is_judged_by_itself_and_one_that_is_not_built_is_skipped() -> anyhow::Result<()> {
        let target = tempfile::tempdir()?;
        let context = Context::new(Some(target.path().join("release")))?;
        for line in lines(&context) {
            assert_eq!(line.verdict, Verdict::Skipped, "{line}");
            assert!(line.note.contains("cargo build --profile small -p "), "{line}");
        }
        let folder = target.path().join(PROFILE);
        std::fs::create_dir(&folder)?;
        for (name, bytes) in [
            ("libomniprof_inject.so", 3_000_001),
            ("libomniprof_backend_cpu.so", 3_000_000),
            ("libomniprof_backend_cuda.so", 2_999_999),
            ("libomniprof_backend_npu.so", 3_100_000),
            ("omniprof", 3_999_999),
        ] {
            std::fs::File::create_new(folder.join(name))?.set_len(bytes)?;
        }
        let verdicts: Vec<_> = lines(&context).iter().map(|l| (l.name, l.verdict)).collect();
        assert_eq!(
            verdicts,
            [
                ("injected-file-size", Verdict::Short),
                ("plugin-size-cpu", Verdict::Ok),
                ("plugin-size-cuda", Verdict::Ok),
                ("plugin-size-npu", Verdict::Short),
                ("minimal-size", Verdict::Ok),
            ]
        );
        Ok(())
    }
}
