//! The server, which is killed and started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::cluster::Cluster;
use crate::support::eventually::eventually;
use crate::support::process::Process;
use crate::support::{PATIENCE, http, ports, scratch};

/// Where it gets its certificates.
pub(crate) enum Ca<'c> {
    Own,
    /// A ClusterIssuer of this name; requests are made in this namespace.
    CertManager {
        cluster: &'c Cluster,
        issuer: String,
        namespace: String,
    },
}

/// A server with its addresses and its state, which outlive a restart.
pub(crate) struct Server {
    program: String,
    arguments: Vec<String>,
    process: Process,
    pub(crate) dir: PathBuf,
    pub(crate) target: String,
    pub(crate) admin: std::net::SocketAddr,
}

impl Server {
    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(program: &str, ca: &Ca<'_>, in_flight: usize) -> Self {
        let dir = scratch::dir("storms");
        let [listener, admin] =
            [ports::free(), ports::free()].map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        let at = dir.display();
        let (backend, kubernetes) = match ca {
            Ca::Own => ("type: builtin".to_owned(), "kubernetes: off".to_owned()),
            Ca::CertManager { issuer, namespace, .. } => (
                format!("type: certmanager\n    conf: {{issuerRef: {{name: {issuer}, kind: ClusterIssuer}}}}"),
                format!("kubernetes: on\nsystemNamespace: {namespace}"),
            ),
        };
        let mesh = format!(
            "type: Mesh\nname: default\nmtls:\n  enabledBackend: ca\n  backends:\n  - name: ca\n    {backend}\n    dpCert: \
             {{rotation: {{expiration: 24h}}}}\n"
        );
        let config = format!(
            "listeners: [{{address: \"{listener}\"}}]\nadmin: {{address: \"{admin}\"}}\nresources: [{at}/mesh.yaml]\n\
             stateDir: {at}/state\n{kubernetes}\nidentify: {{insecureNodeId: true}}\n\
             limits: {{issuancesInFlight: {in_flight}}}\n"
        );
        for (name, text) in [("mesh.yaml", mesh), ("server.yaml", config)] {
            fs::write(dir.join(name), text).expect("the scratch folder can be written");
        }
        let mut arguments = ["serve", "--log-level", "warn", "--config"].map(str::to_owned).to_vec();
        arguments.push(dir.join("server.yaml").display().to_string());
        if let Ca::CertManager { cluster, .. } = ca {
            arguments.extend(["--kubeconfig".to_owned(), cluster.kubeconfig().display().to_string()]);
        }
        let process = spawn(program, &arguments, &dir);
        let mut server =
            Self { program: program.to_owned(), arguments, process, dir, target: listener.to_string(), admin };
        server.ready().await;
        server
    }

    /// Kills it, and starts it again. It may not be ready yet when this returns.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.program, &self.arguments, &self.dir);
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    pub(crate) fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    async fn ready(&mut self) {
        eventually("the server is ready", PATIENCE, async || {
            self.process.assert_running();
            let answer = http::get(self.admin, "/readyz").await?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{}\n{}", answer.body, self.process.log_tail())) }
        })
        .await;
    }
}

fn spawn(program: &str, arguments: &[String], dir: &Path) -> Process {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("KUBECONFIG");
    let process = Process::start("envoy-sds", command, dir);
    // Whoever reads it sees one number or the other.
    let new = dir.join("pid.new");
    fs::write(&new, process.pid().to_string()).expect("the scratch folder can be written");
    fs::rename(&new, dir.join("pid")).expect("a file can be replaced");
    process
}
