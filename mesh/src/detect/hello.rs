//! Reading a ClientHello (RFC 8446, section 4.1.2), as far as routing needs it. TLS itself is checked by TLS.

/// The largest ClientHello in bytes, records included.
const MAX_HELLO: usize = 16 * 1024;
/// The handshake message's type.
const CLIENT_HELLO: u8 = 1;
/// The record's type.
const HANDSHAKE: u8 = 0x16;
/// The extension `server_name` (RFC 6066, section 3).
const SERVER_NAME: u16 = 0;
/// The extension `application_layer_protocol_negotiation` (RFC 7301).
const ALPN: u16 = 16;

/// What a ClientHello says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientHello {
    /// It is not complete.
    NeedMore,
    /// It is none, or over 16 KiB.
    Invalid,
    /// It is complete.
    Hello {
        /// The protocols that the client offers, in its order.
        alpn: Vec<Vec<u8>>,
        /// The server's name, in lower case.
        sni: Option<String>,
    },
}

/// Reads a ClientHello from the first bytes of a connection, also one that is spread over several records.
pub fn client_hello(bytes: &[u8]) -> ClientHello {
    let bounded = bytes.get(..MAX_HELLO).unwrap_or(bytes);
    match handshake(bounded) {
        Handshake::Whole(message) => hello(&message).unwrap_or(ClientHello::Invalid),
        Handshake::Part if bytes.len() < MAX_HELLO => ClientHello::NeedMore,
        Handshake::Part | Handshake::None => ClientHello::Invalid,
    }
}

enum Handshake {
    /// The body of the ClientHello.
    Whole(Vec<u8>),
    Part,
    None,
}

/// Joins the handshake message from its records.
fn handshake(bytes: &[u8]) -> Handshake {
    let mut records = Reader(bytes);
    let mut message = Vec::new();
    loop {
        match body(&message) {
            Handshake::Part => {}
            known @ (Handshake::Whole(_) | Handshake::None) => return known,
        }
        let Some((kind, major)) = records.u8().map(|kind| (kind, records.u8())) else {
            return Handshake::Part;
        };
        if kind != HANDSHAKE || major.is_some_and(|major| major != 3) {
            return Handshake::None;
        }
        records.u8();
        let Some(len) = records.u16() else { return Handshake::Part };
        let fragment = records.take(usize::from(len).min(records.0.len())).unwrap_or_default();
        if len == 0 || len > 0x4000 {
            return Handshake::None;
        }
        message.extend_from_slice(fragment);
    }
}

fn body(message: &[u8]) -> Handshake {
    let mut reader = Reader(message);
    match reader.u8() {
        None => Handshake::Part,
        Some(CLIENT_HELLO) => match reader.u24() {
            Some(len) if len > MAX_HELLO => Handshake::None,
            Some(len) => reader.take(len).map_or(Handshake::Part, |body| Handshake::Whole(body.to_vec())),
            None => Handshake::Part,
        },
        Some(_) => Handshake::None,
    }
}

fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    reader.short()?;
    reader.long()?;
    reader.short()?;
    let (mut alpn, mut sni) = (None, None);
    if !reader.0.is_empty() {
        let mut extensions = Reader(reader.long()?);
        while !extensions.0.is_empty() {
            match (extensions.u16()?, Reader(extensions.long()?)) {
                (ALPN, data) => set_once(&mut alpn, protocols(data)?)?,
                (SERVER_NAME, data) => set_once(&mut sni, server_name(data)?)?,
                _ => {}
            }
        }
    }
    reader.0.is_empty().then(|| ClientHello::Hello { alpn: alpn.unwrap_or_default(), sni })
}

/// "There MUST NOT be more than one extension of the same type" (section 4.2).
fn set_once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

fn protocols(mut data: Reader<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = Reader(data.long()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.short().filter(|name| !name.is_empty())?.to_vec());
    }
    data.0.is_empty().then_some(protocols)
}

fn server_name(mut data: Reader<'_>) -> Option<String> {
    let mut list = Reader(data.long()?);
    let host_name = list.u8()? == 0;
    let name = std::str::from_utf8(list.long()?).ok()?;
    let plain = name.bytes().all(|byte| byte.is_ascii_graphic()) && (1..=255).contains(&name.len());
    (host_name && plain && list.0.is_empty() && data.0.is_empty()).then(|| name.to_ascii_lowercase())
}

/// Reads from the front of a slice.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u24(&mut self) -> Option<usize> {
        let (high, low) = (self.u8()?, self.u16()?);
        Some(usize::from(high) << 16 | usize::from(low))
    }

    /// A vector with a length of one byte.
    fn short(&mut self) -> Option<&'b [u8]> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// A vector with a length of two bytes.
    fn long(&mut self) -> Option<&'b [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}
