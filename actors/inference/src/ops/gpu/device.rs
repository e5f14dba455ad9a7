//! A GPU as this crate uses it: one stream, which orders everything, and memory that is kept between batches.

use candle_core::{
    Device, Error, Result,
    cuda_backend::cudarc::driver::{result, sys::CUmemPool_attribute},
};

/// Opens the GPU of this number.
///
/// # Errors
/// When there is none, or its driver does not suit.
pub(crate) fn open(number: usize) -> Result<Device> {
    // A stream of its own, not the calling thread's: networks are loaded on one thread and run on whichever of a pool.
    let device = Device::new_cuda_with_stream(number)?;
    let stream = device.as_cuda_device()?.cuda_stream();
    // What a batch gives back would go to the driver at the next wait for results, and be mapped anew for the next batch.
    let mut kept_bytes = u64::MAX;
    // SAFETY: events order streams, and there is one. The pool is that of a device that is open; the attribute is a u64.
    #[allow(unsafe_code)]
    unsafe {
        device.as_cuda_device()?.disable_event_tracking();
        if stream.context().has_async_alloc() {
            let pool = result::device::get_default_mem_pool(stream.context().cu_device()).map_err(Error::wrap)?;
            let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut kept_bytes).cast()).map_err(Error::wrap)?;
        }
    }
    Ok(device)
}
