//! The embedded default: a server with its own CA, two real Envoys, mTLS between them, and certificates that are renewed
//! before one's eyes. Alone on one machine, in a folder that is gone afterwards.

mod envoy;
pub mod envoy_binary;
mod http;
mod stranger;
mod tokens;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, MissedTickBehavior};

use self::envoy::{Envoy, Settings};
use crate::app::{App, StartError};
use crate::config::{Config, Overrides, Surroundings};

/// Who answers, and who calls.
const SERVER: &str = "web";
const CLIENT: &str = "shop";

/// Short, so that there is something to see: renewed about every 10 s.
const LEAF_LIFETIME: Duration = Duration::from_secs(15);

/// Of the tokens: longer than anybody watches.
const TOKEN_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often a request is sent.
const EVERY: Duration = Duration::from_millis(200);

/// What the user may choose.
#[derive(Debug, Clone, Default)]
pub struct DemoSettings {
    /// The Envoy to run; found or installed if `None`.
    pub envoy: Option<PathBuf>,
    /// Ends by itself after this; runs until `stop` if `None`.
    pub run_for: Option<Duration>,
}

/// What has happened.
#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    failures: u64,
    renewals: u64,
    client_serial: String,
    server_serial: String,
}

/// How it ended, if nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every request succeeded, and there was one.
    Shown,
    /// It was stopped before there was one, so nothing was shown.
    TooSoon,
}

/// Runs the demo until `stop`, or for as long as the settings say.
///
/// # Errors
/// If something could not be started, or not every request succeeded.
pub async fn run(
    settings: DemoSettings,
    stop: impl Future<Output = ()>,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<Ended> {
    tokio::pin!(stop);
    let mut tally = Tally::default();
    let is_stopped = tokio::select! {
        // First: an interrupt from a terminal goes to the Envoys too, whose end is no failure then.
        biased;
        () = &mut stop => true,
        ended = show(&settings, &mut tally, out) => {
            ended?;
            false
        }
    };
    if tally.requests == 0 {
        return if is_stopped {
            Ok(Ended::TooSoon)
        } else {
            bail!("it ended before the first request: give --for more time")
        };
    }
    writeln!(
        out,
        "{} requests, {} failed; {} certificates were renewed meanwhile",
        tally.requests, tally.failures, tally.renewals
    )?;
    match tally.failures {
        0 => Ok(Ended::Shown),
        failures => bail!("{failures} requests failed"),
    }
}

async fn show(settings: &DemoSettings, tally: &mut Tally, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    writeln!(
        out,
        "A server with its own CA, two Envoys, mTLS between them; certificates live {} s.",
        LEAF_LIFETIME.as_secs()
    )?;
    let mut said = Vec::new();
    let binary = envoy_binary::find(settings.envoy.clone(), |text| {
        // Said at once: what follows may take a minute.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        said.push(text);
    })
    .await?;
    let folder = tempfile::Builder::new().prefix("envoy-sds-demo-").tempdir()?;
    let began = Instant::now();
    let socket = folder.path().join("sds.sock");
    let app = start_server(folder.path(), &socket).await?;
    writeln!(out, "The SDS server listens on {}; status page: http://{}/", app.listeners().join(", "), app.admin())?;
    writeln!(out, "Each Envoy proves who it is with a proxy token, as envoy-sds token issue signs them.")?;
    let served = tokio::select! {
        served = serve_two(&binary, folder.path(), &socket, began, settings, tally, out) => served,
        died = app.died() => Err(anyhow::anyhow!("the server has died: {died}")),
    };
    app.stop().await;
    served
}

async fn serve_two(
    binary: &std::path::Path,
    folder: &std::path::Path,
    sds_socket: &std::path::Path,
    began: Instant,
    settings: &DemoSettings,
    tally: &mut Tally,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<()> {
    // The server calls nobody: port 9 is the discard port.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let token = &tokens::issue(folder, SERVER, TOKEN_LIFETIME)?;
    let mut server = Envoy::start(Settings { binary, folder, name: SERVER, sds_socket, token, peer: nobody }).await?;
    let inbound = server.listener("inbound").await?;
    let token = &tokens::issue(folder, CLIENT, TOKEN_LIFETIME)?;
    let mut client = Envoy::start(Settings { binary, folder, name: CLIENT, sds_socket, token, peer: inbound }).await?;
    let outbound = client.listener("outbound").await?;
    writeln!(out, "Both Envoys have their certificates after {:.1} s.", began.elapsed().as_secs_f64())?;
    if stranger::is_let_in(inbound).await.context("nobody answers where the server's Envoy listens")? {
        bail!("a caller WITHOUT a certificate was let in: the mTLS listener is open");
    }
    writeln!(out, "A caller without a certificate was refused, as it has to be.")?;
    writeln!(out, "Now a request every {} ms, each on a new connection{}:", EVERY.as_millis(), how_long(settings))?;
    let until = settings.run_for.map(|run_for| Instant::now() + run_for);
    let mut next = tokio::time::interval(EVERY);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while until.is_none_or(|until| Instant::now() < until) {
        next.tick().await;
        request(outbound, &server, tally, out).await?;
    }
    Ok(())
}

fn how_long(settings: &DemoSettings) -> String {
    settings.run_for.map_or_else(|| ", until Ctrl-C".to_owned(), |time| format!(", for {} s", time.as_secs()))
}

async fn request(
    outbound: SocketAddr,
    server: &Envoy,
    tally: &mut Tally,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<()> {
    tally.requests += 1;
    let answer = match http::get(outbound, "/").await {
        Ok(answer) if answer.status == 200 => answer,
        Ok(answer) => {
            tally.failures += 1;
            writeln!(out, "FAILED: {} {}", answer.status, answer.body.trim())?;
            return Ok(());
        }
        Err(error) => {
            tally.failures += 1;
            writeln!(out, "FAILED: {error:#}")?;
            return Ok(());
        }
    };
    let client_serial = answer.header("x-client-serial").to_owned();
    let server_serial = server.serial().await.unwrap_or_default();
    let is_first = tally.requests == 1 + tally.failures && tally.client_serial.is_empty();
    let changes = u64::from(client_serial != tally.client_serial) + u64::from(server_serial != tally.server_serial);
    if changes > 0 {
        if !is_first {
            tally.renewals += changes;
        }
        writeln!(
            out,
            "request {:>5}: {} (serial {}) called {} (serial {}): {} {}",
            tally.requests,
            answer.header("x-client"),
            short(&client_serial),
            answer.header("x-server"),
            short(&server_serial),
            answer.status,
            answer.body.trim(),
        )?;
        (tally.client_serial, tally.server_serial) = (client_serial, server_serial);
    }
    Ok(())
}

fn short(serial: &str) -> &str {
    serial.get(..12).unwrap_or(serial)
}

async fn start_server(folder: &std::path::Path, socket: &std::path::Path) -> anyhow::Result<App> {
    let mesh = folder.join("mesh.yaml");
    std::fs::write(&mesh, mesh_resource())?;
    let text = format!(
        "listeners:\n- unix: {socket}\n  mode: \"0600\"\nadmin: {{address: \"127.0.0.1:0\"}}\nresources: [{mesh}]\n\
         stateDir: {state}\nkubernetes: off\nidentify: {{proxyToken: {{}}}}\n",
        socket = socket.display(),
        mesh = mesh.display(),
        state = tokens::state_dir(folder).display(),
    );
    let file = folder.join("server.yaml");
    std::fs::write(&file, text)?;
    let config = Config::load(Some(&file), Overrides::default(), &Surroundings::default());
    let config = config.map_err(|problems| anyhow::anyhow!("BUG: the demo's configuration is wrong: {problems:?}"))?;
    match App::start(config).await {
        Ok(app) => Ok(app),
        Err(StartError::Configuration(problems)) => bail!("BUG: the demo's resources are wrong: {problems:?}"),
        Err(StartError::Runtime(error)) => Err(error),
    }
}

fn mesh_resource() -> String {
    format!(
        "type: Mesh\nname: default\nmtls:\n  enabledBackend: demo\n  backends:\n  - name: demo\n    type: builtin\n    \
         dpCert: {{rotation: {{expiration: {}s}}}}\n",
        LEAF_LIFETIME.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_interrupt_before_the_first_request_is_no_failure_and_no_success() {
        let nowhere = || DemoSettings { envoy: Some("/nowhere/envoy".into()), run_for: None };
        let mut out = Vec::new();
        let ended = run(nowhere(), std::future::ready(()), &mut out).await.unwrap();
        assert_eq!((ended, String::from_utf8(out).unwrap().as_str()), (Ended::TooSoon, ""));

        // What goes wrong by itself still is a failure.
        let error = run(nowhere(), std::future::pending(), &mut Vec::new()).await.unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/envoy"), "{error:#}");
    }
}
