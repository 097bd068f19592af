//! Whose rights the gateway keeps.

use serde_json::Value;

use super::{ConfigError, Keys};

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
    pub(super) fn user(&self) -> Result<UserChoice, ConfigError> {
        match self.object.get("user") {
            None => Ok(UserChoice::Usual),
            Some(Value::Bool(false)) => Ok(UserChoice::Same),
            Some(Value::String(_)) => Ok(self.label("user")?.map_or(UserChoice::Usual, UserChoice::Named)),
            Some(other) => {
                let allowed = "the name of a user is allowed, or false to keep the rights that it is started with";
                Err(self.error("user", format!("is {other}; {allowed}")))
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
            let config = Config::parse("x.json", &text).unwrap();
            (config.user, config.confine)
        };
        assert_eq!(user(""), (UserChoice::Usual, true));
        assert_eq!(user(r#", "user": "bridge-keeper""#), (UserChoice::Named("bridge-keeper".into()), true));
        assert_eq!(user(r#", "user": false, "confine": false"#), (UserChoice::Same, false));
    }
}
