//! The two simulators: products of their own, used by the tests, by the demo and by people.

pub mod conductorone;
pub mod crash;
pub mod demo;
pub mod jumpcloud;
