//! The keys that gateways know each other by, and the files that they are kept in.
//!
//! A gateway has one X25519 key pair (RFC 7748). Its public key stands in the config of its peers and says who it is; the
//! private key stays in a file on the gateway. Two gateways may share a secret besides, the preshared key. All of them
//! are 32 octets, written as one line of base64 (RFC 4648, section 4, with padding: 44 characters).

mod file;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2s256, Digest};
use curve25519_dalek::MontgomeryPoint;
use zeroize::Zeroizing;

/// Octets of a key.
pub const KEY_BYTES: usize = 32;
/// Characters of a key in base64.
const KEY_TEXT: usize = 44;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is not written as it should be.
    #[error("is no key: 32 octets in base64 are, which `ipop keygen` writes: 44 characters, the last one \"=\"")]
    NotBase64,
    /// A public key that makes every shared secret the same.
    #[error("is no public key: nobody has a private key for it (a point of low order)")]
    LowOrder,
    /// A second way to write a public key.
    #[error("is no public key: its number is not below 2^255 - 19")]
    NotCanonical,
    /// The file.
    #[error("{}: {what}: {error}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// What was tried, and perhaps a remedy.
        what: &'static str,
        /// The kernel's answer.
        error: std::io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("{}: is no regular file; name the file that `ipop keygen` made", .0.display())]
    NoFile(PathBuf),
    /// Others can use it.
    #[error("{0}: others may use this secret (mode {1:03o}): chmod 600 {0}", path.display(), mode)]
    Open {
        /// Its path.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Somebody else can read it, and change it.
    #[error("{0}: is the file of user {1}, who then has this secret: chown {2} {0}", path.display(), owner, user)]
    Owner {
        /// Its path.
        path: PathBuf,
        /// Whose it is, as a number.
        owner: u32,
        /// Whose it should be.
        user: u32,
    },
    /// What stands in it.
    #[error("{}: {error}", path.display())]
    Content {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        error: Box<KeyError>,
    },
    /// A key is never overwritten.
    #[error("{}: is there already, and a key is not overwritten: name another file, or remove it", .0.display())]
    Exists(PathBuf),
    /// The kernel has no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

/// A public key: the name of a gateway that nobody else can bear.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// A key of these octets, unless they are one that no gateway can have.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Result<PublicKey, KeyError> {
        // RFC 7748 lets receivers mask the top bit and reduce the rest, so that one key has several spellings. Only the
        // one that `public()` gives is taken, or one gateway could stand in a config twice.
        let prime = bytes[31] == 0x7f && bytes[1..31].iter().all(|b| *b == 0xff) && bytes[0] >= 0xed;
        if bytes[31] & 0x80 != 0 || prime {
            return Err(KeyError::NotCanonical);
        }
        // A clamped scalar is a multiple of the cofactors of the curve and of its twist (8 and 4): what becomes zero
        // is of low order, and nothing else does (RFC 7748, section 6.1).
        let low = MontgomeryPoint(bytes).mul_clamped([0; KEY_BYTES]).0 == [0; KEY_BYTES];
        if low { Err(KeyError::LowOrder) } else { Ok(PublicKey(bytes)) }
    }

    /// The octets, as X25519 takes them.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The gateway's uid in messages: the first 16 octets of the key's BLAKE2s hash, in 32 hexadecimal digits.
    pub fn uid(&self) -> String {
        Blake2s256::digest(self.0)[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        let mut bytes = [0; KEY_BYTES];
        decode(text.as_bytes(), &mut bytes)?;
        PublicKey::new(bytes)
    }
}

/// Exactly one spelling of 32 octets is taken: padded, without blanks, without stray bits.
fn decode(text: &[u8], bytes: &mut [u8; KEY_BYTES]) -> Result<(), KeyError> {
    // The decoder wants room for what 44 characters could be.
    let mut room = Zeroizing::new([0; KEY_TEXT / 4 * 3]);
    match STANDARD.decode_slice(text, &mut *room) {
        Ok(KEY_BYTES) => {
            bytes.copy_from_slice(&room[..KEY_BYTES]);
            Ok(())
        }
        _ => Err(KeyError::NotBase64),
    }
}

/// 32 secret octets, overwritten when the last reference is dropped. They stay in one place, since what is moved leaves a
/// copy behind.
#[derive(Clone)]
struct Secret(Arc<Zeroizing<[u8; KEY_BYTES]>>);

impl Secret {
    /// What `fill` writes, where it stays.
    fn new(fill: impl FnOnce(&mut [u8; KEY_BYTES]) -> Result<(), KeyError>) -> Result<Secret, KeyError> {
        let mut secret = Arc::new(Zeroizing::new([0; KEY_BYTES]));
        // Nobody else has it yet, so this makes no copy.
        let bytes: &mut Zeroizing<_> = Arc::make_mut(&mut secret);
        fill(bytes)?;
        Ok(Secret(secret))
    }

    fn generate() -> Result<Secret, KeyError> {
        Secret::new(|bytes| getrandom::fill(bytes).map_err(KeyError::Random))
    }

    /// One line, with or without its end.
    fn read(mut input: impl Read, path: &Path) -> Result<Secret, KeyError> {
        // One octet more than a key and its "\r\n" have.
        let mut room = Zeroizing::new([0; KEY_TEXT + 3]);
        let mut length = 0;
        while length < room.len() {
            match input.read(&mut room[length..]) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(KeyError::Io { path: path.to_owned(), what: "cannot be read", error }),
            }
        }
        let line = room[..length].strip_suffix(b"\n").unwrap_or(&room[..length]);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let content = |error| KeyError::Content { path: path.to_owned(), error: Box::new(error) };
        Secret::new(|bytes| decode(line, bytes)).map_err(content)
    }

    fn load(path: &Path) -> Result<Secret, KeyError> {
        Secret::read(file::open(path)?, path)
    }

    fn create(&self, path: &Path) -> Result<(), KeyError> {
        let mut line = Zeroizing::new([b'\n'; KEY_TEXT + 1]);
        // Cannot fail: 32 octets are 44 characters.
        let _ = STANDARD.encode_slice(**self.0, &mut line[..KEY_TEXT]);
        file::create(path, &*line)
    }
}

/// The private key of a gateway.
#[derive(Clone)]
pub struct PrivateKey(Secret);

impl PrivateKey {
    /// A new one, from the kernel's random numbers.
    pub fn generate() -> Result<PrivateKey, KeyError> {
        Secret::generate().map(PrivateKey)
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        // The scalar is clamped, so the point has the order of the base point.
        PublicKey(MontgomeryPoint::mul_base_clamped(**self.0.0).0)
    }

    /// The octets, as X25519 takes them: it clamps them (RFC 7748, section 5).
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0.0
    }

    /// Reads a key from a file that only its owner may use: this user, or root.
    pub fn load(path: &Path) -> Result<PrivateKey, KeyError> {
        Secret::load(path).map(PrivateKey)
    }

    /// Reads a key from an open file; `path` is what errors call it.
    pub fn read(input: impl Read, path: &Path) -> Result<PrivateKey, KeyError> {
        Secret::read(input, path).map(PrivateKey)
    }

    /// Writes it to a new file that only the owner may use.
    pub fn create(&self, path: &Path) -> Result<(), KeyError> {
        self.0.create(path)
    }
}

/// A secret that two gateways share, mixed into their handshake.
#[derive(Clone)]
pub struct PresharedKey(Secret);

impl PresharedKey {
    /// A new one, from the kernel's random numbers.
    pub fn generate() -> Result<PresharedKey, KeyError> {
        Secret::generate().map(PresharedKey)
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0.0
    }

    /// Reads a key from a file that only its owner may use: this user, or root.
    pub fn load(path: &Path) -> Result<PresharedKey, KeyError> {
        Secret::load(path).map(PresharedKey)
    }

    /// Writes it to a new file that only the owner may use.
    pub fn create(&self, path: &Path) -> Result<(), KeyError> {
        self.0.create(path)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey")
    }
}

#[cfg(test)]
mod tests;
