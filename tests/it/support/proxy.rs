//! Envoys with the bootstraps that `envoy-sds bootstrap` prints, so that what users have is what is tested; and with those that
//! other systems publish (`bootstrap.rs`).

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bootstrap::{self, Bootstrap, Names, Party, Place, stat_of};
use super::envoy::{Envoy, Secret, StartedBy};
use super::eventually::eventually;
use super::pki::Identity;
use super::server::Server;
use super::traffic::Traffic;
use super::wire::{self, Certificate};
use super::{PATIENCE, ports, scratch};

/// How a proxy proves to the server who it is.
#[derive(Debug, Clone, Copy)]
pub enum Login<'a> {
    /// A service account token, sent by Google's gRPC client.
    GoogleGrpc { token: &'a str },
    /// A service account token, sent by Envoy's own gRPC client.
    EnvoyGrpc { token: &'a str },
    /// A proxy token, sent by Envoy's own gRPC client over the unix socket.
    ProxyToken { token: &'a str },
    /// A client certificate.
    ClientCertificate { identity: &'a Identity },
    /// The user or the control group of its process, over the unix socket.
    UnixPeer { process: StartedBy<'a> },
    /// Not at all: over the unix socket, by its node id.
    NodeId,
}

impl Login<'_> {
    /// Puts what it proves its identity with into the folder of an Envoy.
    fn write(self, dir: &Path) {
        match self {
            Self::ClientCertificate { identity } => set_certificate(dir, identity),
            Self::GoogleGrpc { token } | Self::EnvoyGrpc { token } | Self::ProxyToken { token } => {
                set_token(dir, token)
            }
            Self::UnixPeer { .. } | Self::NodeId => {}
        }
    }

    /// Whether it comes to the server's TLS listener.
    fn is_by_tls(self) -> bool {
        matches!(self, Self::GoogleGrpc { .. } | Self::EnvoyGrpc { .. } | Self::ClientCertificate { .. })
    }
}

/// A running Envoy. Listener `inbound` wants mutual TLS and says who called; `outbound` forwards to the peer by mutual
/// TLS, every request over a connection of its own, so that every request sees the certificates of its time.
#[derive(Debug)]
pub struct Proxy {
    pub name: String,
    pub envoy: Envoy,
    pub inbound: SocketAddr,
    pub outbound: SocketAddr,
    /// What its secrets are called.
    pub names: Names,
    dir: PathBuf,
    /// Of an Envoy of another user, removed after it has ended.
    _home: Option<tempfile::TempDir>,
}

impl Proxy {
    /// Starts two that call each other; not yet ready.
    pub async fn pair(server: &Server, one: (&str, Login<'_>), other: (&str, Login<'_>)) -> (Self, Self) {
        let (first, second) = (free_address(), free_address());
        let one = Self::start(server, one.0, one.1, first, second).await;
        let other = Self::start(server, other.0, other.1, second, first).await;
        (one, other)
    }

    /// Starts one; not yet ready.
    pub async fn start(server: &Server, name: &str, login: Login<'_>, inbound: SocketAddr, peer: SocketAddr) -> Self {
        let dir = scratch::dir(&format!("envoy-{name}"));
        login.write(&dir);
        let (identity, more) = match login {
            Login::GoogleGrpc { .. } => ("service-account", &["--grpc-client", "google"][..]),
            Login::EnvoyGrpc { .. } => ("service-account", &[][..]),
            Login::ClientCertificate { .. } => ("client-certificate", &[][..]),
            Login::ProxyToken { .. } => ("token", &[][..]),
            Login::UnixPeer { .. } => ("unix", &[][..]),
            Login::NodeId => ("node-id", &[][..]),
        };
        let outbound = free_address();
        let mut arguments: Vec<String> =
            ["--identity", identity, "--name", name, "--workload", name].map(str::to_owned).into();
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        arguments.extend(server_flags(server, login.is_by_tls()));
        arguments.extend(file_flags(&dir));
        arguments.extend(address_flags(inbound, outbound, peer));
        let bootstrap = bootstrap_with_files(&arguments, &dir);
        let bootstrap = one_request_a_connection(&bootstrap);
        let (starter, home) = match login {
            Login::UnixPeer { process: process @ StartedBy::User(_) } => (process, Some(home_of_anybody())),
            Login::UnixPeer { process } => (process, None),
            _ => (StartedBy::Test, None),
        };
        let envoy = Envoy::start_by(starter, &bootstrap, home.as_ref().map_or(&dir, |home| home.path())).await;
        Self { name: name.into(), envoy, inbound, outbound, names: Names::default(), dir, _home: home }
    }

    /// Starts one with what `envoy-sds bootstrap` prints for these arguments, addresses, files and server apart, by `program`; not yet ready. The
    /// addresses are those of its inbound listener and its peer's.
    pub async fn by_arguments(
        program: &str,
        server: &Server,
        login: Login<'_>,
        arguments: &[String],
        names: Names,
        (inbound, peer): (SocketAddr, SocketAddr),
    ) -> Self {
        let dir = scratch::dir(program);
        login.write(&dir);
        let outbound = free_address();
        let mut arguments = arguments.to_vec();
        arguments.extend(server_flags(server, login.is_by_tls()));
        arguments.extend(file_flags(&dir));
        arguments.extend(address_flags(inbound, outbound, peer));
        let bootstrap = bootstrap_with_files(&arguments, &dir);
        let envoy = Envoy::start_version(program, &bootstrap, &dir).await;
        Self { name: program.into(), envoy, inbound, outbound, names, dir, _home: None }
    }

    /// Replaces the client certificate and its key, as cert-manager's CSI driver or a kubelet does.
    pub fn set_certificate(&self, identity: &Identity) {
        set_certificate(&self.dir, identity);
    }

    /// Starts two that call each other, with a bootstrap that is not of `envoy-sds bootstrap`; not yet ready.
    pub async fn published_pair(
        server: &Server,
        bootstrap: &Bootstrap<'_>,
        one: Party<'_>,
        other: Party<'_>,
    ) -> (Self, Self) {
        let (first, second) = (free_address(), free_address());
        let one_starts = Self::published(server, bootstrap, one, other, (first, second)).await;
        (one_starts, Self::published(server, bootstrap, other, one, (second, first)).await)
    }

    /// Starts one of such two. The addresses are those of its inbound listener and its peer's.
    pub async fn published(
        server: &Server,
        bootstrap: &Bootstrap<'_>,
        own: Party<'_>,
        peer: Party<'_>,
        (inbound, to): (SocketAddr, SocketAddr),
    ) -> Self {
        let dir = scratch::dir(&format!("envoy-{}", own.name));
        let place = Place { own, peer, inbound, outbound: free_address(), to, dir: &dir };
        let (text, names) = bootstrap.render(server, &place);
        let envoy = Envoy::start_by(own.started_by(), &text, &dir).await;
        Self { name: own.name.into(), envoy, inbound, outbound: place.outbound, names, dir, _home: None }
    }

    /// Replaces the token file, as a kubelet does.
    pub fn set_token(&self, token: &str) {
        set_token(&self.dir, token);
    }

    /// Waits until Envoy has its secrets and serves, and checks that they are what they should be.
    pub async fn ready(&mut self) {
        let deadline = PATIENCE;
        self.envoy.ready(deadline).await;
        self.assert_sound().await;
    }

    /// Checks what Envoy got: a certificate where one belongs, CAs where CAs belong, and nothing it had to reject.
    pub async fn assert_sound(&mut self) {
        self.envoy.process.assert_running();
        let mut secrets = self.envoy.config_dump_secrets().await.expect("Envoy dumps its secrets");
        // What it needs to reach the server: from files, not from the server.
        secrets.retain(|name, _| !["token", "client", "server-ca"].contains(&name.as_str()));
        let asked: Vec<_> = secrets.keys().map(String::as_str).collect();
        let mut names: Vec<_> = self.names.all().collect();
        names.sort_unstable();
        assert_eq!(asked, names, "{} has other secrets", self.name);
        for name in &self.names.certificates {
            let Secret { certificate_chain, trusted_ca, entry, .. } = &secrets[name];
            assert!(certificate_chain.is_some() && trusted_ca.is_none(), "{}: {entry}", self.name);
        }
        for name in &self.names.bundles {
            let Secret { certificate_chain, trusted_ca, entry, .. } = &secrets[name];
            assert!(certificate_chain.is_none() && trusted_ca.is_some(), "{}: {entry}", self.name);
            let trusted = Certificate::parse_all(trusted_ca.as_deref().unwrap_or_default());
            assert!(!trusted.is_empty() && trusted.iter().all(|ca| ca.is_ca), "{}: {trusted:?}", self.name);
        }
        let stats = self.envoy.stats().await.expect("Envoy tells its statistics");
        for name in self.names.all() {
            for bad in ["update_rejected", "init_fetch_timeout", "key_rotation_failed"] {
                let stat = stat_of(name, bad);
                assert_eq!(stats.get(&stat).copied().unwrap_or_default(), 0, "{}: {stat}", self.name);
            }
        }
    }

    /// Whether nobody can connect yet: a listener without its secrets does not listen.
    pub async fn is_shut(&self) -> bool {
        tokio::net::TcpStream::connect(self.inbound).await.is_err()
    }

    /// What is shown to whoever connects now, the leaf first.
    pub async fn shown(&self) -> Result<Vec<Certificate>, String> {
        match wire::get(self.inbound, None).await {
            Ok(_) => panic!("{} let in a client without a certificate", self.name),
            Err(refused) if refused.chain.is_empty() => Err(refused.reason),
            Err(refused) => Ok(refused.chain),
        }
    }

    /// Waits until the leaf that is shown is as wanted, and gives the chain.
    pub async fn shows(&self, what: &str, wanted: impl Fn(&Certificate) -> bool) -> Vec<Certificate> {
        self.shows_within(PATIENCE, what, wanted).await
    }

    pub async fn shows_within(
        &self,
        deadline: Duration,
        what: &str,
        wanted: impl Fn(&Certificate) -> bool,
    ) -> Vec<Certificate> {
        eventually(&format!("{} shows {what}", self.name), deadline, async || {
            let chain = self.shown().await?;
            if wanted(&chain[0]) { Ok(chain) } else { Err(chain[0].to_string()) }
        })
        .await
    }

    /// The subjects of the CAs that Envoy trusts now, sorted; by each of its bundles the same.
    pub async fn trusted(&self) -> Result<Vec<String>, String> {
        let secrets = self.envoy.config_dump_secrets().await?;
        let mut trusted = Vec::new();
        for name in &self.names.bundles {
            let bundle = secrets.get(name).ok_or_else(|| format!("there is no {name}"))?;
            let pem = bundle.trusted_ca.as_deref().ok_or_else(|| format!("{name} has no CA"))?;
            let mut subjects: Vec<_> = Certificate::parse_all(pem).into_iter().map(|ca| ca.subject).collect();
            subjects.sort();
            trusted.push(subjects);
        }
        trusted.dedup();
        match <[_; 1]>::try_from(trusted) {
            Ok([subjects]) => Ok(subjects),
            Err(several) => Err(format!("its bundles are not the same: {several:?}")),
        }
    }

    /// Waits until Envoy trusts the CAs with these common names, and no others.
    pub async fn trusts(&self, names: &[&str]) {
        let mut wanted: Vec<_> = names.iter().map(|name| format!("CN={name}")).collect();
        wanted.sort();
        eventually(&format!("{} trusts {names:?}", self.name), PATIENCE, async || {
            let trusted = self.trusted().await?;
            if trusted == wanted { Ok(()) } else { Err(format!("it trusts {trusted:?}")) }
        })
        .await;
    }

    /// Waits until it lets this client in.
    pub async fn lets_in(&self, client: &Identity) {
        eventually(&format!("{} lets the client in", self.name), PATIENCE, async || {
            let accepted = wire::get(self.inbound, Some(client)).await.map_err(|refused| refused.reason)?;
            assert!(accepted.asked_for_certificate, "{} asks nobody for a certificate", self.name);
            if accepted.status == 200 { Ok(()) } else { Err(format!("{accepted:?}")) }
        })
        .await;
    }

    /// Waits until it refuses this client, in the handshake.
    pub async fn refuses(&self, client: &Identity) {
        eventually(&format!("{} refuses the client", self.name), PATIENCE, async || {
            match wire::get(self.inbound, Some(client)).await {
                Ok(accepted) => Err(format!("it answered {}", accepted.status)),
                Err(refused) if refused.reason.contains("alert") => Ok(()),
                Err(refused) => Err(refused.reason),
            }
        })
        .await;
    }

    /// Sends requests to the peer until dropped or stopped.
    pub fn traffic(&self) -> Traffic {
        Traffic::through(&format!("traffic of {}", self.name), self.outbound)
    }

    /// Waits until Envoy has all its streams to the server open.
    pub async fn is_connected(&self, deadline: Duration) {
        for stat in self.names.connected() {
            self.envoy.stat_becomes(&stat, deadline, |value| value == 1).await;
        }
    }

    /// How often a stream to the server has ended or could not be opened.
    pub async fn failed_streams(&self) -> u64 {
        self.sum("update_failure").await
    }

    /// How many updates of its certificates it has taken.
    pub async fn certificate_updates(&self) -> u64 {
        let stats = self.envoy.stats().await.expect("Envoy tells its statistics");
        let names = self.names.certificates.iter();
        names.filter_map(|name| stats.get(&stat_of(name, "update_success"))).sum()
    }

    async fn sum(&self, stat: &str) -> u64 {
        let stats = self.envoy.stats().await.expect("Envoy tells its statistics");
        self.names.all().filter_map(|name| stats.get(&stat_of(name, stat))).sum()
    }
}

/// A loopback address that nobody has.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free()))
}

/// What a bootstrap is to name as the file with its secret, in the folder of an Envoy.
const SECRET_FILE: &str = "secret.yaml";

/// What `envoy-sds bootstrap` prints; what it has to have beside it comes into the folder.
fn bootstrap_with_files(arguments: &[String], dir: &Path) -> String {
    let (bootstrap, files) = bootstrap::printed(arguments);
    for (what, text) in files {
        fs::write(dir.join(format!("{what}.yaml")), text).expect("the file can be written");
    }
    bootstrap
}

/// Flags of `envoy-sds bootstrap` that say where a server of a test is.
fn server_flags(server: &Server, is_tls: bool) -> Vec<String> {
    match is_tls {
        true => {
            let (address, ca) = (format!("localhost:{}", server.tls_port), server.ca_file().display().to_string());
            ["--server", &address, "--server-ca", &ca].map(str::to_owned).into()
        }
        false => ["--server".to_owned(), format!("unix:{}", server.socket.display())].into(),
    }
}

/// Those that say where what it proves its identity with is; those of other identities do no harm.
fn file_flags(dir: &Path) -> Vec<String> {
    let files = [("--token-file", "token"), ("--certificate-folder", "client"), ("--secret-file", SECRET_FILE)];
    files.into_iter().flat_map(|(flag, name)| [flag.to_owned(), dir.join(name).display().to_string()]).collect()
}

/// Those of its listeners, and of its peer's.
fn address_flags(inbound: SocketAddr, outbound: SocketAddr, peer: SocketAddr) -> Vec<String> {
    let flags = [("--listen", inbound), ("--outbound", outbound), ("--upstream", peer)];
    flags.into_iter().flat_map(|(flag, address)| [flag.to_owned(), address.to_string()]).collect()
}

/// So that every request sees the certificates of its time.
fn one_request_a_connection(bootstrap: &str) -> String {
    let old = "{max_connection_duration: 3600s}";
    replace_after(bootstrap, "- name: peer", old, "{max_connection_duration: 3600s, max_requests_per_connection: 1}")
}

/// Replaces the first `old` after `marker`.
fn replace_after(text: &str, marker: &str, old: &str, new: &str) -> String {
    let (before, after) = text.split_once(marker).unwrap_or_else(|| panic!("there is no {marker:?}"));
    assert!(after.contains(old), "there is no {old:?} after {marker:?}");
    format!("{before}{marker}{}", after.replacen(old, new, 1))
}

/// A folder where every user may write.
fn home_of_anybody() -> tempfile::TempDir {
    let home = tempfile::Builder::new().prefix("envoy").tempdir().expect("a temporary folder can be made");
    fs::set_permissions(home.path(), Permissions::from_mode(0o777)).expect("it is the test's own");
    home
}

/// Both files change at once, by a link to their folder, which is moved: so do mounts of Kubernetes.
fn set_certificate(dir: &Path, identity: &Identity) {
    let mounted = dir.join("client");
    fs::create_dir_all(&mounted).expect("the scratch folder can be written");
    let version = tempfile::Builder::new().prefix("..").tempdir_in(&mounted).expect("a folder can be made").keep();
    fs::write(version.join("tls.crt"), &identity.chain_pem).expect("the scratch folder can be written");
    fs::write(version.join("tls.key"), &identity.key_pem).expect("the scratch folder can be written");
    let (link, next) = (mounted.join("..data"), mounted.join("..next"));
    symlink(&version, &next).expect("a link can be made");
    fs::rename(&next, &link).expect("a link can be replaced");
    for name in ["tls.crt", "tls.key"] {
        let _ = symlink(Path::new("..data").join(name), mounted.join(name)); // it may be there already
    }
}

fn set_token(dir: &Path, token: &str) {
    let new = dir.join("token.new");
    fs::write(&new, token).expect("the scratch folder can be written");
    fs::rename(&new, dir.join("token")).expect("a file can be replaced");
}
