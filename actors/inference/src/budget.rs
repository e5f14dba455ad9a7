//! How much a device computes at once: what the configuration says, and less for a while after its memory did not suffice.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A device that cannot compute so many tokens at once has other troubles than its budget.
const LEAST_TOKENS: usize = 64;

/// After so many batches without running out the budget doubles. A budget that is too large again costs one failed batch in so
/// many.
const CALM_BATCHES: usize = 32;

/// Tokens computed at once.
#[derive(Debug)]
pub(crate) struct Budget {
    full: usize,
    now: AtomicUsize,
    /// Batches since it last changed.
    calm: AtomicUsize,
}

impl Budget {
    /// A budget of `full` tokens.
    pub(crate) fn new(full: usize) -> Self {
        Self { full, now: AtomicUsize::new(full), calm: AtomicUsize::new(0) }
    }

    /// Tokens of the next batch.
    pub(crate) fn tokens(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// A batch of `tokens` did not fit: the next ones are half of it at most.
    pub(crate) fn ran_out(&self, tokens: usize) {
        self.now.fetch_min((tokens / 2).max(LEAST_TOKENS), Ordering::Relaxed);
        self.calm.store(0, Ordering::Relaxed);
    }

    /// A batch was computed.
    pub(crate) fn held(&self) {
        let now = self.tokens();
        if now < self.full && self.calm.fetch_add(1, Ordering::Relaxed) + 1 >= CALM_BATCHES {
            self.now.store(now.saturating_mul(2).min(self.full), Ordering::Relaxed);
            self.calm.store(0, Ordering::Relaxed);
        }
    }
}

/// Whether a device that failed for this `reason` has run out of memory, in the words of CUDA's driver, of cuBLAS, or of an
/// allocator.
pub(crate) fn is_out_of_memory(reason: &str) -> bool {
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory"].iter().any(|said| reason.contains(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_shrinks_at_once_and_grows_back_slowly() {
        let budget = Budget::new(1_000);
        budget.held();
        assert_eq!(budget.tokens(), 1_000);
        budget.ran_out(900);
        assert_eq!(budget.tokens(), 450);
        budget.ran_out(950);
        assert_eq!(budget.tokens(), 450, "a batch cut before the first failure lowers nothing further");
        let after = |batches: usize| {
            (0..batches).for_each(|_| budget.held());
            budget.tokens()
        };
        assert_eq!(after(CALM_BATCHES - 1), 450);
        assert_eq!(after(1), 900);
        assert_eq!(after(CALM_BATCHES), 1_000);
        budget.ran_out(1);
        assert_eq!(budget.tokens(), LEAST_TOKENS);
        assert_eq!(after(10 * CALM_BATCHES), 1_000);
    }

    #[test]
    fn what_devices_say_of_their_memory_is_understood() {
        for said in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "cannot allocate: out of memory",
        ] {
            assert!(is_out_of_memory(&models_reason(said)), "{said}");
        }
        assert!(!is_out_of_memory("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")"));
    }

    /// As a network on a GPU reports it.
    fn models_reason(said: &str) -> String {
        crate::models::reason(&candle_core::Error::Cuda(said.into()).context("attention"))
    }
}
