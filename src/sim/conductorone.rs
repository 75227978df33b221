//! A simulated ConductorOne: the BatonService over TLS and the token endpoint.
