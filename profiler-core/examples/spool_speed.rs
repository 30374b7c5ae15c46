//! Prints how fast a spool is written and read.
#![expect(clippy::print_stdout, reason = "a program that prints numbers")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_core::clock::SystemClock;
use profiler_core::record::{ApiCall, Kernel};
use profiler_core::sink::{Batch, Emit};
use profiler_core::spool::{Block, SpoolOptions, SpoolReader, SpoolWriter};
use profiler_core::synthetic::Launches;

fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn status_kib(field: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let launches = std::env::args().nth(1).map_or(Ok(8_000_000), |n| n.parse::<usize>())?;
    let per_group = 2048;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("speed.spool");
    let mut set = rustix::thread::CpuSet::new();
    set.set(1);
    rustix::thread::sched_setaffinity(None, &set)?;

    let mut devices = [Launches::new(0, 1 << 50, 1), Launches::new(1, 1 << 50, 1)];
    let mut groups: Vec<(Vec<ApiCall>, Vec<Kernel>)> = Vec::new();
    for group in 0..512 {
        let (mut calls, mut kernels) = (Vec::new(), Vec::new());
        devices[group % 2].append(per_group, &mut calls, &mut kernels);
        groups.push((calls, kernels));
    }
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path)?;
    let header = serde_json::from_value(serde_json::json!({
        "session": "s", "prefix": null, "writer": "speed", "fence": 1,
        "created": {"monotonic_ns": 0, "realtime_ns": 0},
        "worker": {"stage": null, "role": null, "replica": null, "rank": null, "host": "h",
            "pid": 1, "key": "k", "boot_id": "b", "time_namespace": 0, "pid_namespace": 0,
            "start_ticks": 0, "program": "p"},
    }))?;
    let before_kib = status_kib("VmRSS")?;
    let begin = Instant::now();
    let begin_cpu = process_cpu();
    let writer =
        SpoolWriter::create(file, &header, SpoolOptions::default(), Arc::new(SystemClock::new()))?;
    let sink = writer.sink();
    let streams = [0, 1].map(|i| sink.open_stream(devices[i].stream_info()));
    for (device, stream) in devices.iter().zip(streams) {
        assert_eq!(device.define(sink.as_ref(), stream), Emit::Accepted);
    }
    let mut sent = 0;
    let mut fulls = 0u64;
    'all: loop {
        for (index, (calls, kernels)) in groups.iter().enumerate() {
            let stream = streams[index % 2];
            let group = [Batch::new(stream, calls), Batch::new(stream, kernels)];
            while sink.emit(&group) == Emit::Full {
                fulls += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            sent += calls.len();
            if sent >= launches {
                break 'all;
            }
        }
    }
    let totals = writer.finish(Duration::from_secs(60));
    let took = begin.elapsed();
    let cpu = process_cpu() - begin_cpu;
    println!(
        "{sent} launches, {:.2} M/s by the clock, {:.2} M/s by processor time, {:.2} bytes a launch, {fulls} full, footer {}",
        sent as f64 / took.as_secs_f64() / 1e6,
        sent as f64 / cpu.as_secs_f64() / 1e6,
        totals.bytes as f64 / sent as f64,
        totals.has_footer,
    );
    println!("{} MiB more resident at most", (status_kib("VmHWM")? - before_kib) >> 10);
    let begin_cpu = process_cpu();
    let mut reader = SpoolReader::open(&path)?;
    let mut block = Block::new();
    let mut rows = 0;
    while reader.next_into(&mut block)? {
        rows += block.count();
    }
    println!(
        "read {rows} rows, {:.2} M rows/s",
        rows as f64 / (process_cpu() - begin_cpu).as_secs_f64() / 1e6
    );
    if let Some(keep) = std::env::args().nth(2) {
        std::fs::copy(&path, keep)?;
    }
    Ok(())
}
