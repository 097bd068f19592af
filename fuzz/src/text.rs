//! What is text: messages between gateways, hellos, the config, lines of the control socket, keys.

use ipop_control::admin::{COMMANDS, reply_to};
use ipop_control::config::Config;
use ipop_control::keys::{PrivateKey, PublicKey};
use ipop_control::link::clear::Hello;
use ipop_control::rpc::{MAX_MESSAGE, Message};
use serde_json::{Value, json};

/// A message from a peer: what is understood can be said again, in the room that there is.
pub fn rpc(data: &[u8]) -> bool {
    let Some(message) = Message::parse(data) else { return false };
    let text = message.to_json();
    assert!(text.len() <= MAX_MESSAGE, "{} octets", text.len());
    assert_eq!(Message::parse(text.as_bytes()), Some(message), "{text}");
    true
}

/// The hello that opens a link in clear text.
pub fn hello(data: &[u8]) -> bool {
    let Some(hello) = Hello::parse(data) else { return false };
    let text = serde_json::to_vec(&hello).expect("an object");
    assert_eq!(Hello::parse(&text), Some(hello));
    true
}

/// The config: errors name the file, and how the JSON is spelled makes no difference.
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let value: Option<Value> = serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(text)).ok();
    if value.as_ref().is_some_and(names_a_file) {
        return false;
    }
    match Config::parse(FILE, text) {
        Ok(config) => {
            let plain = value.expect("the config has taken it").to_string();
            let again = Config::parse(FILE, &plain).expect("the same config");
            assert_eq!(format!("{again:?}"), format!("{config:?}"));
            assert!(!config.peers.iter().any(|peer| peer.address == config.listen));
            true
        }
        Err(error) => {
            assert!(error.to_string().starts_with(FILE), "{error}");
            false
        }
    }
}

/// Keys with a relative name would be looked for here.
const FILE: &str = "/nonexistent/config.json";

/// True if the config would be made to open files elsewhere, which a fuzzer must not do.
fn names_a_file(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.iter().any(|(key, value)| {
            let elsewhere = value.as_str().is_some_and(|name| name.contains('/'));
            (key.ends_with("_file") && elsewhere) || names_a_file(value)
        }),
        Value::Array(list) => list.iter().any(names_a_file),
        _ => false,
    }
}

/// A line on the control socket: the answer is one line, an error unless the command is known.
pub fn admin(data: &[u8]) -> bool {
    let mut asked = Vec::new();
    let reply = reply_to(data, true, |command| {
        asked.push(command.to_owned());
        COMMANDS.contains(&command).then(|| json!({"command": command}))
    });
    let reply = reply.unwrap_or_else(|error| error);
    let known = asked.len() == 1 && COMMANDS.contains(&asked[0].as_str());
    assert_eq!(reply.get("error").is_none(), known, "{reply}");
    assert!(!reply.to_string().contains('\n'));
    known
}

/// A key: of every one there is one spelling, in configs and in files.
pub fn key(data: &[u8]) -> bool {
    let secret = PrivateKey::read(data, std::path::Path::new("key"));
    let Some(line) = data.strip_suffix(b"\n").or(Some(data)).and_then(|line| std::str::from_utf8(line).ok()) else {
        return false;
    };
    match line.parse::<PublicKey>() {
        Ok(key) => {
            assert_eq!(key.to_string(), line);
            assert_eq!(PublicKey::new(*key.as_bytes()).ok(), Some(key));
            let secret = secret.expect("the same text is a secret too");
            assert_eq!(secret.as_bytes(), key.as_bytes());
            true
        }
        Err(_) => secret.is_ok(),
    }
}
