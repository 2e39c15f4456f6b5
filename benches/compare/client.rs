//! The client: `envoy-sds load`, for both servers alike.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use envoy_sds::load::results::Results;

use crate::cases::{Api, Case, FEW};

/// Whom it talks to.
#[derive(Debug)]
pub(crate) struct Target {
    /// On this machine; the certificate is for `localhost`.
    pub(crate) port: u16,
    /// The CA of its certificate, if it speaks TLS.
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) pid: u32,
    /// Where the key is that tokens are to be signed with, if it wants tokens: our server's state.
    pub(crate) state_dir: Option<PathBuf>,
    /// What it is to be told, one after the other: a shell command, and the name of the secret that changes by it.
    pub(crate) triggers: Vec<(String, &'static str)>,
}

/// After which a run is given up.
const TIMEOUT: &str = "5m";

/// How long a server has for coming to rest before its memory is looked at.
const REST: &str = "2s";

/// The client's command line.
fn arguments(case: &Case, proxies: u64, target: &Target) -> Vec<String> {
    let mut arguments: Vec<String> = vec!["load".into(), format!("127.0.0.1:{}", target.port)];
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    flag("proxies", proxies.to_string());
    flag(
        "api",
        match case.api {
            Api::Sotw => "sotw".into(),
            Api::Delta => "delta".into(),
            Api::Ads => "ads".into(),
            Api::AdsDelta => "ads-delta".into(),
        },
    );
    flag("server-pid", target.pid.to_string());
    flag("timeout", TIMEOUT.into());
    flag("rest", if proxies > FEW { REST.into() } else { "100ms".into() });
    flag("output", "json".into());
    if let Some(rate) = case.rate {
        flag("rate", rate.to_string());
    }
    if let Some(ca) = &target.tls_ca {
        flag("tls-ca", ca.display().to_string());
        flag("server-name", "localhost".into());
    }
    if let Some(folder) = &target.state_dir {
        flag("state-dir", folder.display().to_string());
    }
    for (command, name) in &target.triggers {
        flag("trigger", command.clone());
        flag("trigger-changes", (*name).into());
    }
    if !case.stream_for_each_name {
        arguments.push("--one-stream".into());
    }
    if case.like_envoy {
        arguments.push("--like-envoy".into());
    }
    arguments
}

/// Runs it to its end.
pub(crate) fn run(program: &str, case: &Case, proxies: u64, target: &Target) -> Result<Results, String> {
    let mut command = Command::new(program);
    command.args(arguments(case, proxies, target)).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let said = || format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    let results: Results =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("no results ({error}): {}", said()))?;
    if results.passed && output.status.success() {
        return Ok(results);
    }
    Err(format!("the run has failed ({}): {:?}\n{}", output.status, results.failures, said()))
}
