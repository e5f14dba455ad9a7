//! dendrite
