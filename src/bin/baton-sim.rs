//! The simulators as a program: `baton-sim jumpcloud`, `baton-sim conductorone`, `baton-sim demo`.

fn main() {}
