//! What a controller leaves on the disk when a session begins, so that another can adopt it.

use std::path::PathBuf;

use profiler_core::clock::Instant;
use profiler_core::identity::WorkerIdentity;
use profiler_core::schedule::Limits;
use serde::{Deserialize, Serialize};

use crate::manifest::LeftOut;
use crate::start_request::StartRequest;

use profiler_core::config::{EventArguments, TraceFormat};

/// The record's name, in the session's directory.
pub(crate) const RECORD_FILE: &str = "session.json";

/// The merged trace's name, in the session's directory.
pub(crate) const MERGED_FILE: &str = "merged.pftrace.gz";

/// What is known of a session from its begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    /// The version of this record's shape.
    pub(crate) schema_version: u32,
    /// The session's id.
    pub(crate) session: String,
    /// The label, as the user gave it.
    pub(crate) prefix: Option<String>,
    /// The session's fence.
    pub(crate) fence: u64,
    /// When the workers were asked.
    pub(crate) asked: Instant,
    /// T0, once the workers were ready.
    pub(crate) t0: Option<Instant>,
    /// What was asked, by which workers that join later are judged.
    pub(crate) request: StartRequest,
    /// Whether to write one trace of all workers.
    pub(crate) merge: bool,
    /// How many arguments the events of that trace carry.
    pub(crate) merge_arguments: EventArguments,
    /// Whether the start accepted that some workers miss.
    pub(crate) allow_partial: bool,
    /// The workers.
    pub(crate) workers: Vec<WorkerRecord>,
    /// The workers that were selected and not asked.
    #[serde(default)]
    pub(crate) left_out: Vec<LeftOut>,
}

/// What is known of a worker's part from its begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WorkerRecord {
    /// Who it is.
    pub(crate) worker: WorkerIdentity,
    /// Its spool, below the session's directory.
    pub(crate) spool: PathBuf,
    /// When it stops at the latest.
    pub(crate) limits: Limits,
    /// The formats to write, the followed one first.
    pub(crate) formats: Vec<TraceFormat>,
    /// How many arguments the events of its traces carry.
    pub(crate) arguments: EventArguments,
    /// Why it records without a device, where that was not asked for.
    pub(crate) note: Option<String>,
    /// It joined when the session already ran.
    pub(crate) late: bool,
    /// It is the host's counters, and no worker.
    #[serde(default)]
    pub(crate) host: bool,
    /// Whether the start accepted that it records less than asked (`on_unavailable`,
    /// `allow_partial`); nobody asked one that came late for anything.
    #[serde(default)]
    pub(crate) may_record_less: bool,
}
