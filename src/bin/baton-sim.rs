//! The simulators as a program: `baton-sim jumpcloud`, `baton-sim conductorone`, `baton-sim demo`.

use std::process::ExitCode;

use baton_jumpcloud::sim;
use clap::{Parser, Subcommand};

/// Simulators of JumpCloud and ConductorOne, for trying the connector without either.
#[derive(Debug, Parser)]
#[command(name = "baton-sim", version)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves a JumpCloud organisation over HTTP.
    Jumpcloud(sim::jumpcloud::command::Args),
    /// Serves a ConductorOne over TLS, with its token endpoint.
    Conductorone(sim::conductorone::Args),
    /// Shows the real daemon doing its main job against both simulators.
    Demo(sim::demo::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result: anyhow::Result<()> = match Program::parse().command {
        Command::Jumpcloud(args) => sim::jumpcloud::command::run(args).await.map_err(Into::into),
        Command::Conductorone(args) => sim::conductorone::run(args).await,
        Command::Demo(args) => sim::demo::run(args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            #[expect(clippy::print_stderr, reason = "the program's own error message")]
            {
                eprintln!("baton-sim: {problem:#}");
            }
            ExitCode::FAILURE
        }
    }
}
