//! Handshakes: rustls decides what is said, and this carries it.

use std::{
    io,
    ops::{Deref, RangeInclusive},
    sync::Arc,
};

use rustls::{
    ClientConfig, CommonState, Error, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::{CertificateDer, ServerName},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Tls,
    incoming::Incoming,
    invalid,
    records::{self, Records},
};
use crate::net::stream::Stream;

/// How much is read at once: a flight of certificates fits.
const READ: usize = 4096;
/// The most that is held of a peer's handshake. rustls takes no message longer than 64 KiB.
const HELD_MAX: usize = 68 * 1024;
/// The types of TLS records (RFC 8446 section 5.1, RFC 6520).
const TYPES: RangeInclusive<u8> = 20..=24;

/// Dials: says who we are, and asks who `io` is, whose `name` goes for nothing but errors.
///
/// # Errors
/// When the connection breaks, or one side does not accept the other.
pub async fn connect<S: Stream>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    io: S,
) -> io::Result<(Tls<S>, Agreed)> {
    let session = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    Handshake { session, io, incoming: Vec::new(), fed: 0 }.run().await
}

/// Answers; `ahead` was read before.
///
/// # Errors
/// As [`connect`].
pub async fn accept<S: Stream>(
    config: Arc<ServerConfig>,
    ahead: Vec<u8>,
    io: S,
) -> io::Result<(Tls<S>, Agreed)> {
    let session = UnbufferedServerConnection::new(config).map_err(invalid)?;
    Handshake { session, io, incoming: ahead, fed: 0 }.run().await
}

/// What a handshake came to.
#[derive(Debug)]
pub struct Agreed {
    /// The peer's certificates, which were verified; the leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What both want to speak.
    pub alpn: Option<Vec<u8>>,
}

impl Agreed {
    fn of(session: &CommonState) -> Self {
        Self {
            certificates: session.peer_certificates().unwrap_or_default().to_vec(),
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        }
    }
}

/// A side of a handshake.
trait Session: Deref<Target: Deref<Target = CommonState>> {
    type Data;

    fn step<'i>(&mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'_, 'i, Self::Data>;

    fn finish(self) -> Result<Records, Error>;
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'i>(&mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'_, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn finish(self) -> Result<Records, Error> {
        let (secrets, next) = self.dangerous_into_kernel_connection()?;
        Records::new(secrets, next)
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'i>(&mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'_, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn finish(self) -> Result<Records, Error> {
        let (secrets, next) = self.dangerous_into_kernel_connection()?;
        Records::new(secrets, next)
    }
}

/// A handshake on its way.
struct Handshake<C, S> {
    session: C,
    io: S,
    /// What was read and rustls has not done with.
    incoming: Vec<u8>,
    /// How much of it rustls knows: whole records, and no more of them than it needs. What follows the handshake is for
    /// [`Records`].
    fed: usize,
}

/// What is to be done next.
enum Step {
    /// Ask rustls again.
    Go,
    Write,
    Read,
    Done,
}

impl<C: Session, S: Stream> Handshake<C, S> {
    async fn run(mut self) -> io::Result<(Tls<S>, Agreed)> {
        let mut outgoing = Vec::new();
        loop {
            match self.step(&mut outgoing) {
                Ok(Step::Go) => {}
                Ok(Step::Read) => self.feed().await?,
                Ok(Step::Write) => {
                    self.io.write_all(&outgoing).await?;
                    outgoing.clear();
                }
                Ok(Step::Done) => return self.finish(),
                Err(error) => {
                    // The peer is told why, where rustls has a word for it: one step, which looks at nothing that came if
                    // there is something to say. The error comes first.
                    let _ = self.step(&mut outgoing);
                    let _ = self.io.write_all(&outgoing).await;
                    return Err(invalid(error));
                }
            }
        }
    }

    fn step(&mut self, outgoing: &mut Vec<u8>) -> Result<Step, Error> {
        let UnbufferedStatus { discard, state } = self.session.step(&mut self.incoming[..self.fed]);
        let step = state.and_then(|state| match state {
            ConnectionState::EncodeTlsData(flight) => encode(flight, outgoing).map(|()| Step::Go),
            ConnectionState::TransmitTlsData(flight) => {
                flight.done();
                Ok(Step::Write)
            }
            ConnectionState::BlockedHandshake => Ok(Step::Read),
            ConnectionState::WriteTraffic(_) => Ok(Step::Done),
            ConnectionState::ReadTraffic(_)
            | ConnectionState::PeerClosed
            | ConnectionState::Closed
            | ConnectionState::ReadEarlyData(_)
            | _ => Err(Error::General("a handshake that ended before it was done".into())),
        });
        let discard = discard.min(self.fed);
        self.incoming.drain(..discard);
        self.fed -= discard;
        step
    }

    /// Lets rustls see the next record.
    async fn feed(&mut self) -> io::Result<()> {
        loop {
            let rest = &self.incoming[self.fed..];
            // What is no record, or too long for one, it refuses at once, and says so.
            let foreign = rest.first().is_some_and(|first| !TYPES.contains(first));
            let next = match records::length(rest) {
                Ok(length) if !foreign => length,
                _ => Some(rest.len()),
            };
            match next.filter(|next| *next <= rest.len()) {
                Some(next) => {
                    self.fed += next;
                    return Ok(());
                }
                None => self.read().await?,
            }
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        if self.incoming.len() > HELD_MAX {
            return Err(invalid("a handshake that is too long"));
        }
        self.incoming.reserve_exact(READ);
        if self.io.read_buf(&mut self.incoming).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer left during the handshake"));
        }
        Ok(())
    }

    fn finish(self) -> io::Result<(Tls<S>, Agreed)> {
        let agreed = Agreed::of(&self.session);
        let records = self.session.finish().map_err(invalid)?;
        let incoming = Incoming::new(&self.incoming[self.fed..]);
        Ok((Tls::new(self.io, records, incoming), agreed))
    }
}

fn encode<D>(mut flight: EncodeTlsData<'_, D>, to: &mut Vec<u8>) -> Result<(), Error> {
    let begins = to.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        flight.encode(&mut [])
    {
        to.resize(begins + required_size, 0);
        flight.encode(&mut to[begins..]).map_err(|error| Error::General(error.to_string()))?;
    }
    Ok(())
}
