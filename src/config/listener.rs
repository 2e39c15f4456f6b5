//! `listeners[]`.

use std::path::PathBuf;

use super::endpoint::{Endpoint, socket_path};
use crate::document::Field;

/// Who may connect to a unix socket unless the file says otherwise: its owner and group.
const DEFAULT_MODE: u32 = 0o660;

/// One address where Envoys connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub at: Endpoint,
    /// Permissions of the socket, if it is a unix socket.
    pub mode: u32,
    /// TLS, if it is a TCP address and TLS is wanted.
    pub tls: Option<ListenerTls>,
}

/// The files of a TLS listener; read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub private_key: PathBuf,
    /// CAs for client certificates, PEM; without it, none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists for client certificates, PEM; only with `client_ca`.
    pub client_crl: Option<PathBuf>,
}

impl Listener {
    /// A listener without TLS, with the usual permissions.
    pub fn plain(at: Endpoint) -> Self {
        Self { at, mode: DEFAULT_MODE, tls: None }
    }

    pub(super) fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let (address, unix) = (fields.optional("address"), fields.optional("unix"));
        // With nothing after it, neither must quietly be what it is when it is left out: open to all who reach it.
        let (mode_field, tls_field) = (fields.given("mode"), fields.given("tls"));
        fields.refuse_others();

        let mode = mode_field.as_ref().map_or(Some(DEFAULT_MODE), decode_mode);
        let tls = tls_field.as_ref().and_then(ListenerTls::decode);
        let at = match (address, unix) {
            (Some(address), None) => {
                if let Some(mode) = mode_field {
                    mode.problem("is for unix sockets; an address has no mode");
                }
                Endpoint::Tcp(address.check(address.text()?.parse())?)
            }
            (None, Some(unix)) => {
                if let Some(tls) = tls_field {
                    tls.problem("is for addresses; a unix socket is guarded by its mode");
                }
                Endpoint::Unix(unix.check(socket_path(unix.text()?))?)
            }
            (Some(_), Some(unix)) => {
                unix.problem_with_hint("an address is given as well", "list two listeners");
                return None;
            }
            (None, None) => {
                field.problem("needs an address (host:port) or a unix (path)");
                return None;
            }
        };
        Some(Self { at, mode: mode?, tls })
    }
}

impl ListenerTls {
    fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let path = |field: Field<'_>| field.name().map(PathBuf::from);
        let certificate = fields.required("certificate").and_then(path);
        let private_key = fields.required("privateKey").and_then(path);
        let client_ca = fields.given("clientCa");
        let client_crl = fields.given("clientCrl");
        fields.refuse_others();
        if let (None, Some(client_crl)) = (&client_ca, &client_crl) {
            client_crl.problem_with_hint("is for client certificates, and none is asked for", "give clientCa as well");
        }
        Some(Self {
            certificate: certificate?,
            private_key: private_key?,
            client_ca: client_ca.and_then(path),
            client_crl: client_crl.and_then(path),
        })
    }
}

/// Octal digits, quoted or not: YAML 1.2 takes `0660` for six hundred and sixty, and nobody means that.
fn decode_mode(field: &Field<'_>) -> Option<u32> {
    let text = field.literal()?;
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && text.len() <= 4);
    if mode.is_none() {
        field.problem("is not a mode; expected octal digits such as \"0660\"");
    }
    mode
}
