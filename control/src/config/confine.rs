//! Whose rights the gateway keeps.

use serde_json::Value;

use super::Keys;
use crate::confine::user;

/// Whose rights the gateway keeps once everything is open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UserChoice {
    /// Those of `ipop` if there is such a user, otherwise of `nobody`.
    #[default]
    Usual,
    /// This user's, or it does not start.
    Named(String),
    /// Those that it was started with.
    Same,
}

impl Keys<'_> {
    pub(super) fn user(&self) -> UserChoice {
        match self.object.get("user") {
            None => UserChoice::Usual,
            Some(Value::Bool(false)) => UserChoice::Same,
            Some(Value::String(_)) => {
                let Some(name) = self.label("user") else { return UserChoice::Usual };
                if let Err(error) = user::known(&name) {
                    self.fault("user", error.to_string());
                }
                UserChoice::Named(name)
            }
            Some(other) => {
                let allowed = "the name of a user is allowed, or false to keep the rights that it is started with";
                self.fault("user", format!("is {other}; {allowed}"));
                UserChoice::Usual
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn a_name_or_nobody_else() {
        let user = |key: &str| {
            let text = format!(r#"{{ "switchmode": 1, "sec": false, "listen": "10.99.0.1:5800", "peers": [] {key} }}"#);
            Config::parse("x.json", &text).map(|config| (config.user, config.confine))
        };
        assert_eq!(user("").unwrap(), (UserChoice::Usual, true));
        assert_eq!(user(r#", "user": "root""#).unwrap(), (UserChoice::Named("root".into()), true));
        assert_eq!(user(r#", "user": false, "confine": false"#).unwrap(), (UserChoice::Same, false));
        let error = user(r#", "user": "bridge-keeper""#).unwrap_err().to_string();
        assert!(error.starts_with("x.json: \"user\": there is no user 'bridge-keeper': create it"), "{error}");
    }
}
