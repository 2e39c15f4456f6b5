//! One case: a server, the client, and what happens to the server meanwhile.

use std::path::Path;
use std::process::Stdio;

use envoy_sds::load::results::Results;
use tokio::process::Command;

use crate::line;
use crate::server::{Ca, Server};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::in_flight::InFlight;
use crate::support::pipes::Pipes;
use crate::{Case, Options, print};

pub(crate) async fn run(options: &Options, case: Case) -> Result<(), String> {
    let cluster = match case {
        Case::CertManager => Some(Cluster::start(ClusterOptions::default()).await),
        Case::Restart | Case::Nothing | Case::Churn => None,
    };
    let ca = match &cluster {
        None => Ca::Own,
        Some(cluster) => {
            let (namespace, issuer) = (cluster.namespace("storms").await, cluster.unique("storms"));
            cluster.cluster_ca_issuer(&issuer).await;
            Ca::CertManager { cluster, issuer, namespace }
        }
    };
    let mut server = Server::start(&options.common.server, &ca, options.in_flight).await;
    let requests = match &ca {
        Ca::CertManager { cluster, namespace, .. } => Some(InFlight::watch(cluster, namespace).await),
        Ca::Own => None,
    };
    let (command, mut pipes) = Pipes::make(&server.dir);
    let (admin, arguments) = (server.admin, arguments(options, case, &server, &command));
    let follow = async {
        match requests {
            Some(_) => line::follow(admin).await,
            None => std::future::pending().await,
        }
    };
    let restart = async {
        if case != Case::Churn {
            // The client says that it is time, and waits until it is done.
            pipes.begun().await;
            server.restart();
            pipes.go_on().await;
        }
        std::future::pending::<()>().await;
    };
    let results = tokio::select! {
        results = client(&options.common.client, &arguments) => results,
        () = follow => unreachable!("it goes on for ever"),
        () = restart => unreachable!("likewise"),
    };
    let results = results.map_err(|error| format!("{error}\nThe server: {}", server.log_tail()))?;
    match case {
        Case::Churn => print::churn(&results),
        Case::Restart | Case::Nothing | Case::CertManager => print::storm(&results),
    }
    if let Some(requests) = requests {
        // It tries an issuer before it goes by it, and learns whom it signs under.
        let (own, proxies): (Vec<_>, Vec<_>) =
            requests.created(requests.len()).await.into_iter().partition(|id| id.contains("/envoy-sds/"));
        println!(
            "  CertificateRequests: {} for proxies, {} of the server's own; without an answer at one time: {} at \
             most (limit {})",
            proxies.len(),
            own.len(),
            requests.most(),
            options.in_flight
        );
    }
    if let Some(folder) = &options.json {
        write(folder, case, &results)?;
    }
    if results.passed { Ok(()) } else { Err(format!("the run has failed: {:?}", results.failures)) }
}

fn arguments(options: &Options, case: Case, server: &Server, storm: &str) -> Vec<String> {
    let proxies = options.proxies.to_string();
    let rest = if options.proxies > 100 { "2s" } else { "100ms" };
    let patience = |measured| if options.common.is_smoke() { "2m" } else { measured };
    let mut arguments: Vec<String> = vec!["load".into(), server.target.clone(), "--output".into(), "json".into()];
    let mut flag = |name: &str, value: &str| arguments.extend([format!("--{name}"), value.to_owned()]);
    flag("proxies", &proxies);
    flag("rest", rest);
    flag("server-pid-file", &server.pid_file().display().to_string());
    flag("server-admin", &server.admin.to_string());
    match case {
        Case::Churn => {
            flag("churn", &options.rate.to_string());
            flag("churn-for", &options.lasts);
            flag("timeout", patience("30h"));
        }
        Case::Restart | Case::Nothing | Case::CertManager => {
            flag("storm-command", storm);
            flag("timeout", patience("30m"));
        }
    }
    if case == Case::Restart {
        // That is what it is about: they have what they need.
        flag("expect-issued", "0");
    }
    if case == Case::CertManager {
        // All at once, from the first.
        flag("in-flight", &proxies);
    }
    if case != Case::Churn {
        arguments.push("--reconnect".into());
    }
    if matches!(case, Case::Nothing | Case::CertManager) {
        arguments.push("--forget".into());
    }
    if options.like_envoy {
        arguments.push("--like-envoy".into());
    }
    arguments
}

async fn client(program: &str, arguments: &[String]) -> Result<Results, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("{program}: {error}"))?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).map_err(|error| format!("no results ({error}): {}", said()))
}

fn write(folder: &Path, case: Case, results: &Results) -> Result<(), String> {
    let name = format!("{case:?}").to_lowercase();
    for (end, text) in
        [("json", envoy_sds::load::report::json(results)), ("html", envoy_sds::load::report::html(results))]
    {
        let file = folder.join(format!("{name}.{end}"));
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}
