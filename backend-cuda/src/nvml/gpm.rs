//! Performance monitoring of one device: true activity, where utilisation only says "something
//! ran". Hopper and later.

use std::sync::Arc;

use super::library::{GpmSample, Handle, Nvml};

/// `nvmlGpmMetricId_t`: SM active, SM occupancy, any tensor, DRAM bandwidth, PCIe sent and
/// received, NVLink received and sent.
pub(super) const METRICS: [u32; 8] = [2, 3, 5, 10, 20, 21, 60, 61];

/// Older drivers answer other questions with "in use" once a sample was taken.
const OLDEST_DRIVER: u32 = 550;

/// Reads what happened between two samples.
pub(super) struct Gpm {
    nvml: Arc<Nvml>,
    device: Handle,
    last: GpmSample,
    next: GpmSample,
    has_last: bool,
}

impl Gpm {
    /// `None` where the device or its driver cannot do it.
    pub(super) fn open(nvml: &Arc<Nvml>, device: Handle) -> Option<Self> {
        if nvml.driver_major() < OLDEST_DRIVER || !nvml.has_gpm(device) {
            return None;
        }
        let last = nvml.new_sample()?;
        let Some(next) = nvml.new_sample() else {
            nvml.free_sample(last);
            return None;
        };
        Some(Self { nvml: Arc::clone(nvml), device, last, next, has_last: false })
    }

    /// The means since the last call, in the order of [`METRICS`]; nothing at the first.
    pub(super) fn read(&mut self) -> Option<[Option<f64>; METRICS.len()]> {
        self.nvml.sample(self.device, self.next)?;
        let between = [self.last, self.next];
        std::mem::swap(&mut self.last, &mut self.next);
        if !std::mem::replace(&mut self.has_last, true) {
            return None;
        }
        self.nvml.metrics(between, METRICS)
    }
}

impl Drop for Gpm {
    fn drop(&mut self) {
        self.nvml.free_sample(self.last);
        self.nvml.free_sample(self.next);
    }
}
