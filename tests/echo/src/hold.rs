//! A client that does not read its answers to the end: it reads so much of each, over one HTTP/2 connection, then
//! reads no more, or gives them up. It says when it has come so far, and keeps the connection until it is killed.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Uri;
use hyper::body::Incoming;

use crate::connection::Connection;

/// What the client is told.
#[derive(clap::Args)]
pub struct Options {
    /// Where to: http://HOST[:PORT]/PATH
    url: Uri,
    /// How many bytes to read of each answer
    #[arg(long, default_value_t = 0)]
    read: usize,
    /// How many requests at once
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Give the answers up (RST_STREAM), but keep the connection
    #[arg(long)]
    give_up: bool,
}

/// Asks, reads, then stays.
#[expect(clippy::print_stdout, reason = "whoever waits for it reads this line")]
pub async fn run(options: Options) -> Result<()> {
    let mut connection = Connection::open(&options.url, true).await?;
    let mut answers = Vec::new();
    for _ in 0..options.streams {
        let request = connection.get(&options.url)?;
        let mut answer = connection.send(request).await?.into_body();
        read(&mut answer, options.read).await?;
        answers.push(answer);
    }
    if options.give_up {
        answers.clear();
    }
    println!("read {} bytes of each of {} answers", options.read, options.streams);
    std::future::pending().await
}

async fn read(answer: &mut Incoming, most: usize) -> Result<()> {
    let mut had = 0;
    while had < most {
        let frame =
            answer.frame().await.context("the answer was shorter")?.context("the answer broke off")?;
        had += frame.data_ref().map_or(0, Bytes::len);
    }
    Ok(())
}
