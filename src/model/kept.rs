//! How policies are written down that outlive the program (see [`policy`](super::policy)): as they are, but for private keys.
//! One that is in a resource itself is not copied anywhere; what comes back says that it was there
//! ([`DataSource::NotKept`]). Certificates are written as what was understood of them, since text that holds one may hold a
//! key beside it. For `#[serde(with = "…")]`.

use std::path::PathBuf;
use std::sync::Arc;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bundle::Bundle;
use super::certificate::Certificate;
use super::policy::DataSource;
use super::secrets::SecretBytes;
use super::template::PathTemplate;

/// Certificates, as PEM. What has expired since is in it all the same: it is what the policy says.
pub mod bundle {
    use super::*;

    /// Writes it down.
    pub fn serialize<S: Serializer>(bundle: &Arc<Bundle>, to: S) -> Result<S::Ok, S::Error> {
        bundle.pem().serialize(to)
    }

    /// Reads it back.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Bundle>, D::Error> {
        let certificates =
            Certificate::many_from_pem(String::deserialize(from)?.as_bytes()).map_err(D::Error::custom)?;
        if !certificates.iter().all(Certificate::is_ca) {
            return Err(D::Error::custom("a certificate is not a CA"));
        }
        Bundle::from_certificates(certificates).map(Arc::new).map_err(D::Error::custom)
    }
}

/// A template, as its text.
pub mod path_template {
    use super::*;

    /// Writes it down.
    pub fn serialize<S: Serializer>(path: &Option<PathTemplate>, to: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(ToString::to_string).serialize(to)
    }

    /// Reads it back.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathTemplate>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| PathTemplate::parse(&text)).transpose().map_err(D::Error::custom)
    }
}

/// A word of the program's own. (By this name, as serde would read a reference out of what it reads.)
pub type Word = &'static str;

/// The word for a CA that is not in the program.
pub mod not_in_program {
    use super::*;

    const KNOWN: [&str; 3] = ["vault", "acmpca", "spire"];

    /// Writes it down.
    pub fn serialize<S: Serializer>(name: &str, to: S) -> Result<S::Ok, S::Error> {
        name.serialize(to)
    }

    /// Reads it back.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<&'static str, D::Error> {
        let name = String::deserialize(from)?;
        KNOWN.into_iter().find(|known| *known == name).ok_or_else(|| D::Error::custom("an unknown type of CA"))
    }
}

/// Where the certificate of a CA is.
pub mod certificate_source {
    use super::*;

    /// Writes it down.
    pub fn serialize<S: Serializer>(source: &DataSource, to: S) -> Result<S::Ok, S::Error> {
        let understood = |text: &SecretBytes| {
            let certificates = Certificate::many_from_pem(text.expose()).unwrap_or_default();
            certificates.iter().map(Certificate::pem).collect()
        };
        Written::of(source, |text| Some(understood(text))).serialize(to)
    }

    /// Reads it back.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DataSource, D::Error> {
        Written::deserialize(from).map(DataSource::from)
    }
}

/// Where the private key of a CA is.
pub mod key_source {
    use super::*;

    /// Writes it down, without the key.
    pub fn serialize<S: Serializer>(source: &DataSource, to: S) -> Result<S::Ok, S::Error> {
        Written::of(source, |_key| None).serialize(to)
    }

    /// Reads it back.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DataSource, D::Error> {
        Written::deserialize(from).map(DataSource::from)
    }
}

/// What there is to keep of a [`DataSource`].
#[derive(Serialize, Deserialize)]
enum Written {
    Inline(String),
    File(PathBuf),
    Secret(Arc<str>),
    EnvVar(Arc<str>),
    NotKept,
}

impl Written {
    fn of(source: &DataSource, inline: impl Fn(&SecretBytes) -> Option<String>) -> Self {
        match source {
            DataSource::Inline(text) => inline(text).map_or(Self::NotKept, Self::Inline),
            DataSource::File(path) => Self::File(path.clone()),
            DataSource::Secret(name) => Self::Secret(name.clone()),
            DataSource::EnvVar(name) => Self::EnvVar(name.clone()),
            DataSource::NotKept => Self::NotKept,
        }
    }
}

impl From<Written> for DataSource {
    fn from(kept: Written) -> Self {
        match kept {
            Written::Inline(text) => Self::Inline(SecretBytes::new(text.into_bytes())),
            Written::File(path) => Self::File(path),
            Written::Secret(name) => Self::Secret(name),
            Written::EnvVar(name) => Self::EnvVar(name),
            Written::NotKept => Self::NotKept,
        }
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
