//! How the proxies of `envoy-sds load` behave, and what happens to them.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Failure;
use crate::load::{Resends, Trigger, expected_kind};
use crate::model::duration;

/// How proxies behave.
#[derive(Debug, Args)]
#[command(next_help_heading = "Behaviour")]
pub(super) struct Behaviour {
    /// New connections a second, however long those before them take [default: as fast as --in-flight lets]
    #[arg(long, value_name = "R", value_parser = rate)]
    pub(super) rate: Option<f64>,

    /// Connections that wait for their first secrets at one time, without --rate
    #[arg(long, value_name = "N", default_value = "256", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) in_flight: u32,

    /// Share of proxies that refuse everything (NACK), 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    pub(super) nack: f64,

    /// Share of proxies that read seldom once they have their secrets, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    pub(super) slow: f64,

    /// How long those look away each time; 0s: for ever
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::parse)]
    pub(super) slow_pause: Duration,

    /// Come back when the server ends a stream or connection, with Envoy's backoff, rather than call it a failure
    #[arg(long)]
    pub(super) reconnect: bool,

    /// Who comes back says nothing of what it had, like an Envoy that was started anew
    #[arg(long)]
    pub(super) forget: bool,

    /// What the server has to send again for who comes back to be served: bundles (and leaves where nothing tells it which one a
    /// proxy has, as on ADS), all, or nothing, with which a mute server passes too
    #[arg(long, value_name = "WHAT", default_value = "bundles", hide_possible_values = true)]
    pub(super) resends: ResendsFlag,
}

/// What happens.
#[derive(Debug, Args)]
#[command(next_help_heading = "What happens")]
pub(super) struct CourseFlags {
    /// Rest after connecting, and after all else: to see the server's memory, and what it still had to do
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    pub(super) rest: Duration,

    /// Shell command after which all have to get what it changes, timed from its start; what it leaves in the background is not
    /// waited for; repeatable
    #[arg(long, value_name = "COMMAND")]
    pub(super) trigger: Vec<String>,

    /// Names of the secrets that the --trigger at the same place changes, all of them; repeatable [default: all of --names]
    #[arg(long, value_name = "NAMES", requires = "trigger")]
    pub(super) trigger_changes: Vec<String>,

    /// Wait for this many new versions of the validation contexts
    #[arg(long, value_name = "K", default_value = "0")]
    pub(super) expect_bundle_pushes: u32,

    /// Wait for this many new leaves
    #[arg(long, value_name = "K", default_value = "0")]
    pub(super) expect_rotations: u32,

    /// How many certificates the server has to issue in all that comes after connecting, as it says at --server-admin
    #[arg(long, value_name = "N", requires = "server_admin")]
    pub(super) expect_issued: Option<u64>,

    /// Share of a leaf's life after which its successor is late (renewal-lag)
    #[arg(long, value_name = "SHARE", default_value = "0.75", value_parser = share)]
    pub(super) renew_by: f64,

    /// How often all lose their connection at once and come back
    #[arg(long, value_name = "K", default_value = "0")]
    pub(super) storms: u32,

    /// Shell command that cuts all of them off, such as the server's restart, after which all have to be back; repeatable
    #[arg(long, value_name = "COMMAND", requires = "reconnect")]
    pub(super) storm_command: Vec<String>,

    /// Proxies a second that leave and come back; who shares a connection (--connections) leaves with the others on it
    #[arg(long, value_name = "R", value_parser = rate, requires = "churn_for")]
    pub(super) churn: Option<f64>,

    /// For how long; all have to be back after it
    #[arg(long, value_name = "DURATION", value_parser = some_time, requires = "churn")]
    pub(super) churn_for: Option<Duration>,

    /// Bound of the whole run
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = some_time)]
    pub(super) timeout: Duration,

    /// Give up at this many failures
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max_failures: u64,
}

/// What the server sends again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ResendsFlag {
    /// See the flag.
    Bundles,
    /// Everything.
    All,
    /// Nothing.
    Nothing,
}

impl From<ResendsFlag> for Resends {
    fn from(flag: ResendsFlag) -> Self {
        match flag {
            ResendsFlag::Bundles => Self::Bundles,
            ResendsFlag::All => Self::All,
            ResendsFlag::Nothing => Self::Nothing,
        }
    }
}

impl CourseFlags {
    /// The triggers, for proxies with these names.
    pub(super) fn triggers(&self, names: &[String]) -> Result<Vec<Trigger>, Failure> {
        if self.trigger_changes.len() > self.trigger.len() {
            return Err(Failure::Usage("there are more --trigger-changes than --trigger".to_owned()));
        }
        let trigger = |(number, command): (usize, &String)| {
            let changes = self.trigger_changes.get(number).map_or("", String::as_str);
            let changes = changes.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
            let changes: Vec<String> = changes.collect();
            match changes.iter().find(|name| !names.contains(name)) {
                Some(stranger) => Err(Failure::Usage(format!("--trigger-changes {stranger} is not among --names"))),
                None => Ok(Trigger { command: command.clone(), changes }),
            }
        };
        self.trigger.iter().enumerate().map(trigger).collect()
    }

    /// What is known, by the names alone, never to come.
    pub(super) fn is_possible(&self, names: &[String], expects_identity: bool) -> Result<(), Failure> {
        let all_are = |certificates| names.iter().all(|name| expected_kind(name) == Some(certificates));
        let waits = [
            (self.expect_rotations > 0 && all_are(false), "--expect-rotations", "certificate"),
            (expects_identity && all_are(false), "--expect-identity", "certificate"),
            (self.expect_bundle_pushes > 0 && all_are(true), "--expect-bundle-pushes", "validation context"),
        ];
        match waits.into_iter().find(|(never_comes, ..)| *never_comes) {
            Some((_, flag, what)) => {
                Err(Failure::Usage(format!("{flag} is about a {what}, and none is among --names")))
            }
            None => Ok(()),
        }
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text)?;
    if time.is_zero() { Err("expected a time that is longer than none, such as 90s".to_owned()) } else { Ok(time) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| "expected a number a second, such as 200 or 0.5".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share between 0 and 1, such as 0.1".to_owned())
}
