//! A real Envoy, watched through its admin interface.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use serde_json::Value;

use super::eventually::eventually;
use super::process::Process;
use super::{PATIENCE, http, parts};

/// Who starts an Envoy.
#[derive(Debug, Clone, Copy)]
pub enum StartedBy<'a> {
    /// The test's own user.
    Test,
    /// Another user, and a group of the same number; the test has to be root's.
    User(u32),
    /// The test's own user, with this group; the test has to be root's.
    Group(u32),
    /// A shell that has moved into this control group.
    Cgroup(&'a Path),
}

/// Merged over every bootstrap, so that each Envoy gets an admin port of its own.
const ADMIN: &str = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}";

#[derive(Debug)]
pub struct Envoy {
    pub process: Process,
    pub admin: SocketAddr,
}

/// A secret as Envoy has it, from its config dump; private keys are not in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The version that came with it; empty for one that is asked for and not there yet, or static.
    pub version: String,
    /// Asked for, and not there yet.
    pub warming: bool,
    /// Of a TLS certificate.
    pub certificate_chain: Option<String>,
    /// Of a validation context: of all trust domains, if it has the SPIFFE validator.
    pub trusted_ca: Option<String>,
    /// The whole entry.
    pub entry: Value,
}

impl Envoy {
    /// Starts Envoy with this bootstrap (which needs no `admin`), and waits for its admin interface: not for readiness,
    /// which may be what the test is about. `dir` gets the bootstrap and the log.
    pub async fn start(bootstrap: &str, dir: &Path) -> Self {
        Self::start_by(StartedBy::Test, bootstrap, dir).await
    }

    /// The same, of another version: `envoy-oldest`.
    pub async fn start_version(program: &str, bootstrap: &str, dir: &Path) -> Self {
        Self::start_program(&parts::program(program), StartedBy::Test, bootstrap, dir).await
    }

    /// The same, by another. For another user, `dir` has to be open to everybody, and gets a copy of the program, as the
    /// parts may be where nobody else can look.
    pub async fn start_by(starter: StartedBy<'_>, bootstrap: &str, dir: &Path) -> Self {
        Self::start_program(&parts::program("envoy"), starter, bootstrap, dir).await
    }

    async fn start_program(program: &Path, starter: StartedBy<'_>, bootstrap: &str, dir: &Path) -> Self {
        let file = dir.join("envoy.yaml");
        fs::write(&file, bootstrap).expect("the bootstrap can be written");
        let address_file = dir.join("envoy-admin");
        let _ = fs::remove_file(&address_file); // an earlier Envoy of the same folder
        let mut command = match starter {
            StartedBy::Test => Command::new(program),
            StartedBy::User(id) => {
                let copy = dir.join("envoy");
                fs::copy(program, &copy).expect("the program can be copied");
                let mut command = Command::new(copy);
                command.uid(id).gid(id).current_dir(dir);
                command
            }
            StartedBy::Group(id) => {
                let mut command = Command::new(program);
                command.gid(id);
                command
            }
            StartedBy::Cgroup(cgroup) => {
                let mut command = Command::new("sh");
                command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(cgroup).arg(program);
                command
            }
        };
        command.arg("-c").arg(&file).arg("--admin-address-path").arg(&address_file);
        // Hot restart needs shared memory with an id that no other Envoy has, and nothing here restarts hot.
        command.args(["--config-yaml", ADMIN, "--disable-hot-restart", "--concurrency", "1"]);
        let mut process = Process::start("envoy", command, dir);
        let admin = eventually("Envoy says its admin address", PATIENCE, async || {
            process.assert_running();
            let text = fs::read_to_string(&address_file).map_err(|error| error.to_string())?;
            text.trim().parse::<SocketAddr>().map_err(|error| error.to_string())
        })
        .await;
        Self { process, admin }
    }

    pub fn admin_port(&self) -> u16 {
        self.admin.port()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until Envoy calls itself ready.
    pub async fn ready(&mut self, deadline: Duration) {
        let (admin, process) = (self.admin, &mut self.process);
        eventually("Envoy is ready", deadline, async || {
            process.assert_running();
            let answer = http::get(admin, "/ready").await?;
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        })
        .await;
    }

    pub async fn is_ready(&self) -> bool {
        http::get(self.admin, "/ready").await.is_ok_and(|answer| answer.status == 200)
    }

    /// The port of a listener, once Envoy has it; the listener may bind port 0.
    pub async fn listener_port(&self, name: &str) -> u16 {
        self.listener(name).await.port()
    }

    /// The address of a listener, once Envoy has it.
    pub async fn listener(&self, name: &str) -> SocketAddr {
        eventually(&format!("Envoy has listener {name}"), PATIENCE, async || {
            let listeners = self.json("/listeners?format=json").await?;
            let found = items(&listeners["listener_statuses"]).find(|listener| listener["name"] == name);
            let address = &found.ok_or_else(|| listeners.to_string())?["local_address"]["socket_address"];
            let text = |field: &str| address[field].to_string().trim_matches('"').to_owned();
            format!("{}:{}", text("address"), text("port_value")).parse().map_err(|error| format!("{address}: {error}"))
        })
        .await
    }

    /// Every counter and gauge.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>, String> {
        let stats = self.json("/stats?format=json").await?;
        let pair = |stat: &Value| Some((stat["name"].as_str()?.to_owned(), stat["value"].as_u64()?));
        Ok(items(&stats["stats"]).filter_map(pair).collect())
    }

    /// One counter or gauge; 0 if Envoy does not have it yet, and `Err` if Envoy does not answer.
    pub async fn stat(&self, name: &str) -> Result<u64, String> {
        Ok(self.stats().await?.get(name).copied().unwrap_or(0))
    }

    /// Waits until a counter or gauge is as wanted, and gives it.
    pub async fn stat_becomes(&self, name: &str, deadline: Duration, wanted: impl Fn(u64) -> bool) -> u64 {
        eventually(&format!("Envoy's {name}"), deadline, async || {
            let value = self.stat(name).await?;
            if wanted(value) { Ok(value) } else { Err(format!("it is {value}")) }
        })
        .await
    }

    /// The certificates that Envoy has loaded: `/certs`.
    pub async fn certs(&self) -> Result<Value, String> {
        self.json("/certs").await
    }

    /// The whole of `/config_dump`.
    pub async fn config_dump(&self) -> Result<Value, String> {
        self.json("/config_dump").await
    }

    /// The secrets that Envoy got or asks for by SDS, by name.
    pub async fn config_dump_secrets(&self) -> Result<BTreeMap<String, Secret>, String> {
        let dump = self.config_dump().await?;
        let mut secrets = BTreeMap::new();
        for config in items(&dump["configs"]) {
            for (kind, warming) in [("dynamic_warming_secrets", true), ("dynamic_active_secrets", false)] {
                for entry in items(&config[kind]) {
                    let secret = Secret {
                        version: entry["version_info"].as_str().unwrap_or_default().to_owned(),
                        warming,
                        certificate_chain: data(&entry["secret"]["tls_certificate"]["certificate_chain"]),
                        trusted_ca: trusted_ca(&entry["secret"]["validation_context"]),
                        entry: entry.clone(),
                    };
                    secrets.insert(entry["name"].as_str().unwrap_or_default().to_owned(), secret);
                }
            }
        }
        Ok(secrets)
    }

    async fn json(&self, path: &str) -> Result<Value, String> {
        http::get_json(self.admin, path).await
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The CAs of a validation context, whichever way it verifies.
fn trusted_ca(context: &Value) -> Option<String> {
    let domains = items(&context["custom_validator_config"]["typed_config"]["trust_domains"]);
    let bundles: Option<Vec<_>> = domains.map(|domain| data(&domain["trust_bundle"])).collect();
    data(&context["trusted_ca"]).or_else(|| bundles.filter(|bundles| !bundles.is_empty()).map(|b| b.concat()))
}

/// The text in a `DataSource`.
fn data(source: &Value) -> Option<String> {
    if let Some(text) = source["inline_string"].as_str() {
        return Some(text.to_owned());
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(source["inline_bytes"].as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}
