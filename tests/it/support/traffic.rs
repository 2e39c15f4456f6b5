//! Requests that flow in the background while the test changes things.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::eventually::eventually;
use super::http::{self, Answer};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(40);
/// A request that is not answered by then has failed. How long it may take is not what is tested, on however busy a machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// One request after another through a proxy's outbound listener, each over a connection of its own from here to the
/// proxy. Any answer but 200 is a failure. Ends when dropped.
#[derive(Debug)]
pub struct Traffic {
    name: String,
    report: Arc<Mutex<Report>>,
    task: JoinHandle<()>,
}

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub requests: u64,
    /// When (since the beginning) and why.
    pub failures: Vec<String>,
    /// Serials of the caller's certificate, as its peer saw them; each once, in order.
    pub serials: Vec<String>,
    /// Issuers of the peer's certificate, as the caller saw them; each once, in order.
    pub peer_issuers: Vec<String>,
    /// SPIFFE IDs of caller and peer, as the other saw them.
    pub identities: Vec<(String, String)>,
    /// The longest time between two answers.
    pub longest_gap: Duration,
}

impl Traffic {
    pub fn through(name: &str, outbound: SocketAddr) -> Self {
        let report: Arc<Mutex<Report>> = Arc::default();
        let record = report.clone();
        let task = tokio::spawn(async move {
            let start = Instant::now();
            let mut last = start;
            loop {
                let answer = tokio::time::timeout(TIMEOUT, http::get(outbound, "/")).await;
                let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
                let arrived = match &answer {
                    Ok(answer) if answer.status == 200 => Ok(answer),
                    Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
                    Err(reason) => Err(reason.clone()),
                };
                let ok = arrived.is_ok();
                record.lock().expect("not poisoned").note(arrived, start.elapsed(), last.elapsed());
                if ok {
                    last = Instant::now();
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { name: name.into(), report, task }
    }

    /// What became of the requests so far.
    pub fn report(&self) -> Report {
        self.report.lock().expect("not poisoned").clone()
    }

    /// Fails the test if any request has failed so far.
    pub fn assert_flows(&self, stage: &str) {
        let Report { requests, failures, .. } = self.report();
        let first = &failures[..failures.len().min(5)];
        let name = &self.name;
        assert!(failures.is_empty(), "{stage}: {} of {requests} requests of {name} failed: {first:#?}", failures.len());
        assert!(!self.task.is_finished(), "{stage}: {} has stopped", self.name);
    }

    /// Waits until the report is as wanted; fails the test as soon as a request fails.
    pub async fn until(&self, what: &str, deadline: Duration, wanted: impl Fn(&Report) -> bool) -> Report {
        eventually(&format!("{}: {what}", self.name), deadline, async || {
            self.assert_flows(what);
            let report = self.report();
            if wanted(&report) { Ok(report) } else { Err(format!("{report:?}")) }
        })
        .await
    }

    /// Waits for so many requests more.
    pub async fn flows_on(&self, stage: &str, requests: u64) {
        let goal = self.report().requests + requests;
        self.until(stage, super::PATIENCE, |report| report.requests >= goal).await;
    }

    /// Ends it; fails the test if any request has failed.
    pub fn stop(self) -> Report {
        self.assert_flows("at the end");
        let report = self.report();
        assert!(report.requests > 0, "{}: no request was made", self.name);
        let (serials, gap) = (report.serials.len(), report.longest_gap);
        println!("{}: {} requests, {serials} certificates, longest gap {gap:?}", self.name, report.requests);
        report
    }
}

impl Report {
    fn note(&mut self, arrived: Result<&Answer, String>, at: Duration, gap: Duration) {
        self.requests += 1;
        self.longest_gap = self.longest_gap.max(gap);
        match arrived {
            Ok(answer) => {
                // What Envoy cannot tell is written as "-" or left out.
                let told = |name| Some(answer.header(name).to_owned()).filter(|text| !text.is_empty() && text != "-");
                add(&mut self.serials, told("x-client-serial"));
                add(&mut self.peer_issuers, told("x-server-issuer"));
                add(&mut self.identities, told("x-client").zip(told("x-server")));
            }
            Err(reason) => self.failures.push(format!("after {at:?}: {}", reason.trim())),
        }
    }
}

fn add<T: PartialEq>(known: &mut Vec<T>, seen: Option<T>) {
    known.extend(seen.filter(|seen| !known.contains(seen)));
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}
