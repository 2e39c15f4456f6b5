//! Addresses to listen on. Host names are resolved when the listener is bound, not here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path that fits into a unix socket's address, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Where to listen: `host:port` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// TCP.
    Tcp(HostPort),
    /// A unix socket.
    Unix(PathBuf),
}

/// A host, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: String,
    /// 0 picks a free one.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    /// # Errors
    /// What is wrong, in a sentence.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => socket_path(path).map(Self::Unix),
            None => text.parse().map(Self::Tcp),
        }
    }
}

/// A path that can be a unix socket's.
///
/// # Errors
/// What is wrong, in a sentence.
pub(super) fn socket_path(path: &str) -> Result<PathBuf, String> {
    match path.len() {
        0 => Err("the path of the unix socket is missing; expected unix:/path/to.sock".to_owned()),
        length if length > MAX_SOCKET_PATH => {
            Err(format!("a path of {length} bytes is too long for a unix socket; {MAX_SOCKET_PATH} fit"))
        }
        _ => Ok(PathBuf::from(path)),
    }
}

impl HostPort {
    /// Whether it is for this machine only, as far as the text tells.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for HostPort {
    type Err = String;

    /// # Errors
    /// What is wrong, in a sentence.
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected host:port, such as 127.0.0.1:5678 or [::1]:5678";
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} has no port; {EXPECTED}"))?;
        let port = port.parse().map_err(|_error| format!("{text:?} has no port from 0 to 65535; {EXPECTED}"))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<Ipv6Addr>().is_ok() => address,
            None if host.is_empty() => return Err(format!("{text:?} has no host; 0.0.0.0 or [::] means all of them")),
            None if host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) => host,
            Some(_) | None => return Err(format!("{text:?} has no usable host; {EXPECTED}")),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_the_same() {
        for text in ["127.0.0.1:5678", "localhost:0", "[::1]:5678", "envoy-sds.default.svc:1", "unix:/run/sds.sock"] {
            assert_eq!(text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn refuses_what_cannot_be_bound() {
        let long = format!("unix:/{}", "x".repeat(200));
        for text in
            ["", "localhost", ":5678", "::1:5678", "[::1]", "[x]:1", "a b:1", "host:70000", "host:", "unix:", &long]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?} was accepted");
        }
    }
}
