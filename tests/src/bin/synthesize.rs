//! Writes a synthetic spool for outside consumers: `synthesize FILE LAUNCHES [RANK]`.

use std::path::Path;

use anyhow::Context as _;
use profiler_core::identity::WorkerIdentity;
use profiler_tests::synthetic;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(file), Some(launches)) = (args.next(), args.next()) else {
        anyhow::bail!("usage: synthesize FILE LAUNCHES [RANK]");
    };
    let launches = launches.parse().context("LAUNCHES is no number")?;
    let rank = args.next().map(|rank| rank.parse()).transpose().context("RANK is no number")?;
    let worker =
        WorkerIdentity::of_this_process(Some(0), Some("synthetic"), Some(0), rank.or(Some(0)));
    let totals = synthetic::write(Path::new(&file), worker, launches)?;
    anyhow::ensure!(totals.lost.total() == 0, "rows were lost: {:?}", totals.lost);
    anyhow::ensure!(totals.has_footer, "the spool has no end: {:?}", totals.end);
    Ok(())
}
