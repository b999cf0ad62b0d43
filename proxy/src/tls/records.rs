//! The records of an established connection (RFC 8446, section 5): sealed and opened by rustls, with keys that rustls
//! derives. Which key is used for how long, and what the peer says besides data, is seen to here.

use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, InvalidMessage,
    PeerMisbehaved, ProtocolVersion, Tls13CipherSuite,
    crypto::cipher::{
        AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
        OutboundPlainMessage,
    },
    kernel::KernelConnection,
};

/// The most data in one record (section 5.1).
pub const PLAIN_MAX: usize = 1 << 14;
/// The head of a record: its type, its version, the length of the rest.
pub const HEAD: usize = 5;
/// The most that may follow a head: data, its type, padding and the tag (section 5.2).
const SEALED_MAX: usize = PLAIN_MAX + 256;
/// What a sealed record is longer than its data, with every suite: the head, the type of its data, the tag.
pub const SEALED_MORE: usize = HEAD + 1 + 16;
/// Records without any data, key updates among them, before a peer is taken for one that only makes work…
const BARE_MAX: u16 = 32;
/// …unless so many with data follow each.
const PAID_BY: u16 = 16;

/// Types of handshake messages that may come after the handshake (section 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Derives the keys that follow the present ones.
trait NextKeys: Send + Sync {
    /// The next to seal with.
    fn sealing(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
    /// The next to open with.
    fn opening(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
}

impl<Side: Send + Sync> NextKeys for KernelConnection<Side> {
    fn sealing(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.update_tx_secret().map(|(_, secrets)| secrets)
    }

    fn opening(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.update_rx_secret().map(|(_, secrets)| secrets)
    }
}

/// What a record was.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// So many bytes of data, from the end of the record's head on.
    Data(usize),
    /// The peer's close_notify: no more comes.
    End,
    /// A word between the two ends, which has been heeded.
    Nothing,
}

/// Both directions of a connection.
pub struct Records {
    suite: &'static Tls13CipherSuite,
    next: Box<dyn NextKeys>,
    encrypter: Box<dyn MessageEncrypter>,
    sealed: u64,
    decrypter: Box<dyn MessageDecrypter>,
    opened: u64,
    /// A key update of ours is due: the peer has asked for it (section 4.6.3).
    asked: bool,
    /// How many records with data it owes for those without.
    owed: u16,
    /// How many records are sealed with one key.
    sealed_max: u64,
}

impl Records {
    /// Begins where the handshake ended.
    pub fn new<Side: Send + Sync + 'static>(
        secrets: ExtractedSecrets,
        next: KernelConnection<Side>,
    ) -> Result<Self, Error> {
        let suite = next.negotiated_cipher_suite().tls13();
        let suite = suite.ok_or_else(|| Error::General("TLS before 1.3".into()))?;
        let ExtractedSecrets { tx: (sealed, sealing), rx: (opened, opening) } = secrets;
        Ok(Self {
            suite,
            next: Box::new(next),
            encrypter: encrypter(suite, sealing)?,
            sealed,
            decrypter: decrypter(suite, opening)?,
            opened,
            // aws-lc follows the numbers of a key's records from 0 on, and a handshake that sent tickets has used some.
            asked: sealed > 0,
            owed: 0,
            // Well before the limit: nothing depends on the last record.
            sealed_max: suite.common.confidentiality_limit / 2,
        })
    }

    /// Appends one record with these data to `to`, which is at most [`PLAIN_MAX`].
    pub fn seal(&mut self, data: OutboundChunks<'_>, to: &mut Vec<u8>) -> Result<(), Error> {
        if self.asked || self.sealed >= self.sealed_max {
            self.update(to)?;
        }
        self.append(ContentType::ApplicationData, data, to)
    }

    /// Appends a key update (section 4.6.3), which asks for none in return, and seals with the next key from then on.
    pub(super) fn update(&mut self, to: &mut Vec<u8>) -> Result<(), Error> {
        self.append(ContentType::Handshake, OutboundChunks::Single(&[KEY_UPDATE, 0, 0, 1, 0]), to)?;
        self.change_sealing_key()
    }

    pub(super) fn change_sealing_key(&mut self) -> Result<(), Error> {
        self.encrypter = encrypter(self.suite, self.next.sealing()?)?;
        (self.sealed, self.asked) = (0, false);
        Ok(())
    }

    /// Appends an alert; close_notify is the end of what we send.
    pub fn alert(&mut self, what: AlertDescription, to: &mut Vec<u8>) -> Result<(), Error> {
        let level = if what == AlertDescription::CloseNotify { 1 } else { 2 };
        self.append(ContentType::Alert, OutboundChunks::Single(&[level, what.into()]), to)
    }

    pub(super) fn append(
        &mut self,
        typ: ContentType,
        payload: OutboundChunks<'_>,
        to: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
        let record = self.encrypter.encrypt(message, self.sealed)?.encode();
        self.sealed += 1;
        if to.capacity() == 0 {
            *to = record;
        } else {
            to.extend_from_slice(&record);
        }
        Ok(())
    }

    /// Opens a whole record in place.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, Error> {
        let Some((head, sealed)) = record.split_at_mut_checked(HEAD) else { return Ok(Opened::Nothing) };
        if head[0] != u8::from(ContentType::ApplicationData) {
            return Err(InvalidMessage::InvalidContentType.into());
        }
        let message =
            InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, sealed);
        let plain = self.decrypter.decrypt(message, self.opened)?;
        self.opened += 1;
        let opened = match plain.typ {
            ContentType::ApplicationData if plain.payload.is_empty() => Opened::Nothing,
            ContentType::ApplicationData => Opened::Data(plain.payload.len()),
            ContentType::Alert => alerted(plain.payload)?,
            ContentType::Handshake => {
                if let Told::Update { asks } = told(plain.payload)? {
                    self.updated(asks)?;
                }
                Opened::Nothing
            }
            ContentType::ChangeCipherSpec | ContentType::Heartbeat | ContentType::Unknown(_) | _ => {
                return Err(InvalidMessage::InvalidContentType.into());
            }
        };
        match opened {
            Opened::Data(_) => self.owed = self.owed.saturating_sub(1),
            Opened::Nothing if self.owed > (BARE_MAX - 1) * PAID_BY => {
                return Err(PeerMisbehaved::TooManyEmptyFragments.into());
            }
            Opened::Nothing => self.owed += PAID_BY,
            Opened::End => {}
        }
        Ok(opened)
    }

    fn updated(&mut self, asks: bool) -> Result<(), Error> {
        self.decrypter = decrypter(self.suite, self.next.opening()?)?;
        self.opened = 0;
        self.asked |= asks;
        Ok(())
    }

    #[cfg(test)]
    pub fn set_sealed_max(&mut self, records: u64) {
        self.sealed_max = records;
    }
}

/// The length of the record that these bytes begin with, once its head is there.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(&[_, _, _, high, low]) = bytes.get(..HEAD) else { return Ok(None) };
    let sealed = usize::from(u16::from_be_bytes([high, low]));
    if sealed > SEALED_MAX { Err(Error::PeerSentOversizedRecord) } else { Ok(Some(HEAD + sealed)) }
}

/// The alert that tells a peer of an error.
pub fn alert_of(error: &Error) -> AlertDescription {
    if *error == Error::DecryptError {
        AlertDescription::BadRecordMac
    } else if *error == Error::PeerSentOversizedRecord {
        AlertDescription::RecordOverflow
    } else {
        AlertDescription::UnexpectedMessage
    }
}

/// What an alert says that is no error.
fn alerted(payload: &[u8]) -> Result<Opened, Error> {
    let &[_level, what] = payload else { return Err(InvalidMessage::MessageTooShort.into()) };
    let what = AlertDescription::from(what);
    if what == AlertDescription::CloseNotify {
        Ok(Opened::End)
    } else if what == AlertDescription::UserCanceled {
        // Its close_notify follows (section 6.1).
        Ok(Opened::Nothing)
    } else {
        Err(Error::AlertReceived(what))
    }
}

/// What handshake messages say after the handshake.
enum Told {
    Nothing,
    Update { asks: bool },
}

/// Whole messages in one record; a key update is the last (section 5.1). Tickets are for resumption, which no side of
/// the mesh does.
fn told(mut messages: &[u8]) -> Result<Told, Error> {
    if messages.is_empty() {
        return Err(InvalidMessage::InvalidEmptyPayload.into());
    }
    loop {
        match *messages {
            [] => return Ok(Told::Nothing),
            [KEY_UPDATE, 0, 0, 1, asks @ (0 | 1)] => return Ok(Told::Update { asks: asks == 1 }),
            [NEW_SESSION_TICKET, a, b, c, ref rest @ ..] => {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                messages = rest.get(length..).ok_or(InvalidMessage::MessageTooShort)?;
            }
            _ => return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into()),
        }
    }
}

fn encrypter(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageEncrypter>, Error> {
    let (key, iv) = parts(secrets)?;
    Ok(suite.aead_alg.encrypter(key, iv))
}

fn decrypter(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageDecrypter>, Error> {
    let (key, iv) = parts(secrets)?;
    Ok(suite.aead_alg.decrypter(key, iv))
}

fn parts(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher suite that this program does not know".into())),
    }
}
