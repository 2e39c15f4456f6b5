//! The program under test: `envoy-sds serve`, as a process of its own.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;

use super::eventually::eventually;
use super::pki::{Leaf, TestCa};
use super::process::Process;
use super::{PATIENCE, http, ports, scratch};

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_envoy-sds");

/// What differs from one test's server to another's.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The resource file.
    pub mesh: &'a str,
    /// The configuration's `identify`, as YAML on one line.
    pub identify: &'a str,
    /// Without one, the server does not look for a cluster.
    pub kubernetes: Option<Kubernetes<'a>>,
    /// Further lines of the configuration.
    pub more: &'a str,
}

/// A server without a cluster that believes node ids; the resource file is still to be given.
pub const NODE_ID: Settings<'_> = Settings { mesh: "", identify: "{insecureNodeId: true}", kubernetes: None, more: "" };

/// What differs about its listeners.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listeners<'a> {
    /// The CA of client certificates, and a list of those that are revoked; without, none is asked for.
    pub clients: Option<(&'a str, &'a str)>,
    /// Whether every user may connect to the unix socket, and not only the server's own.
    pub everybody: bool,
}

/// The cluster that it uses.
#[derive(Debug, Clone, Copy)]
pub struct Kubernetes<'a> {
    pub kubeconfig: &'a Path,
    pub system_namespace: &'a str,
}

/// A running server, with a TLS listener on `localhost` and a unix socket. Its addresses and its state outlive a restart.
#[derive(Debug)]
pub struct Server {
    process: Process,
    arguments: Vec<String>,
    dir: PathBuf,
    /// Short enough for the path of a unix socket, wherever the checkout is.
    _run_dir: tempfile::TempDir,
    ca: TestCa,
    pub admin: SocketAddr,
    pub tls_port: u16,
    pub socket: PathBuf,
}

impl Server {
    /// Starts it, and waits until it listens: not for readiness, which may be what the test is about.
    pub async fn start(settings: Settings<'_>) -> Self {
        Self::start_with(settings, Listeners::default()).await
    }

    /// The same, with other listeners.
    pub async fn start_with(settings: Settings<'_>, listeners: Listeners<'_>) -> Self {
        let dir = scratch::dir("server");
        let run_dir = tempfile::Builder::new().prefix("sds").tempdir().expect("a temporary folder can be made");
        let socket = run_dir.path().join("sds.sock");
        let (tls_port, admin) = (ports::free(), SocketAddr::from(([127, 0, 0, 1], ports::free())));
        fs::create_dir(dir.join("tls")).expect("the scratch folder can be written");
        let ca = TestCa::root("SDS server CA");
        fs::write(dir.join("tls/ca.crt"), &ca.root_pem).expect("the scratch folder can be written");
        fs::write(dir.join("mesh.yaml"), settings.mesh).expect("the scratch folder can be written");
        if let Some((ca, crl)) = listeners.clients {
            replace_file(&dir, "tls/client-ca.crt", ca);
            replace_file(&dir, "tls/client.crl", crl);
        }
        if listeners.everybody {
            fs::set_permissions(run_dir.path(), Permissions::from_mode(0o755)).expect("it is the test's own");
        }
        fs::write(dir.join("server.yaml"), config(&settings, listeners, &dir, &socket, tls_port, admin))
            .expect("the scratch folder can be written");

        let file = |name: &str| dir.join(name).display().to_string();
        let mut arguments = ["serve", "--log-level", "debug", "--log-format", "json"].map(str::to_owned).to_vec();
        arguments.extend(["--config".into(), file("server.yaml")]);
        if let Some(kubernetes) = settings.kubernetes {
            arguments.extend(["--kubeconfig".into(), kubernetes.kubeconfig.display().to_string()]);
        }
        replace_certificate(&dir, &ca);
        let process = spawn(&arguments, &dir);
        let mut server = Self { process, arguments, _run_dir: run_dir, ca, admin, tls_port, socket, dir };
        server.listening(1).await;
        server
    }

    /// The CA of the TLS listener's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("tls/ca.crt")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn tls_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.tls_port))
    }

    /// Replaces the resource file at once, as an editor or a mounted ConfigMap does.
    pub fn set_mesh(&self, mesh: &str) {
        self.replace_file("mesh.yaml", mesh);
    }

    /// Replaces the TLS listener's key and certificate by new ones of the same CA.
    pub fn replace_certificate(&self) {
        replace_certificate(&self.dir, &self.ca);
    }

    /// Replaces the file of CAs that proxies believe the TLS listener by.
    pub fn set_ca_file(&self, pem: &str) {
        self.replace_file("tls/ca.crt", pem);
    }

    /// Gives the TLS listener a certificate of another CA, as all later ones are; gives the CA before.
    pub fn replace_ca(&mut self, ca: TestCa) -> TestCa {
        let before = std::mem::replace(&mut self.ca, ca);
        self.replace_certificate();
        before
    }

    /// Replaces the revocation list of the TLS listener.
    pub fn set_client_crl(&self, text: &str) {
        self.replace_file("tls/client.crl", text);
    }

    fn replace_file(&self, name: &str, text: &str) {
        replace_file(&self.dir, name, text);
    }

    /// Asks it to end; gives how it did.
    pub async fn stop(&mut self, deadline: Duration) -> ExitStatus {
        self.process.stop(deadline).await
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after it has ended, at the same addresses and with the same state.
    pub async fn start_again(&mut self) {
        let before = self.starts();
        assert!(self.process.exited().is_some(), "the server still runs");
        self.process = spawn(&self.arguments, &self.dir);
        self.listening(before + 1).await;
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn pause(&mut self) {
        self.process.pause();
    }

    pub fn resume(&mut self) {
        self.process.resume();
    }

    pub fn assert_running(&mut self) {
        self.process.assert_running();
    }

    async fn listening(&mut self, starts: usize) {
        eventually("the server listens", PATIENCE, async || {
            self.process.assert_running();
            if self.starts() >= starts { Ok(()) } else { Err(self.process.log_tail()) }
        })
        .await;
    }

    fn starts(&self) -> usize {
        self.log().iter().filter(|line| line["message"] == "listening").count()
    }

    /// Waits until it calls itself ready.
    pub async fn ready(&mut self) {
        eventually("the server is ready", PATIENCE, async || {
            self.process.assert_running();
            let (status, body) = self.readyz().await?;
            if status == 200 { Ok(()) } else { Err(format!("{body}\n{}", self.process.log_tail())) }
        })
        .await;
    }

    /// What `/readyz` answers.
    pub async fn readyz(&self) -> Result<(u16, Value), String> {
        let answer = http::get(self.admin, "/readyz").await?;
        let body = serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {}", answer.body))?;
        Ok((answer.status, body))
    }

    /// Waits until `/readyz` (its reasons and its warnings) says all of `texts`.
    pub async fn says(&self, texts: &[&str]) {
        eventually(&format!("/readyz says {texts:?}"), PATIENCE, async || {
            let (_, body) = self.readyz().await?;
            let said = format!("{} {}", body["reasons"], body["warnings"]);
            let missing: Vec<_> = texts.iter().filter(|text| !said.contains(**text)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} not in {body}\n{}", self.log_tail())) }
        })
        .await;
    }

    /// Waits until `/readyz` warns of something of this kind: `resources`, `trust`, `pending` or `issuance`.
    pub async fn warns_of(&self, kinds: &[&str]) {
        eventually(&format!("/readyz warns of {kinds:?}"), PATIENCE, async || {
            let (_, body) = self.readyz().await?;
            let warnings = body["warnings"].as_object().cloned().unwrap_or_default();
            let found = warnings.keys().any(|about| kinds.contains(&about.split('/').next().unwrap_or_default()));
            if found { Ok(()) } else { Err(format!("{body}\n{}", self.log_tail())) }
        })
        .await;
    }

    /// Waits until `/readyz` has nothing to complain of.
    pub async fn is_content(&self) {
        eventually("/readyz has no warning", PATIENCE, async || {
            let (status, body) = self.readyz().await?;
            let empty = |field: &str| body[field].as_object().is_none_or(serde_json::Map::is_empty);
            let content = status == 200 && empty("reasons") && empty("warnings");
            if content { Ok(()) } else { Err(format!("{body}\n{}", self.log_tail())) }
        })
        .await;
    }

    /// The sum of a metric over all series that have these labels; the name without `envoy_sds_`. 0 if there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64, String> {
        let answer = http::get(self.admin, "/metrics").await?;
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let prefix = format!("envoy_sds_{name}");
        let value = |line: &str| {
            let rest = line.strip_prefix(&prefix)?;
            let (series, value) = rest.rsplit_once(' ')?;
            let is_it = (series.is_empty() || series.starts_with('{')) && labels.iter().all(|l| series.contains(l));
            is_it.then(|| value.parse::<f64>().ok())?
        };
        Ok(answer.body.lines().filter_map(value).sum())
    }

    /// Waits until a metric is as wanted.
    pub async fn metric_becomes(&self, name: &str, labels: &[(&str, &str)], wanted: impl Fn(f64) -> bool) -> f64 {
        eventually(&format!("the metric {name} {labels:?}"), PATIENCE, async || {
            let value = self.metric(name, labels).await?;
            if wanted(value) { Ok(value) } else { Err(format!("it is {value}\n{}", self.log_tail())) }
        })
        .await
    }

    /// Every line that it has logged, in all its lives.
    pub fn log(&self) -> Vec<Value> {
        self.process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a line at `level` or above has been logged that contains all of `texts`, and gives it.
    pub async fn logs(&self, level: &str, texts: &[&str]) -> Value {
        let severe = |line: &Value| match level {
            "WARN" => line["level"] == "WARN" || line["level"] == "ERROR",
            level => line["level"] == level,
        };
        eventually(&format!("the server logs {texts:?}"), PATIENCE, async || {
            let found = self.log().into_iter().find(|line| {
                let text = line.to_string();
                severe(line) && texts.iter().all(|part| text.contains(part))
            });
            found.ok_or_else(|| self.log_tail())
        })
        .await
    }

    /// Fails the test if the log has anything in it that must not leave the program: private keys and tokens.
    pub fn assert_discreet(&self) {
        let log = self.process.log();
        let secret = |line: &&str| line.contains("PRIVATE KEY") || line.contains("eyJ") || line.contains("Bearer ");
        let told: Vec<_> = log.lines().filter(secret).collect();
        assert!(told.is_empty(), "{told:#?}");
    }

    /// The last lines of the log, for a failure's message.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

fn spawn(arguments: &[String], dir: &Path) -> Process {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_remove("KUBECONFIG");
    Process::start("envoy-sds", command, dir)
}

/// A server configuration with both kinds of listener.
fn config(
    settings: &Settings<'_>,
    listeners: Listeners<'_>,
    dir: &Path,
    socket: &Path,
    port: u16,
    admin: SocketAddr,
) -> String {
    let dir = dir.display();
    let clients = match listeners.clients {
        Some(_) => format!(", clientCa: {dir}/tls/client-ca.crt, clientCrl: {dir}/tls/client.crl"),
        None => String::new(),
    };
    let tls = format!("{{certificate: {dir}/tls/tls.crt, privateKey: {dir}/tls/tls.key{clients}}}");
    let mode = if listeners.everybody { "0666" } else { "0600" };
    // `localhost` is whatever the machine says it is, and Envoy may look for IPv6 first.
    let six = match TcpListener::bind("[::1]:0") {
        Ok(_) => format!("- {{address: '[::1]:{port}', tls: {tls}}}\n"),
        Err(_) => String::new(),
    };
    let kubernetes = match settings.kubernetes {
        Some(Kubernetes { system_namespace, .. }) => format!("kubernetes: on\nsystemNamespace: {system_namespace}"),
        None => "kubernetes: off".to_owned(),
    };
    format!(
        "listeners:
- {{address: 127.0.0.1:{port}, tls: {tls}}}
{six}- {{unix: {socket}, mode: '{mode}'}}
admin: {{address: '{admin}', hostNames: [sds.example]}}
resources: [{dir}/mesh.yaml]
stateDir: {dir}/state
{kubernetes}
identify: {identify}
{more}
",
        socket = socket.display(),
        identify = settings.identify,
        more = settings.more,
    )
}

fn replace_certificate(dir: &Path, ca: &TestCa) {
    let serving = ca.issue(&Leaf::server("localhost"));
    replace_file(dir, "tls/tls.key", &serving.key_pem);
    replace_file(dir, "tls/tls.crt", &serving.chain_pem);
}

fn replace_file(dir: &Path, name: &str, text: &str) {
    let new = dir.join("new");
    fs::write(&new, text).expect("the scratch folder can be written");
    fs::rename(&new, dir.join(name)).expect("a file can be replaced");
}
