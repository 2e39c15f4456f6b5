//! What a run has measured: the JSON that it prints, and all that its table and its page are made from.
//!
//! Times are in seconds and milliseconds as the names say, sizes in bytes. Fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One run, from the first connection to the last phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The version of this program.
    pub version: String,
    /// When it began (RFC 3339, UTC).
    pub started: String,
    /// The server, as given on the command line.
    pub target: String,
    /// The address behind the server's name that was connected to; `None` for a unix socket, or while none was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What was to be done, as `name: value` in the order of the help: for who reads the page later.
    pub plan: Vec<(String, String)>,
    /// Simulated proxies.
    pub proxies: u64,
    /// Connections of theirs, if nobody reconnects.
    pub connections: u64,
    /// Streams of theirs, likewise.
    pub streams: u64,
    /// Connecting, then each thing that was waited for, in the order of time.
    pub phases: Vec<Phase>,
    /// The whole run, a sample each second at least.
    pub samples: Vec<Sample>,
    /// What went wrong, by kind; empty in a run that succeeded.
    pub failures: Vec<FailureCount>,
    /// Ends of connections and streams whose proxies came back, by kind: no failures, if proxies are to come back.
    #[serde(default)]
    pub interruptions: Vec<FailureCount>,
    /// Whether everything that was waited for came, nothing failed, and every secret was what it has to be.
    pub passed: bool,
}

/// What a phase waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseKind {
    /// Every proxy connects and gets its first secrets.
    Connect,
    /// Nothing: the server at rest.
    Rest,
    /// A new version of a validation context reaches every stream that has it.
    BundlePush,
    /// A new leaf reaches every proxy.
    LeafRotation,
    /// All proxies lose their connection at once, and come back.
    Storm,
    /// Proxies leave and come back at a rate; then all are to be back.
    Churn,
}

/// One part of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Unique in the run, such as `connect` and `bundle-push-2`.
    pub name: String,
    /// What was waited for.
    pub kind: PhaseKind,
    /// Since the run began.
    pub began_at_seconds: f64,
    /// How long it took; for one that did not come to its end, until it was given up.
    pub seconds: f64,
    /// Streams or proxies that were to get something. Of churn, how often a proxy that was served left, and so was to be back.
    pub expected: u64,
    /// Those that did.
    pub reached: u64,
    /// Of churn, how often a proxy was to leave by the rate and did not, as only who is served leaves, and nobody was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    /// What was timed, by name: `first-secret`, `fan-out`, `ack`, `renewal-lag`, `handshake`; `let-in` of proxies that come
    /// back with what they had; `served-again` until a proxy is: in a storm from its beginning, in churn from when it left.
    pub latencies: BTreeMap<String, Latency>,
    /// What went over the wire, and what was in it.
    pub traffic: Traffic,
    /// Certificates that the server issued in this phase and the rest after it, if its admin address was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<u64>,
    /// The server's process, if its number was given.
    pub server: Option<Usage>,
    /// This process.
    pub client: Usage,
}

/// A distribution, in milliseconds, kept as an HdrHistogram of three significant figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were timed.
    pub count: u64,
    /// The shortest.
    pub min_ms: f64,
    /// Arithmetic mean.
    pub mean_ms: f64,
    /// Quantiles.
    pub p50_ms: f64,
    /// See above.
    pub p90_ms: f64,
    /// See above.
    pub p99_ms: f64,
    /// See above.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// For plots: `[quantile, milliseconds]`, rising.
    pub curve: Vec<(f64, f64)>,
}

/// Counts of one phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections opened.
    pub connections: u64,
    /// Bytes from the server, below TLS.
    pub bytes_in: u64,
    /// Bytes to the server, below TLS.
    pub bytes_out: u64,
    /// Secrets received.
    pub secrets: u64,
    /// Those of them that said nothing new, on a stream that had them already.
    pub unchanged: u64,
    /// Requests that accepted a response.
    pub acks: u64,
    /// Requests that refused one.
    pub nacks: u64,
}

/// What a process used in a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time, of all threads.
    pub cpu_seconds: f64,
    /// Resident memory at the phase's end.
    pub rss_bytes: u64,
    /// The most it was in the phase, as far as samples show it; of a process that was started in the phase, all that it was.
    pub peak_rss_bytes: u64,
    /// Open file descriptors at the phase's end.
    pub descriptors: u64,
}

/// The state of a run at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Since the run began.
    pub at_seconds: f64,
    /// Proxies that are connected.
    pub connected: u64,
    /// Proxies that have all their secrets.
    pub served: u64,
    /// Secrets received so far.
    pub secrets: u64,
    /// Failures so far.
    pub failures: u64,
    /// CPU time of the server so far, if its process number was given.
    pub server_cpu_seconds: Option<f64>,
    /// Resident memory of the server.
    pub server_rss_bytes: Option<u64>,
}

/// Something that went wrong, or an end that was none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCount {
    /// What, without what differs from case to case: `stream ended: UNAVAILABLE`, `leaf does not match its key`.
    pub what: String,
    /// How often.
    pub count: u64,
    /// One case of it, in full.
    pub example: String,
}

impl FailureCount {
    /// `connection lost (12 times; connection 3: …)`: in a sentence.
    pub(crate) fn in_short(&self) -> String {
        let often = match self.count {
            1 => "once".to_owned(),
            count => format!("{count} times"),
        };
        format!("{} ({often}; {})", self.what, self.example)
    }
}
