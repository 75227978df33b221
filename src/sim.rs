//! The two simulators: products of their own, used by the tests, by the demo and by people.

pub mod conductorone;
pub mod crash;
pub mod demo;
#[doc(hidden)]
pub mod fuzzing;
mod inject;
pub mod jumpcloud;
mod network;
pub mod storm;
mod tls;

pub use inject::{Injected, RetryAfter, When, WhenError};
pub use network::{Outage, OutageError};
pub use tls::{Certificate, CertificateError};
