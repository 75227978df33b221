//! JumpCloud as a connector.

pub mod client;
pub mod wire;
