//! Keys against the vectors of RFC 7748, and files against what can be wrong with them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use proptest::prelude::*;

use super::*;

/// Alice's and Bob's keys in RFC 7748, section 6.1.
const VECTORS: [(&str, &str); 2] = [
    (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    ),
    (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    ),
];

fn octets(hex: &str) -> [u8; 32] {
    std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
}

fn secret(octets: [u8; 32]) -> Secret {
    Secret(Arc::new(Zeroizing::new(octets)))
}

fn private(bytes: [u8; 32]) -> PrivateKey {
    PrivateKey(secret(bytes))
}

#[test]
fn public_keys_of_rfc_7748() {
    for (secret, public) in VECTORS {
        assert_eq!(private(octets(secret)).public().as_bytes(), &octets(public));
    }
}

#[test]
fn the_uid_is_a_hash_of_the_public_key() {
    // `hashlib.blake2s(key).hexdigest()[:32]` in Python.
    assert_eq!(PublicKey::new(octets(VECTORS[0].1)).unwrap().uid(), "156c329c9ca9dea7d5cdd2c4e5c3b25f");
}

#[test]
fn points_of_low_order_are_refused() {
    // All of them below 2^255 - 19: https://cr.yp.to/ecdh.html#validate
    for hex in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        assert!(matches!(PublicKey::new(octets(hex)), Err(KeyError::LowOrder)), "{hex}");
        let text = STANDARD.encode(octets(hex));
        assert!(text.parse::<PublicKey>().unwrap_err().to_string().contains("low order"), "{text}");
    }
}

#[test]
fn a_public_key_has_one_spelling() {
    // 2^255 - 19 + 9, the base point anew, and the base point with the bit that RFC 7748 ignores.
    let mut base = [0; 32];
    base[0] = 9;
    assert!(PublicKey::new(base).is_ok());
    let mut reduced = [0xff; 32];
    (reduced[0], reduced[31]) = (0xf6, 0x7f);
    base[31] = 0x80;
    for bytes in [base, reduced, [0xff; 32]] {
        assert!(matches!(PublicKey::new(bytes), Err(KeyError::NotCanonical)), "{bytes:?}");
    }
}

#[test]
fn only_padded_base64_of_32_octets_is_a_key() {
    let text = PublicKey::new(octets(VECTORS[0].1)).unwrap().to_string();
    assert_eq!((text.len(), text.as_str()), (44, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="));
    assert_eq!(text.parse::<PublicKey>().unwrap().to_string(), text);
    let stray = text.replace("mo=", "mp=");
    let url = text.replace('/', "_");
    let (short, long) = (STANDARD.encode([7; 31]), STANDARD.encode([7; 33]));
    for wrong in
        ["", &text[..43], &format!("{text}="), &format!(" {text}"), &format!("{text}\n"), &stray, &url, &short, &long]
    {
        assert!(matches!(wrong.parse::<PublicKey>(), Err(KeyError::NotBase64)), "{wrong:?}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let (key, shared) = (private([7; 32]), PresharedKey(secret([7; 32])));
    assert_eq!((format!("{key:?}"), format!("{shared:?}")), ("PrivateKey".into(), "PresharedKey".into()));
}

#[test]
fn a_file_gives_back_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let key = PrivateKey::generate().unwrap();
    key.create(&path).unwrap();
    let about = fs::metadata(&path).unwrap();
    assert_eq!((about.permissions().mode() & 0o7777, about.len()), (0o600, 45));
    assert_eq!(PrivateKey::load(&path).unwrap().as_bytes(), key.as_bytes());
    assert_ne!(PrivateKey::generate().unwrap().as_bytes(), key.as_bytes());
    // Another way to the same file.
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    assert_eq!(PrivateKey::load(&link).unwrap().public(), key.public());
    // Neither the file nor what a link leads to is written over.
    for path in [&path, &link] {
        assert!(matches!(PresharedKey::generate().unwrap().create(path), Err(KeyError::Exists(_))));
    }
    let dangling = dir.path().join("dangling");
    symlink(dir.path().join("elsewhere"), &dangling).unwrap();
    assert!(matches!(key.create(&dangling), Err(KeyError::Exists(_))));
    assert!(!dir.path().join("elsewhere").exists());
    assert_eq!(PresharedKey::load(&path).unwrap().as_bytes(), key.as_bytes());
}

#[test]
fn a_file_that_others_may_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    PrivateKey::generate().unwrap().create(&path).unwrap();
    for mode in [0o640, 0o620, 0o604, 0o602, 0o666] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let text = PrivateKey::load(&path).unwrap_err().to_string();
        assert!(text.ends_with(&format!("(mode {mode:o}): chmod 600 {}", path.display())), "{text}");
    }
    for mode in [0o600, 0o400, 0o700] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        PrivateKey::load(&path).unwrap();
    }
}

/// Whoever owns a file reads it, whatever its mode says.
#[test]
fn a_file_of_another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    PrivateKey::generate().unwrap().create(&path).unwrap();
    // Only root can give a file away.
    if !nix::unistd::geteuid().is_root() {
        return PrivateKey::load(&path).map(drop).unwrap();
    }
    chown(&path, Some(65534), None).unwrap();
    for error in [PrivateKey::load(&path).unwrap_err(), PresharedKey::load(&path).unwrap_err()] {
        let text = error.to_string();
        assert!(text.contains("user 65534") && text.ends_with(&format!("chown 0 {}", path.display())), "{text}");
    }
    chown(&path, Some(0), None).unwrap();
    PrivateKey::load(&path).unwrap();
}

#[test]
fn a_key_that_cannot_be_made_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    // A directory that can be written to, and not be opened to be put on the disk; root opens it all the same.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o300)).unwrap();
    let path = dir.path().join("key");
    let made = PrivateKey::generate().unwrap().create(&path);
    assert_eq!(made.is_ok(), path.exists(), "{made:?}");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn what_is_no_key_file_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for path in [dir.path(), &fifo, Path::new("/dev/zero")] {
        assert!(matches!(PrivateKey::load(path), Err(KeyError::NoFile(_))), "{}", path.display());
    }
    let absent = PrivateKey::load(&dir.path().join("absent")).unwrap_err().to_string();
    assert!(absent.contains("ipop keygen"), "{absent}");
    let nowhere = PrivateKey::generate().unwrap().create(&dir.path().join("no/key")).unwrap_err().to_string();
    assert!(nowhere.contains("mkdir -p"), "{nowhere}");
}

#[test]
fn what_stands_in_a_file_is_one_line() {
    let line = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    let read = |text: &str| PrivateKey::read(text.as_bytes(), Path::new("k"));
    for good in [line.to_owned(), format!("{line}\n"), format!("{line}\r\n")] {
        assert_eq!(read(&good).unwrap().as_bytes(), &octets(VECTORS[0].1));
    }
    for bad in [String::new(), format!("{line}\n\n"), format!("{line}\n{line}\n"), format!(" {line}"), "x".repeat(99)] {
        assert!(read(&bad).unwrap_err().to_string().starts_with("k: is no key"), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_key_or_an_error(text in "\\PC{0,60}") {
        if let Ok(key) = text.parse::<PublicKey>() {
            prop_assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn every_key_pair_survives_its_text(secret: [u8; 32]) {
        let public = private(secret).public();
        prop_assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
        prop_assert_eq!(public.uid().len(), 32);
    }
}
