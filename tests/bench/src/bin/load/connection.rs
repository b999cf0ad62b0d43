//! Connections of a client: how they are opened, and one HTTP/1.1 exchange at a time over them, for the runtime and
//! for a thread of its own.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::{Answer, Reader};

/// Opens a connection that sends what it is given at once.
pub async fn dial(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An HTTP/1.1 connection on the runtime.
pub struct Connection {
    stream: TcpStream,
    reader: Reader,
}

impl Connection {
    /// Opens one.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self { stream: dial(address).await?, reader: Reader::new() })
    }

    /// Sends a request and reads its answer, which must be a 200.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await.context("cannot send")?;
        loop {
            let count = self.stream.read(self.reader.space()).await.context("the answer broke off")?;
            if let Some(answer) = self.reader.took(count)? {
                return good(answer);
            }
        }
    }

    /// The connection alone, without what reads its answers.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// An HTTP/1.1 connection that its thread waits for.
pub struct BlockingConnection {
    stream: std::net::TcpStream,
    reader: Reader,
}

impl BlockingConnection {
    /// Opens one within `limit`; each of its reads and writes may take `patience`.
    pub fn open(address: SocketAddr, limit: Duration, patience: Duration) -> Result<Self> {
        let stream = std::net::TcpStream::connect_timeout(&address, limit).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, reader: Reader::new() })
    }

    /// Sends a request and reads its answer, which must be a 200.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).context("cannot send")?;
        loop {
            let count = self.stream.read(self.reader.space()).context("the answer broke off")?;
            if let Some(answer) = self.reader.took(count)? {
                return good(answer);
            }
        }
    }
}

fn good(answer: Answer) -> Result<Answer> {
    ensure!(answer.status == 200, "status {}", answer.status);
    Ok(answer)
}
