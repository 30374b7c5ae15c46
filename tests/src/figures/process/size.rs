//! How large the files are that are brought into other people's processes, and the least program.

use std::path::PathBuf;

use crate::figures::{Bound, Context, FigureEntry, Measured};

/// The profile by which they are built, and the folder beside `release` where they then lie.
const PROFILE: &str = "small";

pub(super) fn figures() -> Vec<FigureEntry> {
    let how = "cargo build --profile small: stripped, opt-level s but for what records";
    vec![
        FigureEntry {
            name: "injected-file-size",
            unit: "MB",
            required: Some(Bound::AtMost(3.0)),
            anchor: how,
            run: |context| size(context, "profiler-inject", &["libomniprof_inject.so"]),
        },
        FigureEntry {
            name: "plugin-size",
            unit: "MB",
            required: Some(Bound::AtMost(3.0)),
            anchor: how,
            run: |context| {
                let packages = "backend-cpu-plugin -p backend-cuda-plugin -p backend-npu-plugin";
                let files = ["cpu", "cuda", "npu"].map(|id| format!("libomniprof_backend_{id}.so"));
                size(context, packages, &files.each_ref().map(String::as_str))
            },
        },
        FigureEntry {
            name: "minimal-size",
            unit: "MB",
            required: Some(Bound::AtMost(4.0)),
            anchor: "the program without features, by the same profile",
            run: |context| size(context, "profiler-worker --no-default-features", &["omniprof"]),
        },
    ]
}

/// The largest of the files.
fn size(context: &Context, packages: &str, files: &[&str]) -> anyhow::Result<Measured> {
    let mut sizes = Vec::new();
    for name in files {
        let Some(file) = file(context, name) else {
            return Ok(Measured::Skipped(format!(
                "{name} is not built so: cargo build --profile {PROFILE} -p {packages}"
            )));
        };
        sizes.push((std::fs::metadata(file)?.len(), *name));
    }
    let list: Vec<String> =
        sizes.iter().map(|(bytes, name)| format!("{name} {bytes} bytes")).collect();
    let largest = sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
    Ok(Measured::noted(largest as f64 / 1e6, list.join(", ")))
}

fn file(context: &Context, name: &str) -> Option<PathBuf> {
    let file = context.bin_dir().parent()?.join(PROFILE).join(name);
    file.is_file().then_some(file)
}
