//! The actor tree.
pub mod ports;
