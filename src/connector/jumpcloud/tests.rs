//! Behaviour of the whole connector.
