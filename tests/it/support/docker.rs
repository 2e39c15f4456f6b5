//! What `docker-compose.yml` and its like describe, run with docker-compose in the Docker daemon of `tests/docker`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use super::eventually::eventually;

/// How long all of it may take to come up, or a part of it to come back.
pub const COMING_UP: Duration = Duration::from_secs(180);

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// A running project; dropped, it is taken down, volumes and all.
#[derive(Debug)]
pub struct Compose {
    host: String,
    file: &'static str,
    project: String,
}

impl Compose {
    /// Brings up what the file describes, with one command as a user does. `name` makes the project's.
    pub async fn up(file: &'static str, name: &str) -> Self {
        let host = std::env::var("ENVOY_SDS_DOCKER_HOST").unwrap_or_default();
        assert!(
            !host.is_empty(),
            "there is no Docker daemon for the tests: run tests/run as root, which installs docker.io, docker-compose and \
             debootstrap where there is apt-get, and makes the images"
        );
        let compose = Self { host, file, project: format!("envoy-sds-{name}-{}", std::process::id()) };
        let up = compose.compose(&["up", "--detach", "--no-build"], COMING_UP).await;
        assert!(up.status.success(), "{}\n{}", text(&up), compose.logs().await);
        compose
    }

    /// `docker-compose ARGUMENTS`; fails the test if that fails.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let output = self.compose(arguments, COMING_UP).await;
        assert!(output.status.success(), "{arguments:?}: {}\n{}", text(&output), self.logs().await);
        text(&output)
    }

    /// The same of one that has to fail; gives what it says.
    pub async fn fails(&self, arguments: &[&str]) -> String {
        let output = self.compose(arguments, COMING_UP).await;
        assert!(!output.status.success(), "{arguments:?} does not fail: {}", text(&output));
        text(&output)
    }

    /// Where a port of a service is on this machine.
    pub async fn published(&self, service: &str, port: u16) -> SocketAddr {
        let said = self.run(&["port", service, &port.to_string()]).await;
        let address = said.lines().find_map(|line| line.trim().parse::<SocketAddr>().ok());
        address.unwrap_or_else(|| panic!("no address of {service}: {said}"))
    }

    /// The name that Docker knows a volume of the file by.
    pub fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// All that a service has said.
    pub async fn log(&self, service: &str) -> String {
        text(&self.compose(&["logs", "--no-color", service], COMING_UP).await)
    }

    async fn logs(&self) -> String {
        text(&self.compose(&["logs", "--no-color", "--tail", "30"], COMING_UP).await)
    }

    /// Waits until the service says a line that `wanted` takes, after its first `since` lines. Gives how many lines there are
    /// up to and with that one, and that one.
    pub async fn says(
        &self,
        service: &str,
        what: &str,
        since: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> (usize, String) {
        eventually(&format!("{service} says {what}"), COMING_UP, async || {
            let log = self.log(service).await;
            match log.lines().enumerate().skip(since).find(|(_, line)| wanted(line)) {
                Some((at, line)) => Ok((at + 1, line.to_owned())),
                None => Err(log),
            }
        })
        .await
    }

    async fn compose(&self, arguments: &[&str], deadline: Duration) -> Output {
        let mut command = tokio::process::Command::from(self.command(arguments));
        let output = tokio::time::timeout(deadline, command.kill_on_drop(true).output()).await;
        output.unwrap_or_else(|_| panic!("not within {deadline:?}: {arguments:?}")).expect("docker-compose starts")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker-compose");
        command
            .arg("--file")
            .arg(Path::new(REPOSITORY).join(self.file))
            .args(["--project-name", &self.project])
            .args(arguments)
            .env("DOCKER_HOST", &self.host)
            // The stand-in for the image of set-up has cert-manager's definitions.
            .env("CERT_MANAGER_CRDS", "/cert-manager-crds")
            // Any that are free.
            .envs([("ENVOY_SDS_ADMIN_PORT", "0"), ("SHOP_PORT", "0")]);
        command
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let down = self.command(&["down", "--volumes", "--timeout", "2"]).output();
        if !down.as_ref().is_ok_and(|output| output.status.success()) && !std::thread::panicking() {
            panic!("docker-compose down: {down:?}");
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
