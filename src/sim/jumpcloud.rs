//! A simulated JumpCloud with state.
