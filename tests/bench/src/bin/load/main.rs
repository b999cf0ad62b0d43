//! The bench's client and server.
//!
//! Both are as plain and as frugal as they can be, for they share their machine with what is measured, and must
//! never be what limits it. A client prints one line of JSON on standard output when it is done, and what failed on
//! standard error.

mod answer;
mod bulk;
mod connection;
mod crew;
mod first;
mod handshake;
mod http1;
mod http2;
mod idle;
mod open;
mod schedule;
mod serve;
mod serve_tcp;
mod short;
mod tally;
mod target;
mod tls;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The bench's client and server: says how much it got through, and how long that took.
#[derive(Parser)]
#[command(version, about)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serves HTTP/1.1, HTTP/2, an echo of messages and a sink of bytes
    Serve(serve::Options),
    /// HTTP/1.1: each connection asks again as soon as it was answered
    Http1(http1::Options),
    /// HTTP/2: each stream asks again as soon as it was answered
    Http2(http2::Options),
    /// HTTP/1.1 at a fixed rate; an answer takes as long as it is behind its request's intended time
    Open(open::Options),
    /// TCP: streams of bytes, as fast as they are taken
    Bulk(bulk::Options),
    /// TCP: connections of one message and its echo
    Short(short::Options),
    /// Opens connections, uses each once, and holds them until standard input ends
    Idle(idle::Options),
    /// Mutual TLS 1.3: full handshakes, nothing else
    Handshake(handshake::Options),
    /// Asks again until the first request succeeds, and says when that was
    First(first::Options),
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
        Role::Serve(options) => serve::run(&options).await,
        Role::Http1(options) => http1::run(options).await,
        Role::Http2(options) => http2::run(options).await,
        Role::Open(options) => open::run(options),
        Role::Bulk(options) => bulk::run(options).await,
        Role::Short(options) => short::run(options).await,
        Role::Idle(options) => idle::run(options).await,
        Role::Handshake(options) => handshake::run(options).await,
        Role::First(options) => first::run(&options),
    }
}
