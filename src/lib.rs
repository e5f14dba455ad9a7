//! openvalidators
