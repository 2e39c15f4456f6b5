//! A running Envoy.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::http;
use crate::bootstrap::{self, Bootstrap, Identity, Text};
use crate::config::{Endpoint, HostPort};

/// How long an Envoy may take from its start until it serves.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// An Envoy process; killed when dropped.
#[derive(Debug)]
pub(super) struct Envoy {
    name: String,
    process: Child,
    log: PathBuf,
    admin: SocketAddr,
}

/// How one of the two is started.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    pub(super) binary: &'a Path,
    pub(super) folder: &'a Path,
    pub(super) name: &'a str,
    pub(super) sds_socket: &'a Path,
    /// What it proves with who it is: a file.
    pub(super) token: &'a Path,
    /// Whom it calls.
    pub(super) peer: SocketAddr,
}

impl Envoy {
    /// Starts it, and waits until its admin port answers.
    pub(super) async fn start(settings: Settings<'_>) -> anyhow::Result<Self> {
        let Settings { binary, folder, name, sds_socket, token, peer } = settings;
        let config = folder.join(format!("{name}.yaml"));
        let admin_file = folder.join(format!("{name}.admin"));
        let log = folder.join(format!("{name}.log"));
        let token_secret = folder.join(format!("{name}-token.yaml"));
        let bootstrap = bootstrap_of(name, sds_socket, token, &token_secret, peer)?;
        std::fs::write(&config, bootstrap.text())?;
        std::fs::write(&token_secret, bootstrap.secret().unwrap_or_default())?;
        let output = File::create(&log)?;
        let process = Command::new(binary)
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"])
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            // A Ctrl-C on the terminal is for the demo, which stops its Envoys when it is done with them.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut envoy = Self { name: name.to_owned(), process, log, admin: SocketAddr::from(([127, 0, 0, 1], 0)) };
        envoy.admin = envoy
            .eventually("its admin port", async || {
                let text = std::fs::read_to_string(&admin_file).ok()?;
                text.trim().parse().ok()
            })
            .await?;
        Ok(envoy)
    }

    /// The address of one of its listeners, once it is ready to serve there.
    pub(super) async fn listener(&mut self, name: &str) -> anyhow::Result<SocketAddr> {
        let admin = self.admin;
        self.eventually(&format!("listener {name}"), async || {
            let ready = http::get(admin, "/ready").await.ok()?;
            if ready.status != 200 {
                return None;
            }
            let listeners: Value =
                serde_json::from_str(&http::get(admin, "/listeners?format=json").await.ok()?.body).ok()?;
            let listener =
                listeners["listener_statuses"].as_array()?.iter().find(|listener| listener["name"] == name)?;
            let address = &listener["local_address"]["socket_address"];
            let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
            Some(SocketAddr::new(address["address"].as_str()?.parse().ok()?, port))
        })
        .await
    }

    /// The serial number of the certificate that it serves with now.
    pub(super) async fn serial(&self) -> Option<String> {
        let certs: Value = serde_json::from_str(&http::get(self.admin, "/certs").await.ok()?.body).ok()?;
        let leaf = certs["certificates"].as_array()?.iter().find_map(|entry| entry["cert_chain"].get(0))?;
        Some(leaf["serial_number"].as_str()?.to_owned())
    }

    /// Envoy tells of nothing when it is there; it is asked until it is, or has died.
    async fn eventually<T>(&mut self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + START_DEADLINE;
        let mut again = tokio::time::interval(Duration::from_millis(50));
        loop {
            again.tick().await;
            if let Some(found) = look().await {
                return Ok(found);
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("Envoy {} ended ({status}) before {what} was there; {}", self.name, self.last_words());
            }
            if tokio::time::Instant::now() > deadline {
                bail!(
                    "Envoy {} runs, but {what} is not there after {START_DEADLINE:?}; {}",
                    self.name,
                    self.last_words()
                );
            }
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        format!("its log ends: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" | "))
    }
}

/// What `envoy-sds bootstrap` prints, but for one thing: each request makes its own connection here, and so shows the certificates of this
/// moment.
fn bootstrap_of(
    name: &str,
    sds_socket: &Path,
    token: &Path,
    secret: &Path,
    peer: SocketAddr,
) -> anyhow::Result<Bootstrap> {
    let text = |text: &str| Text::new(text).map_err(anyhow::Error::msg);
    let path = |path: &Path| text(path.to_str().context("the temporary folder's path is not UTF-8")?);
    let any_port = || HostPort { host: "127.0.0.1".to_owned(), port: 0 };
    let server = Endpoint::Unix(sds_socket.to_owned());
    let identity = Identity::ProxyToken { file: path(token)? };
    let settings = bootstrap::Settings {
        listen: any_port(),
        outbound: any_port(),
        admin: any_port(),
        upstream: HostPort { host: peer.ip().to_string(), port: peer.port() },
        one_request_a_connection: true,
        ..bootstrap::Settings::new(server, identity, path(secret)?, text(name)?, text(name)?)
    };
    Bootstrap::new(settings).map_err(|problems| anyhow!("BUG: no bootstrap for the demo: {}", problems.join("; ")))
}
