//! subtensor
