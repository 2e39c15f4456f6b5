//! The addresses that a server has: bound before anything is started, so that one which cannot be had is told at once, with what
//! gives the server another.

use std::io;

use tokio::net::TcpListener;

use super::{StartError, convert, wrong};
use crate::config::{Config, HostPort};
use crate::runtime::clock::Clock;
use crate::serve::listen::{self, BindError, Bound};

/// All of them, bound.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Where Envoys connect.
    pub(super) envoys: Bound,
    /// Where operators look.
    pub(super) admin: TcpListener,
    /// Where metrics alone are.
    pub(super) metrics: Option<TcpListener>,
}

/// Binds what the configuration names.
pub(super) async fn bind(config: &Config, clock: &Clock) -> Result<Sockets, StartError> {
    let envoys = listen::bind(&convert::listeners(&config.listeners), clock).await.map_err(|error| match error {
        BindError::Socket { address, source } => {
            let is_unix = address.starts_with("unix:");
            let settings =
                if is_unix { "--listen unix:PATH, or listeners[].unix" } else { "--listen, or listeners[].address" };
            cannot_listen(&address, settings, &source)
        }
        // The error's text has its causes in it already.
        BindError::Tls { .. } | BindError::UnixTls { .. } => wrong("listeners", error.to_string(), None),
    })?;
    let admin = bind_tcp(&config.admin, "--admin, or admin.address").await?;
    let metrics = match &config.metrics {
        Some(address) => Some(bind_tcp(address, "admin.metricsAddress").await?),
        None => None,
    };
    Ok(Sockets { envoys, admin, metrics })
}

async fn bind_tcp(address: &HostPort, settings: &str) -> Result<TcpListener, StartError> {
    let address = address.to_string();
    TcpListener::bind(&address).await.map_err(|error| cannot_listen(&address, settings, &error))
}

/// `settings` are what gives the server another address.
fn cannot_listen(address: &str, settings: &str, error: &io::Error) -> StartError {
    let error = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{error}; if another envoy-sds runs there, end that one, or choose another address ({settings})")
        }
        _ => format!("{error} ({settings})"),
    };
    StartError::Runtime(anyhow::anyhow!("cannot listen at {address}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Endpoint, Overrides, Surroundings};

    fn any() -> HostPort {
        "127.0.0.1:0".parse().unwrap()
    }

    fn config(listen: Endpoint, admin: HostPort, metrics: Option<HostPort>) -> Config {
        let state_dir = Some(Path::new("/nowhere").to_owned());
        let overrides = Overrides { listen: vec![listen], admin: Some(admin), state_dir, ..Overrides::default() };
        let config = Config::load(None, overrides, &Surroundings::default()).unwrap();
        Config { metrics, ..config }
    }

    /// Why it is not bound.
    async fn refused(config: &Config) -> String {
        match bind(config, &Clock::system()).await {
            Err(StartError::Runtime(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn whatever_is_in_use_is_told_with_the_settings_that_change_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sds.sock");
        let _on_path = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: HostPort = taken.local_addr().unwrap().to_string().parse().unwrap();
        let unix = format!("unix:{}", path.display());
        let tcp = address.to_string();
        for (config, address, settings) in [
            (config(Endpoint::Tcp(address.clone()), any(), None), &tcp, "--listen, or listeners[].address"),
            (config(Endpoint::Unix(path), any(), None), &unix, "--listen unix:PATH, or listeners[].unix"),
            (config(Endpoint::Tcp(any()), address.clone(), None), &tcp, "--admin, or admin.address"),
            (config(Endpoint::Tcp(any()), any(), Some(address.clone())), &tcp, "admin.metricsAddress"),
        ] {
            let told = refused(&config).await;
            assert!(told.starts_with(&format!("cannot listen at {address}: ")), "{told}");
            assert!(told.contains("another envoy-sds") && told.ends_with(&format!("({settings})")), "{told}");
        }
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_nobody_elses_fault() {
        let elsewhere = "192.0.2.1:0".parse().unwrap();
        let told = refused(&config(Endpoint::Tcp(any()), elsewhere, None)).await;
        assert!(told.ends_with("(--admin, or admin.address)") && !told.contains("another envoy-sds"), "{told}");
    }
}
