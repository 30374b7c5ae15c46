//! How full a kernel can make a multiprocessor, by the rules of NVIDIA's occupancy calculator, in
//! the single-precision arithmetic of PyTorch's `est. achieved occupancy %`.
//!
//! One difference is meant: PyTorch writes 0 for kernels that ask for more shared memory than the
//! default limit of a block, because it does not know that they opted in. They run, so here they
//! get the number that the same rules give.

use profiler_core::record::{DeviceDef, LaunchConfigDef};

/// Registers are given out to warps in pieces of this many.
const REGISTER_UNIT: u64 = 256;
/// A multiprocessor is made of so many parts, each with a share of the registers.
const PARTITIONS: u64 = 4;
/// Shared memory is given out in pieces of this many bytes.
const SHARED_UNIT: u64 = 128;
/// From this capability on the driver keeps [`RESERVED_SHARED`] bytes of each block's.
const RESERVING_CAPABILITY: u32 = 8;
const RESERVED_SHARED: u64 = 1024;

/// What a launch is on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Occupancy {
    /// Blocks for each multiprocessor.
    pub(super) blocks: f32,
    /// Warps for each multiprocessor.
    pub(super) warps: f32,
    /// The share of a multiprocessor's threads that can be busy.
    pub(super) percent: u64,
}

impl Occupancy {
    /// `None` where too little is known of the device.
    pub(super) fn of(config: &LaunchConfigDef, device: &DeviceDef) -> Option<Self> {
        let (warp, most_threads) = (device.warp_size, device.max_threads_per_multiprocessor);
        if device.multiprocessors == 0 || warp == 0 || most_threads == 0 {
            return None;
        }
        let product =
            |x: u32, y: u32, z: u32| u64::from(x).saturating_mul(u64::from(y) * u64::from(z));
        let threads = product(config.block_x, config.block_y, config.block_z);
        let blocks = product(config.grid_x, config.grid_y, config.grid_z);
        let blocks = blocks as f32 / device.multiprocessors as f32;
        let warps = blocks * threads as f32 / warp as f32;
        let active = blocks.min(most_blocks(config, device, threads) as f32);
        let share = active * threads as f32 / most_threads as f32;
        // PyTorch rounds so.
        let percent = (0.5 + f64::from(share) * 100.0) as u64;
        Some(Self { blocks, warps, percent: percent.min(100) })
    }
}

/// The blocks that a multiprocessor holds at a time.
fn most_blocks(config: &LaunchConfigDef, device: &DeviceDef, threads: u64) -> u64 {
    let warp = u64::from(device.warp_size);
    let warps = threads.div_ceil(warp).max(1);
    let by_threads = u64::from(device.max_threads_per_multiprocessor) / warp / warps;
    let mut most = by_threads.min(block_slots(device));
    let of_warp = (u64::from(config.registers) * warp).next_multiple_of(REGISTER_UNIT);
    if of_warp > 0 && device.registers_per_multiprocessor > 0 {
        let of_partition = u64::from(device.registers_per_multiprocessor) / PARTITIONS;
        most = most.min(of_partition / of_warp * PARTITIONS / warps);
    }
    let reserved =
        if device.capability_major >= RESERVING_CAPABILITY { RESERVED_SHARED } else { 0 };
    let shared = u64::from(config.static_shared_bytes) + u64::from(config.dynamic_shared_bytes);
    let shared = (shared + reserved).next_multiple_of(SHARED_UNIT);
    if shared > 0 && device.shared_bytes_per_multiprocessor > 0 {
        most = most.min(u64::from(device.shared_bytes_per_multiprocessor) / shared);
    }
    most
}

/// The blocks that a multiprocessor can hold at all, by its capability.
fn block_slots(device: &DeviceDef) -> u64 {
    match (device.capability_major, device.capability_minor) {
        (7, 5) | (8, 6 | 7) => 16,
        (8, 9) | (11 | 12, _) => 24,
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(major: u32, multiprocessors: u32, shared: u32) -> DeviceDef {
        DeviceDef {
            capability_major: major,
            multiprocessors,
            warp_size: 32,
            max_threads_per_multiprocessor: 2048,
            registers_per_multiprocessor: 65_536,
            shared_bytes_per_multiprocessor: shared,
            ..DeviceDef::default()
        }
    }

    fn percent(device: &DeviceDef, threads: u32, blocks: u32, registers: u32, shared: u32) -> u64 {
        let config = LaunchConfigDef {
            grid_x: blocks,
            grid_y: 1,
            grid_z: 1,
            block_x: threads,
            block_y: 1,
            block_z: 1,
            registers,
            dynamic_shared_bytes: shared,
            ..LaunchConfigDef::default()
        };
        Occupancy::of(&config, device).map(|occupancy| occupancy.percent).expect("a known device")
    }

    /// Threads, blocks, registers, shared memory and percent as PyTorch wrote them for real work.
    #[test]
    fn as_pytorch_has_it() {
        let h100 = device(9, 132, 233_472);
        for (threads, blocks, registers, shared, wanted) in [
            (64, 9, 16, 0, 0),
            (128, 18, 18, 0, 1),
            (128, 70, 26, 0, 3),
            (128, 1056, 32, 0, 50),
            (128, 1280, 255, 49_152, 13),
            (128, 17_888, 24, 0, 100),
            (512, 528, 29, 0, 100),
        ] {
            assert_eq!(percent(&h100, threads, blocks, registers, shared), wanted);
        }
        let b200 = device(10, 148, 233_472);
        for (threads, blocks, registers, shared, wanted) in [
            (64, 888, 42, 0, 19),
            (128, 1024, 31, 0, 43),
            (256, 888, 44, 384, 63),
            (384, 740, 32, 0, 94),
            (512, 32, 128, 42_160, 5),
            (1024, 8, 26, 0, 3),
        ] {
            assert_eq!(percent(&b200, threads, blocks, registers, shared), wanted);
        }
        let v100 = device(7, 80, 98_304);
        for (threads, blocks, registers, shared, wanted) in [
            // Limited by shared memory; and 22.5 in single precision is a little less.
            (256, 1792, 64, 24_704, 38),
            (64, 576, 126, 8448, 22),
            (128, 424, 30, 0, 33),
        ] {
            assert_eq!(percent(&v100, threads, blocks, registers, shared), wanted);
        }
    }

    #[test]
    fn a_kernel_that_opted_in_to_more_shared_memory_runs() {
        assert_eq!(percent(&device(9, 132, 233_472), 384, 132, 168, 231_424), 19);
    }

    #[test]
    fn an_unknown_device_and_wild_numbers_do_no_harm() {
        let config = LaunchConfigDef {
            grid_x: u32::MAX,
            grid_y: u32::MAX,
            grid_z: u32::MAX,
            registers: u32::MAX,
            static_shared_bytes: u32::MAX,
            dynamic_shared_bytes: u32::MAX,
            ..LaunchConfigDef::default()
        };
        assert_eq!(Occupancy::of(&config, &DeviceDef::default()), None);
        assert!(Occupancy::of(&config, &device(9, 1, u32::MAX)).is_some());
    }
}
