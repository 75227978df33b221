//! What a peer can size has a cap; those that are tested nowhere else. `docs/limits.md` lists all of them.
