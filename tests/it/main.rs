//! The integration tests, one binary so that it is linked once.
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::pedantic,
    reason = "tests fail by panicking, nobody imports them, and they are read more than called"
)]

mod architecture;
mod bad_input;
mod c1z_file;
mod captured;
mod chaos;
mod cli;
mod contract;
mod control_plane;
mod daemon;
mod dispatch;
mod faults;
mod fuzz;
mod hostile_ids;
mod hostile_peers;
mod jumpcloud_accounts;
mod jumpcloud_client;
mod jumpcloud_contract;
mod jumpcloud_sim;
mod jumpcloud_sim_writes;
mod jumpcloud_sync;
mod least_trust;
mod observability;
mod probe;
mod process;
mod provisioning;
mod provisioning_crash;
mod recovery;
mod rotation;
mod secrets;
mod security_doc;
mod shrink;
mod sim_conductorone;
mod soak;
mod traces;
mod watchdog;
