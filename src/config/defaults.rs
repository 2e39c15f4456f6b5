//! What holds where neither file nor flag says anything.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::endpoint::{Endpoint, HostPort};
use super::{Identify, Listener, ProxyToken};

/// The parts of the environment that defaults come from.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `XDG_STATE_HOME`
    pub xdg_state_home: Option<PathBuf>,
    /// `HOME`
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let path = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
        Self { xdg_state_home: path("XDG_STATE_HOME"), home: path("HOME") }
    }

    /// `$XDG_STATE_HOME/envoy-sds`, else `~/.local/state/envoy-sds`. A relative `XDG_STATE_HOME` is ignored, as the XDG
    /// base directory specification has it.
    pub fn state_dir(&self) -> Option<PathBuf> {
        let xdg = self.xdg_state_home.clone().filter(|path| path.is_absolute());
        xdg.or_else(|| Some(self.home.as_ref()?.join(".local/state"))).map(|state| state.join("envoy-sds"))
    }
}

/// SDS on the loopback address, and on a unix socket in the state directory.
pub(super) fn listeners(state_dir: &Path) -> Vec<Listener> {
    vec![
        Listener::plain(Endpoint::Tcp(HostPort { host: "127.0.0.1".to_owned(), port: 5678 })),
        Listener::plain(Endpoint::Unix(state_dir.join("sds.sock"))),
    ]
}

/// The admin API on the loopback address.
pub(super) fn admin() -> HostPort {
    HostPort { host: "127.0.0.1".to_owned(), port: 5681 }
}

/// Without a configuration file; with one, only what it lists is accepted.
pub(super) fn identify() -> Identify {
    Identify { proxy_token: Some(ProxyToken::default()), ..Identify::default() }
}
