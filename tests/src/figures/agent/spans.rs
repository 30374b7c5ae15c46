//! What a span costs.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_agent::{Agent, LocalAgent, TracingLayer};
use profiler_core::backend::SessionConfig;
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::control::{
    AgentEvent, AgentReply, AgentRequest, Arm, COMMIT_DEADLINE_MS, CaptureConfig, Commit,
    OnUnavailable, Outcome, Stop, WorkerResult,
};
use profiler_core::schedule::{Limits, Schedule};
use tracing_subscriber::layer::SubscriberExt as _;

use super::super::measure::thread_cpu;
use super::super::{Bound, Context, FigureEntry, Measured};

const RUNS: usize = 15;
const IDLE_SPANS: u32 = 10_000_000;
/// Spans of a burst: fewer than the chunks that stand ready hold.
const BURST: u32 = 10_000;
const BURSTS: u32 = 10;

pub(super) fn figures() -> Vec<FigureEntry> {
    vec![
        FigureEntry {
            name: "span-idle",
            unit: "ns",
            required: Some(Bound::AtMost(5.0)),
            anchor: "one relaxed load",
            run: idle,
        },
        FigureEntry {
            name: "span-recording",
            unit: "ns",
            required: Some(Bound::AtMost(100.0)),
            anchor: "two readings of CLOCK_MONOTONIC",
            run: |context| recording(context, || drop(profiler_agent::span("figure").enter())),
        },
        FigureEntry {
            name: "span-recording-fields",
            unit: "ns",
            required: None,
            anchor: "a request, a stage and a number",
            run: |context| {
                recording(context, || {
                    let span = profiler_agent::span("figure").request("r-1").stage("thinker");
                    drop(span.field("tokens", 12).enter());
                })
            },
        },
        FigureEntry {
            name: "span-tracing",
            unit: "ns",
            required: Some(Bound::AtMost(400.0)),
            anchor: "the registry of tracing-subscriber alone: span-tracing-none",
            run: |context| {
                let subscriber = tracing_subscriber::registry().with(TracingLayer::new());
                tracing::subscriber::with_default(subscriber, || {
                    recording(context, || {
                        tracing::info_span!("figure").in_scope(|| {});
                    })
                })
            },
        },
        FigureEntry {
            name: "span-tracing-none",
            unit: "ns",
            required: None,
            anchor: "the same without a layer",
            run: |_context| {
                tracing::subscriber::with_default(tracing_subscriber::registry(), || {
                    measure(|| tracing::info_span!("figure").in_scope(|| {}), || Ok(()))
                })
            },
        },
    ]
}

fn idle(_context: &Context) -> anyhow::Result<Measured> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let begin = thread_cpu();
        for _ in 0..IDLE_SPANS {
            drop(black_box(profiler_agent::span(black_box("figure")).enter()));
        }
        runs.push(ns_each(begin, IDLE_SPANS));
    }
    Ok(Measured::median_of(&runs))
}

fn ns_each(begin: Duration, count: u32) -> f64 {
    thread_cpu().saturating_sub(begin).as_nanos() as f64 / f64::from(count)
}

/// Bursts of `span`; `settle` waits for whoever takes them in between.
fn measure(
    span: impl Fn(),
    mut settle: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Measured> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let mut spent = 0.0;
        for _ in 0..BURSTS {
            let begin = thread_cpu();
            for _ in 0..BURST {
                span();
            }
            spent += ns_each(begin, BURST) / f64::from(BURSTS);
            settle()?;
        }
        runs.push(spent);
    }
    Ok(Measured::median_of(&runs))
}

fn recording(context: &Context, span: impl Fn()) -> anyhow::Result<Measured> {
    let agent = Agent::builder().local()?;
    let path = context.fresh_dir("spans")?.join("figure.spool");
    begin_session(&agent, &path)?;
    let mut made = 0;
    let measured = measure(span, || {
        made += u64::from(BURST);
        wait_for_rows(&agent, made)
    })?;
    let result = end_session(&agent)?;
    anyhow::ensure!(result.lost.is_empty(), "spans were lost: {:?}", result.lost);
    let expected = u64::from(BURST) * u64::from(BURSTS) * RUNS as u64;
    let spans = result.rows.get("span").copied().unwrap_or(0);
    anyhow::ensure!(spans == expected, "{spans} spans in the spool, {expected} were made");
    Ok(measured)
}

fn begin_session(agent: &LocalAgent, path: &Path) -> anyhow::Result<()> {
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    let arm = arm(1, &path.display().to_string());
    done(agent.request(AgentRequest::Arm(Box::new(arm)), Some(file.into())))?;
    let commit = Commit { fence: 1, t0: SystemClock::new().now() };
    done(agent.request(AgentRequest::Commit(commit), None))?;
    Ok(())
}

/// An arm that records spans alone.
pub(super) fn arm(fence: u64, session: &str) -> Arm {
    Arm {
        session: session.to_owned(),
        prefix: None,
        fence,
        spool_path: None,
        capture: CaptureConfig {
            device: false,
            device_required: false,
            host: false,
            spans: true,
            backend: None,
            on_unavailable: OnUnavailable::Fail,
            session: SessionConfig::default(),
        },
        schedule: Schedule::default(),
        limits: Limits { min_free_percent: 0, ..Limits::default() },
        called: None,
        commit_within_ms: COMMIT_DEADLINE_MS,
    }
}

fn end_session(agent: &LocalAgent) -> anyhow::Result<WorkerResult> {
    let events = agent.events().context("the events were taken")?;
    let t1 = SystemClock::new().now();
    let stop = Stop { fence: 1, t1, reason: "request".to_owned() };
    done(agent.request(AgentRequest::Stop(stop), None))?;
    loop {
        if let AgentEvent::Finished { result } = events.recv_timeout(Duration::from_secs(30))? {
            return Ok(*result);
        }
    }
}

/// Waits until the writer has taken what was made so far.
fn wait_for_rows(agent: &LocalAgent, made: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let reply = done(agent.request(AgentRequest::Status, None))?;
        let AgentReply::Status { session: Some(session) } = reply else {
            anyhow::bail!("the session ended meanwhile: {reply:?}")
        };
        if session.rows + session.lost >= made {
            // What it took last makes room when it looks the next time.
            std::thread::sleep(Duration::from_millis(25));
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "the writer takes no spans: {session:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn done(outcome: Outcome) -> anyhow::Result<AgentReply> {
    match outcome {
        Outcome::Done(reply) => Ok(*reply),
        Outcome::Failed(error) => Err(error.into()),
    }
}
