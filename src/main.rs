//! The daemon and the one-shot command.

fn main() {}
