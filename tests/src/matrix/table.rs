//! The matrix for people.

use std::fmt::Write as _;

use super::{Backend, Door, Features, Ground, Outcome, Report};

/// One row for each backend, door and ground, a column for each set of features, and below it the
/// reasons.
#[must_use]
pub fn table(reports: &[Report]) -> String {
    let mut text = format!("{:<8} {:<9} {:<9}", "backend", "door", "on");
    for features in Features::ALL {
        push(&mut text, &format!(" {:<18}", features.word()));
    }
    text.push('\n');
    let mut notes: Vec<String> = Vec::new();
    for backend in Backend::ALL {
        for door in Door::ALL {
            for ground in Ground::ALL {
                let row: Vec<_> = reports
                    .iter()
                    .filter(|report| {
                        let cell = report.cell;
                        (cell.backend, cell.door, cell.ground) == (backend, door, ground)
                    })
                    .collect();
                if row.is_empty() {
                    continue;
                }
                let (door, ground) = (door.word(), ground.word());
                push(&mut text, &format!("{:<8} {door:<9} {ground:<9}", backend.id()));
                for features in Features::ALL {
                    let report = row.iter().find(|report| report.cell.features == features);
                    let told = report.map_or("-".to_owned(), |report| tell(report, &mut notes));
                    push(&mut text, &format!(" {told:<18}"));
                }
                text.push('\n');
            }
        }
    }
    for line in hardware(reports) {
        push(&mut text, &format!("{line}\n"));
    }
    for (number, note) in notes.iter().enumerate() {
        push(&mut text, &format!("[{}] {note}\n", number + 1));
    }
    let count =
        |test: fn(&Outcome) -> bool| reports.iter().filter(|report| test(&report.outcome)).count();
    push(
        &mut text,
        &format!(
            "{} passed, {} failed, {} fail as is known, {} skipped\n",
            count(|outcome| matches!(outcome, Outcome::Passed { .. })),
            count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            count(|outcome| matches!(outcome, Outcome::ExpectedFailure { .. })),
            count(|outcome| matches!(outcome, Outcome::Skipped { .. })),
        ),
    );
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The devices and libraries of what was run on hardware, once each.
fn hardware(reports: &[Report]) -> Vec<String> {
    let mut lines = Vec::new();
    for report in reports {
        if report.cell.ground != Ground::Hardware || report.library.is_empty() {
            continue;
        }
        let line = format!("{} on hardware: {}", report.cell.backend.id(), report.library);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

fn tell(report: &Report, notes: &mut Vec<String>) -> String {
    let mut note = |text: String| {
        let place = notes.iter().position(|note| *note == text);
        place.map_or_else(
            || {
                notes.push(text);
                notes.len()
            },
            |place| place + 1,
        )
    };
    match &report.outcome {
        Outcome::Passed { tests, skipped } if skipped.is_empty() => format!("ok {tests}"),
        Outcome::Passed { tests, skipped } => {
            let number = note(format!("not run: {}", skipped.join("; ")));
            format!("ok {tests} [{number}]")
        }
        Outcome::Skipped { reason } => format!("skipped [{}]", note(reason.clone())),
        Outcome::ExpectedFailure { known, tests } => {
            format!("known, ok {tests} [{}]", note(known.join("; ")))
        }
        Outcome::Failed { why } => format!("FAILED [{}]", note(why.join("; "))),
    }
}

fn push(text: &mut String, more: &str) {
    // Writing to a string cannot fail.
    let _written: std::fmt::Result = text.write_str(more);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Cell, plan};
    use super::*;

    #[test]
    fn a_reason_is_told_once() {
        let machine = plan::Machine::of(Vec::new(), BTreeMap::new());
        let mut reports = Vec::new();
        for cell in Cell::all() {
            reports.push(match plan::plan(cell, &machine) {
                Ok(parts) => {
                    let outcome = Outcome::Passed { tests: parts.len(), skipped: Vec::new() };
                    let library = match cell.ground {
                        Ground::StandIn => "stand-in",
                        Ground::Hardware => "device; driver 7; library 22",
                    };
                    Report::new(cell, outcome, library.to_owned(), 1)
                }
                Err(reason) => Report::skipped(cell, reason),
            });
        }
        insta::assert_snapshot!(table(&reports));
    }
}
