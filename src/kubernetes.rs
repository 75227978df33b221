//! What a pod can do with the Kubernetes API around it. Everything here is off until it is asked for.
//!
//! Never needed for the work itself. Each part needs exactly its own rule of a Role.
