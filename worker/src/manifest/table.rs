//! A manifest for people.

use comfy_table::{ContentArrangement, Table, presets};

use super::{FileState, Manifest, WorkerLine};

/// The manifest as a table: a line a worker, then what went wrong and where the files lie.
#[must_use]
pub fn table(manifest: &Manifest) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "stage", "role", "replica", "rank", "pid", "backend", "state", "records", "drops", "files",
    ]);
    for line in &manifest.workers {
        table.add_row([
            number(line.stage),
            line.role.clone().unwrap_or_else(|| "-".to_owned()),
            number(line.replica),
            number(line.rank),
            line.pid.to_string(),
            line.backend.clone().unwrap_or_else(|| "-".to_owned()),
            line.state.name().to_owned(),
            line.records.values().sum::<u64>().to_string(),
            line.drops.values().sum::<u64>().to_string(),
            files(line),
        ]);
    }
    let mut text = format!("session {}\n{table}\n", manifest.session);
    for line in &manifest.workers {
        if let Some(error) = &line.error {
            text.push_str(&format!("{} (pid {}): {error}\n", line.name(), line.pid));
        }
        for file in &line.files {
            if let Some(error) = &file.error {
                text.push_str(&format!("{}: {error}\n", file.path));
            }
            if let Some(command) = &file.command {
                text.push_str(&format!("{} is not written yet: {command}\n", file.path));
            }
        }
    }
    for worker in &manifest.left_out {
        let (name, pid) = (worker.name(), worker.pid);
        text.push_str(&format!("{name} (pid {pid}) was left out: {}\n", worker.message));
    }
    for note in &manifest.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    for file in &manifest.files {
        if file.state == FileState::Complete {
            text.push_str(&format!("merged: {}/{}\n", manifest.directory, file.path));
        }
        if let Some(error) = &file.error {
            text.push_str(&format!("{}: {error}\n", file.path));
        }
    }
    text.push_str(&format!("files: {}\n", manifest.directory));
    text
}

fn number(number: Option<u32>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn files(line: &WorkerLine) -> String {
    let files = line.files.iter().filter(|file| file.state == FileState::Complete);
    let (mut count, mut bytes) = (0, 0);
    for file in files {
        count += 1;
        bytes += file.bytes.unwrap_or(0);
    }
    format!("{count}, {} KiB", bytes / 1024)
}
