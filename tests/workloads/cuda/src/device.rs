//! The driver, as far as the workload calls it.

#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::ffi::{CStr, c_uint, c_void};
use std::ptr::null_mut;

use anyhow::ensure;
use cudarc::driver::sys;

/// Four kernels: one that does nothing, one that runs for a number of cycles, one that fills what
/// it is given by way of shared memory, and one that writes where nothing is. As text, so that the
/// driver compiles them for the device that it finds.
const PTX: &CStr = c"
.version 7.0
.target sm_70
.address_size 64
.visible .entry empty() { ret; }
.visible .entry spin(.param .u64 cycles) {
  .reg .u64 %n<5>;
  .reg .pred %p;
  ld.param.u64 %n1, [cycles];
  mov.u64 %n2, %clock64;
again:
  mov.u64 %n3, %clock64;
  sub.u64 %n4, %n3, %n2;
  setp.lt.u64 %p, %n4, %n1;
  @%p bra again;
  ret;
}
.visible .entry fill(.param .u64 target) {
  .reg .u64 %n<4>;
  .reg .u32 %r<4>;
  .shared .align 4 .b8 tile[4096];
  ld.param.u64 %n1, [target];
  mov.u32 %r1, %tid.x;
  and.b32 %r1, %r1, 1023;
  shl.b32 %r2, %r1, 2;
  mov.u32 %r3, tile;
  add.u32 %r3, %r3, %r2;
  st.shared.u32 [%r3], %r1;
  bar.sync 0;
  ld.shared.u32 %r1, [%r3];
  cvt.u64.u32 %n2, %r2;
  cvta.to.global.u64 %n1, %n1;
  add.u64 %n3, %n1, %n2;
  st.global.u32 [%n3], %r1;
  ret;
}
.visible .entry astray() {
  .reg .u64 %n<2>;
  .reg .u32 %r<2>;
  mov.u64 %n1, 0;
  mov.u32 %r1, 1;
  st.global.u32 [%n1], %r1;
  ret;
}
";
/// Bytes that copies move and `fill` fills.
const BLOCK_BYTES: usize = 1 << 20;

/// A device with its primary context and the kernels.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    context: sys::CUcontext,
    empty: sys::CUfunction,
    spin: sys::CUfunction,
    fill: sys::CUfunction,
    astray: sys::CUfunction,
}

// SAFETY: the driver's handles may be used from any thread that sets the context.
unsafe impl Send for Device {}
// SAFETY: as above; the struct is never changed.
unsafe impl Sync for Device {}

/// A stream of the thread that made it.
pub(crate) struct Stream(sys::CUstream);

// SAFETY: as a device's handles; a stream may be waited for from any thread.
unsafe impl Send for Stream {}

/// A graph, ready to launch.
pub(crate) struct Graph(sys::CUgraphExec);

/// Memory of the device that is held for others to miss.
#[derive(Default)]
pub(crate) struct Taken(Vec<sys::CUdeviceptr>);

/// Memory on the device and, pinned, on the host.
pub(crate) struct Block {
    device: sys::CUdeviceptr,
    host: *mut c_void,
}

fn check(what: &str, result: sys::CUresult) -> anyhow::Result<()> {
    ensure!(result == sys::CUresult::CUDA_SUCCESS, "{what}: {result:?}");
    Ok(())
}

impl Device {
    /// The first device, or the reason why there is none.
    pub(crate) fn open() -> anyhow::Result<Self> {
        // SAFETY: looks for the library, calls nothing.
        let present = unsafe { sys::is_culib_present() };
        ensure!(present, "no CUDA driver (libcuda.so) on this machine");
        // SAFETY: the first call of the driver; the flags are 0 as they must be.
        check("cuInit", unsafe { sys::cuInit(0) })?;
        let mut device = 0;
        // SAFETY: stores the number of the first device.
        check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut device, 0) })?;
        let mut context = null_mut();
        // SAFETY: the device was just given.
        check("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&raw mut context, device)
        })?;
        let mut this = Self {
            context,
            empty: null_mut(),
            spin: null_mut(),
            fill: null_mut(),
            astray: null_mut(),
        };
        this.enter()?;
        let mut module = null_mut();
        // SAFETY: the text ends in a NUL, as PTX must.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&raw mut module, PTX.as_ptr().cast::<c_void>())
        })?;
        for (name, function) in [
            (c"empty", &mut this.empty),
            (c"spin", &mut this.spin),
            (c"fill", &mut this.fill),
            (c"astray", &mut this.astray),
        ] {
            // SAFETY: the module was just loaded; the name is a C string.
            check("cuModuleGetFunction", unsafe {
                sys::cuModuleGetFunction(function, module, name.as_ptr())
            })?;
        }
        Ok(this)
    }

    /// Makes the context that of the calling thread.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        // SAFETY: the context is retained for the process's life.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// A stream that does not wait for the default one.
    pub(crate) fn stream(&self) -> anyhow::Result<Stream> {
        let mut stream = null_mut();
        // SAFETY: the calling thread has entered the context.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut stream, 1) })?;
        Ok(Stream(stream))
    }

    /// Device memory that nobody has taken, in bytes.
    pub(crate) fn free_bytes(&self) -> anyhow::Result<u64> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: stores two numbers; the calling thread has entered the context.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok(free as u64)
    }

    /// Takes memory until no more than so many bytes of it are free.
    pub(crate) fn take_all_but(&self, left_bytes: u64, taken: &mut Taken) -> anyhow::Result<()> {
        /// The driver gives memory by pages of this size.
        const PAGE: u64 = 2 << 20;
        let mut piece = 16 << 30;
        while piece >= PAGE {
            if self.free_bytes()? < left_bytes.saturating_add(piece) {
                piece /= 2;
                continue;
            }
            let mut address = 0;
            // SAFETY: stores an address; the calling thread has entered the context.
            let result = unsafe { sys::cuMemAlloc_v2(&raw mut address, piece as usize) };
            match result {
                sys::CUresult::CUDA_SUCCESS => taken.0.push(address),
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => piece /= 2,
                result => check("cuMemAlloc", result)?,
            }
        }
        Ok(())
    }

    /// Loses the device for this process, as a fault of its own kernels does: every later call of
    /// the driver fails.
    pub(crate) fn lose(&self, stream: &Stream) -> anyhow::Result<()> {
        self.call(self.astray, stream, (1, 1), null_mut())?;
        ensure!(stream.wait().is_err(), "the device bore a write to where nothing is");
        Ok(())
    }

    /// Memory for copies.
    pub(crate) fn block(&self) -> anyhow::Result<Block> {
        let mut block = Block { device: 0, host: null_mut() };
        // SAFETY: stores an address; the calling thread has entered the context.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut block.device, BLOCK_BYTES) })?;
        // SAFETY: as above.
        check("cuMemAllocHost", unsafe {
            sys::cuMemAllocHost_v2(&raw mut block.host, BLOCK_BYTES)
        })?;
        Ok(block)
    }

    /// A memset, a copy to the device, a kernel with shared memory, a copy back: four pieces of
    /// work, of which one is a kernel.
    pub(crate) fn mixed(&self, stream: &Stream, block: &Block) -> anyhow::Result<()> {
        let (device, host) = (block.device, block.host);
        // SAFETY: the block has this many bytes and is never freed.
        check("cuMemsetD8Async", unsafe {
            sys::cuMemsetD8Async(device, 7, BLOCK_BYTES, stream.0)
        })?;
        // SAFETY: as above, on both sides.
        check("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(device, host, BLOCK_BYTES, stream.0)
        })?;
        let mut target = device;
        let mut arguments = [(&raw mut target).cast::<c_void>()];
        self.call(self.fill, stream, (132, 256), arguments.as_mut_ptr())?;
        // SAFETY: as above, on both sides.
        check("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(host, device, BLOCK_BYTES, stream.0)
        })
    }

    /// Launches the kernel that does nothing.
    pub(crate) fn launch(&self, stream: &Stream) -> anyhow::Result<()> {
        self.call(self.empty, stream, (1, 32), null_mut())
    }

    /// Launches a kernel that runs for about three seconds.
    pub(crate) fn spin(&self, stream: &Stream) -> anyhow::Result<()> {
        let mut cycles: u64 = 5_000_000_000;
        let mut arguments = [(&raw mut cycles).cast::<c_void>()];
        self.call(self.spin, stream, (1, 32), arguments.as_mut_ptr())
    }

    fn call(
        &self,
        function: sys::CUfunction,
        stream: &Stream,
        (blocks, threads): (c_uint, c_uint),
        arguments: *mut *mut c_void,
    ) -> anyhow::Result<()> {
        // SAFETY: the function takes these arguments, which the driver copies before it returns.
        let result = unsafe {
            sys::cuLaunchKernel(
                function,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                stream.0,
                arguments,
                null_mut(),
            )
        };
        check("cuLaunchKernel", result)
    }

    /// A graph of `nodes` kernels that do nothing, one after the other.
    pub(crate) fn graph(&self, stream: &Stream, nodes: u64) -> anyhow::Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is not capturing.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(stream.0, mode) })?;
        for _ in 0..nodes {
            self.launch(stream)?;
        }
        let mut graph = null_mut();
        // SAFETY: the stream captures since the call above.
        check("cuStreamEndCapture", unsafe { sys::cuStreamEndCapture(stream.0, &raw mut graph) })?;
        let mut exec = null_mut();
        // SAFETY: the graph was just captured.
        check("cuGraphInstantiate", unsafe {
            sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0)
        })?;
        Ok(Graph(exec))
    }
}

impl Taken {
    pub(crate) fn give_back(&mut self) -> anyhow::Result<()> {
        for address in self.0.drain(..) {
            // SAFETY: the driver gave the address, which nobody else has; the calling thread has
            // entered the context.
            check("cuMemFree", unsafe { sys::cuMemFree_v2(address) })?;
        }
        Ok(())
    }
}

impl Stream {
    /// Waits until all that was put on the stream is done.
    pub(crate) fn wait(&self) -> anyhow::Result<()> {
        // SAFETY: the stream lives as long as the context.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.0) })
    }

    /// Launches a graph.
    pub(crate) fn replay(&self, graph: &Graph) -> anyhow::Result<()> {
        // SAFETY: the graph was instantiated and is not destroyed.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(graph.0, self.0) })
    }
}
