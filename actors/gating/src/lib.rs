//! gating
