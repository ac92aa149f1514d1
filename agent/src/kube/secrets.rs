//! Passwords from Secrets: in memory, on disk for a restart without an API server, never in words.
//!
//! In flow: Secrets that a peer names. Out flow: [`Password`]s, or a sentence that names the Secret
//! and the key and nothing of their content. A Secret that is deleted stays in use: the sessions it
//! protects must not end by a slip of the hand, and a session without a password is worse than either.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use routelet_bgp::core::config::Password;
use serde::{Deserialize, Serialize};

/// A TCP MD5 key has at most so many octets (TCP_MD5SIG_MAXKEYLEN).
const MAXIMUM_PASSWORD: usize = 80;

/// The values of Secrets by name and key.
#[derive(Clone, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Secrets(BTreeMap<String, BTreeMap<String, Vec<u8>>>);

impl Secrets {
    /// Takes the values of the Secret `name`; whether they are new.
    pub fn set(&mut self, name: &str, values: BTreeMap<String, Vec<u8>>) -> bool {
        self.0.insert(name.to_owned(), values.clone()) != Some(values)
    }

    /// Whether the values of the Secret `name` are known.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Forgets every Secret that `keep` is false for.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }

    /// The password under `key` of the Secret `name`.
    ///
    /// # Errors
    /// Why there is none, in words without its content.
    pub fn password(&self, name: &str, key: &str) -> Result<Password, String> {
        let values = self
            .0
            .get(name)
            .ok_or_else(|| format!("the Secret {name} is not there in the agents' namespace"))?;
        let value = values.get(key).ok_or_else(|| format!("the Secret {name} has no key {key}"))?;
        // `kubectl create secret --from-file` keeps the newline at the end of the file.
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        match value.len() {
            0 => Err(format!("the key {key} of the Secret {name} is empty")),
            1..=MAXIMUM_PASSWORD => Ok(Password(Arc::from(value))),
            length => Err(format!(
                "the key {key} of the Secret {name} has {length} octets; TCP MD5 takes at most \
                 {MAXIMUM_PASSWORD}"
            )),
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
