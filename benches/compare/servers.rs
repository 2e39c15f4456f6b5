//! The two servers, each started afresh for a run.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::cases::Case;
use crate::client::Target;
use crate::pki::{Leaf, TestCa};
use crate::process::Process;

/// The names under which both have their secrets.
const CERTIFICATE: &str = "default";
const BUNDLE: &str = "ROOTCA";

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Side {
    Ours,
    Peer,
}

/// A server that is running.
pub(crate) struct Server {
    process: Process,
    pub(crate) target: Target,
    /// Its command line, without its folder.
    pub(crate) command: String,
    memory_before: u64,
    _folder: TempDir,
}

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Memory {
    /// Before anybody connected.
    pub(crate) before: u64,
    /// The most that there was.
    pub(crate) peak: Option<u64>,
}

impl Server {
    /// Starts ours with the program `program`.
    pub(crate) fn ours(program: &str, case: &Case) -> Result<Self, String> {
        let folder = folder()?;
        let at = |name: &str| folder.path().join(name);
        let [listener, admin] = [free_port()?, free_port()?];
        let ca = TestCa::root("CA of our listener");
        let certificate = ca.issue(&Leaf::server("localhost"));
        let tls = if case.tls {
            format!(", tls: {{certificate: {0}/tls.crt, privateKey: {0}/tls.key}}", folder.path().display())
        } else {
            String::new()
        };
        let identify = if case.tokens { "{proxyToken: {}}" } else { "{insecureNodeId: true}" };
        let config = format!(
            "listeners: [{{address: \"127.0.0.1:{listener}\"{tls}}}]\nadmin: {{address: \"127.0.0.1:{admin}\"}}\n\
             resources: [{0}/resources]\nstateDir: {0}/state\nkubernetes: off\nidentify: {identify}\n",
            folder.path().display()
        );
        let mesh =
            "type: Mesh\nname: default\nmtls:\n  enabledBackend: ca-1\n  backends: [{name: ca-1, type: builtin}]\n";
        // Two CAs that sign nothing, and take turns in the bundle: it has two CAs all the time, as the peer's has.
        let trusts = ["one", "other"].map(|name| trust(&TestCa::root(name).root_pem));
        write(&at("tls-ca.crt"), &ca.root_pem)?;
        write(&at("tls.crt"), &certificate.chain_pem)?;
        write(&at("tls.key"), &certificate.key_pem)?;
        write(&at("server.yaml"), &config)?;
        write(&at("resources/mesh.yaml"), mesh)?;
        write(&at("resources/trust.yaml"), &trusts[0])?;
        write(&at("trust-0.yaml"), &trusts[0])?;
        write(&at("trust-1.yaml"), &trusts[1])?;

        let mut command = Command::new(program);
        command.args(["serve", "--log-level", "warn", "--config"]).arg(at("server.yaml")).env_remove("KUBECONFIG");
        let line = shown(&command, folder.path());
        let mut process = Process::start("envoy-sds", command, folder.path());
        wait(&mut process, |_log| is_ready(admin).then_some(()))?;
        let bundle = |number: usize| {
            let folder = folder.path().display();
            format!("cp {folder}/trust-{number}.yaml {folder}/next && mv {folder}/next {folder}/resources/trust.yaml")
        };
        let leaves = format!("{program} rotate --all --admin 127.0.0.1:{admin}");
        let target = Target {
            port: listener,
            tls_ca: case.tls.then(|| at("tls-ca.crt")),
            pid: process.pid(),
            state_dir: case.tokens.then(|| at("state")),
            triggers: triggers(case, [bundle(1), leaves.clone(), bundle(0), leaves]),
        };
        Self::started(process, target, line, folder)
    }

    /// Starts the peer with the program `program`.
    pub(crate) fn peer(program: &Path, case: &Case) -> Result<Self, String> {
        let folder = folder()?;
        let ca = folder.path().join("tls-ca.crt");
        let mut command = Command::new(program);
        command.args(["-cache", if case.peer_shares_bundles { "mux" } else { "snapshot" }, "-tls-ca-out"]).arg(&ca);
        let line = shown(&command, folder.path());
        let mut process = Process::start("peer", command, folder.path());
        let addresses: BTreeMap<String, String> =
            wait(&mut process, |log| log.lines().find_map(|line| serde_json::from_str(line).ok()))?;
        let at = |name: &str| addresses.get(name).cloned().ok_or(format!("the peer does not say its address {name}"));
        let control = at("control")?;
        let rotate = |what: &str| format!("{} -rotate {what} -control {control}", program.display());
        let port = |at: String| at.rsplit(':').next().and_then(|port| port.parse().ok()).ok_or("no port");
        let target = Target {
            port: port(at(if case.tls { "tls" } else { "plaintext" })?)?,
            tls_ca: case.tls.then_some(ca),
            pid: process.pid(),
            state_dir: None,
            triggers: triggers(case, ["ca", "leaves", "ca", "leaves"].map(rotate)),
        };
        Self::started(process, target, line, folder)
    }

    fn started(process: Process, target: Target, command: String, folder: TempDir) -> Result<Self, String> {
        // What a start leaves to be done is done, and is no proxy's.
        std::thread::sleep(Duration::from_millis(500));
        let memory_before = status(target.pid, "VmRSS").ok_or("the server has no memory")?;
        Ok(Self { process, target, command, memory_before, _folder: folder })
    }

    /// What it has needed so far; and whether it still runs.
    pub(crate) fn memory(&mut self) -> Result<Memory, String> {
        if let Some(status) = self.process.exited() {
            return Err(format!("the server has ended ({status}): {}", self.process.log_tail()));
        }
        Ok(Memory { before: self.memory_before, peak: status(self.target.pid, "VmHWM") })
    }

    /// The end of what it has said.
    pub(crate) fn log(&self) -> String {
        self.process.log_tail()
    }
}

/// A command line as it can be shown: without where the program and its files happen to be.
fn shown(command: &Command, folder: &Path) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = format!("{}/", folder.display());
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().replace(&folder, ""));
    [program].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

/// A change of the CA, new leaves, and both again.
fn triggers(case: &Case, commands: [String; 4]) -> Vec<(String, &'static str)> {
    let of = [BUNDLE, CERTIFICATE, BUNDLE, CERTIFICATE];
    if case.rotates { commands.into_iter().zip(of).collect() } else { Vec::new() }
}

/// A `MeshTrust` that adds one CA to what the mesh trusts.
fn trust(ca: &str) -> String {
    let ca: String = ca.lines().map(|line| format!("        {line}\n")).collect();
    format!(
        "type: MeshTrust\nname: extra\nmesh: default\nspec:\n  trustDomain: default\n  caBundles:\n  - type: Pem\n    \
         pem:\n      value: |\n{ca}"
    )
}

fn folder() -> Result<TempDir, String> {
    let folder = tempfile::Builder::new().prefix("sds-compare").tempdir().map_err(|error| error.to_string())?;
    fs::create_dir(folder.path().join("resources")).map_err(|error| error.to_string())?;
    Ok(folder)
}

fn write(file: &PathBuf, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| error.to_string())
}

/// Waits until `ready` finds in the server's log, or elsewhere, what it looks for.
fn wait<T>(process: &mut Process, ready: impl Fn(&str) -> Option<T>) -> Result<T, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ready(&process.log()) {
            return Ok(found);
        }
        if process.exited().is_some() || Instant::now() > end {
            return Err(format!("the server does not start: {}", process.log_tail()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether our server says that it is ready.
fn is_ready(admin: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", admin))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A line of `/proc/PID/status`, in bytes.
fn status(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
