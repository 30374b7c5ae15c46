//! What the arguments of events say.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::event::plain;

/// What arguments say, of all kinds of events.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Args<'a> {
    #[serde(borrow)]
    pub(super) correlation: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) connection_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) device: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) context: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) stream: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) bytes: Option<&'a RawValue>,
    #[serde(borrow, rename = "Bytes")]
    pub(super) allocated: Option<&'a RawValue>,
    #[serde(borrow, rename = "Addr")]
    pub(super) address: Option<&'a RawValue>,
    #[serde(borrow, rename = "Device Id")]
    pub(super) device_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "Total Allocated")]
    pub(super) total_allocated: Option<&'a RawValue>,
    #[serde(borrow, rename = "Total Reserved")]
    pub(super) total_reserved: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) cbid: Option<&'a RawValue>,
    #[serde(borrow, rename = "Sequence number")]
    pub(super) sequence: Option<&'a RawValue>,
    #[serde(borrow, rename = "Input Dims")]
    pub(super) dims: Option<&'a RawValue>,
    #[serde(borrow, rename = "Input type")]
    pub(super) types: Option<&'a RawValue>,
    #[serde(borrow, rename = "Task Type")]
    pub(super) task_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Physic Stream Id")]
    pub(super) physical_stream: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) grid: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) block: Option<&'a RawValue>,
    #[serde(borrow, rename = "registers per thread")]
    pub(super) registers: Option<&'a RawValue>,
    #[serde(borrow, rename = "shared memory")]
    pub(super) shared: Option<&'a RawValue>,
    #[serde(borrow, rename = "data_type")]
    pub(super) data_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "alg_type")]
    pub(super) algorithm: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) count: Option<&'a RawValue>,
}

/// A number, however it is written; what is no such number is 0.
pub(super) fn number(raw: Option<&RawValue>) -> u64 {
    let text = raw.map_or("", |raw| plain(raw.get()));
    text.parse::<u64>().unwrap_or_else(|_| match text.parse::<i64>() {
        Ok(negative) => negative as u64,
        // The cast saturates.
        Err(_) => text.parse::<f64>().map_or(0, |float| float as u64),
    })
}

pub(super) fn small(raw: Option<&RawValue>) -> u32 {
    u32::try_from(number(raw)).unwrap_or(u32::MAX)
}

pub(super) fn three(raw: Option<&RawValue>) -> [u32; 3] {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// JSON without white space.
pub(super) fn compact(json: &str) -> String {
    json.chars().filter(|char| !char.is_whitespace()).collect()
}
