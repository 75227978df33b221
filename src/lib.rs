//! A self-hosted JumpCloud connector for ConductorOne.
//!
//! ```text
//! control_plane ──► dispatch ──► handlers ──► provisioning ──► connector (jumpcloud ──► http)
//!       ▲                           │  └────► syncer ──► c1z
//!       └────────── upload ─────────┴───────────────────┘
//! below all: model proto error clock config notice telemetry crypto supervisor state_folder     above all: app, cli, main
//! ```
//!
//! The path of one task: `control_plane::grpc` polls, `dispatch` takes a slot and hands the task to the handler of its
//! kind, the handler works through `connector` (and, for a sync, `syncer` into `c1z`), the result goes back as
//! `FinishTask`, and a file goes back through `control_plane::upload`. `ARCHITECTURE.md` tells the whole story.

pub mod admin;
pub mod app;
pub mod c1z;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connector;
pub mod control_plane;
pub mod crypto;
pub mod dispatch;
pub mod error;
pub mod handlers;
pub mod http;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod model;
pub mod notice;
pub mod proto;
pub mod provisioning;
#[cfg(feature = "simulator")]
pub mod sim;
pub mod state_folder;
pub mod supervisor;
pub mod syncer;
pub mod telemetry;
