//! A plain server and client for tests, demos and benches.
//!
//! The servers say what they received and who they are; the clients count what they sent and who
//! answered. Neither knows anything of a mesh: that is what makes them good witnesses.

mod connection;
mod dialogue;
mod hold;
mod http;
mod load;
mod report;
mod tcp;
mod udp;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// A plain server and client for tests: says what it received, counts what it sent.
#[derive(Parser)]
#[command(version, about)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serves HTTP/1.1 and HTTP/2; answers with what it received, as JSON
    Http(http::Options),
    /// Serves raw TCP: sends back every byte, after a greeting if it has one
    Tcp(tcp::Options),
    /// Serves UDP: sends back every datagram
    Udp(udp::Options),
    /// Sends HTTP requests and counts answers, by server, and failures, by kind
    Load(load::Options),
    /// Reads so much of an answer over HTTP/2, then reads no more or gives it up
    Hold(hold::Options),
    /// Plays a dialogue over TCP, once or many times, and counts who answered
    TcpClient(dialogue::Options),
    /// Sends one datagram and prints the answer
    UdpClient(udp::ClientOptions),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match play(Options::parse().role).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn play(role: Role) -> Result<()> {
    match role {
        Role::Http(options) => http::serve(options).await,
        Role::Tcp(options) => tcp::serve(options).await,
        Role::Udp(options) => udp::serve(options).await,
        Role::Load(options) => load::run(options).await,
        Role::Hold(options) => hold::run(options).await,
        Role::TcpClient(options) => dialogue::run(options).await,
        Role::UdpClient(options) => udp::ask(options).await,
    }
}
