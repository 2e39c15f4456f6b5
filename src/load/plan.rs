//! What a run is to do, as the command line gives it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::protocol::{Silence, Variant};

/// A share of the proxies, from 0 to 1.
pub type Share = f64;

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// TCP, by name or address.
    Tcp(String, u16),
    /// A unix socket.
    Unix(PathBuf),
}

/// How proxies prove who they are, beside a client certificate and what a unix socket tells.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Not at all.
    None,
    /// Bearer tokens, the first for the first proxy, and from the beginning again when they are used up.
    Tokens(Vec<Arc<str>>),
}

/// A command that makes the server send something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// For `sh -c`.
    pub command: String,
    /// Names of the secrets that it changes, all of them; those of the run if empty.
    pub changes: Vec<String>,
}

/// What a server sends again to who comes back and says that it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resends {
    /// Validation contexts; and certificates where it cannot know that the proxy has them: on ADS, and of several names on one
    /// SotW stream. That is what this server does.
    Bundles,
    /// All of it.
    All,
    /// Nothing.
    Nothing,
}

/// Which process is the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerProcess {
    /// The one with this number.
    Numbered(u32),
    /// The one whose number is in this file, which may change when the server is started again.
    InFile(PathBuf),
}

/// All of it. Texts that say `{n}` have the proxy's number there.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Simulated proxies.
    pub proxies: usize,
    /// Connections that they share; one each if `None`.
    pub connections: Option<usize>,
    /// The server.
    pub target: Target,
    /// The target as it was given.
    pub target_text: String,
    /// SotW or Delta.
    pub variant: Variant,
    /// Over the aggregated service.
    pub ads: bool,
    /// Secrets that each proxy asks for; `{n}` in one is the proxy's number.
    pub names: Vec<Arc<str>>,
    /// One stream for all names, and not one each.
    pub one_stream: bool,
    /// A real Envoy's node, in every request.
    pub like_envoy: bool,
    /// `node.id`.
    pub node_id: String,
    /// `node.cluster`.
    pub node_cluster: String,
    /// TLS, if any: what to trust and to show. The first for the first connection, and from the beginning again when they are
    /// used up.
    pub tls: Option<Vec<Arc<rustls::ClientConfig>>>,
    /// Name in the server's certificate and in `:authority`.
    pub server_name: Option<String>,
    /// How proxies prove who they are.
    pub credentials: Credentials,
    /// Further headers.
    pub metadata: Vec<(String, String)>,
    /// The SPIFFE ID that each proxy has to get.
    pub expect_identity: Option<String>,
    /// New connections a second, however long those before take; if `None`, as fast as `in_flight` lets.
    pub rate: Option<f64>,
    /// Connections that wait for their first secrets at one time, unless there is a rate.
    pub in_flight: usize,
    /// Those that refuse everything.
    pub nack: Share,
    /// Those that read seldom, once they have their secrets.
    pub slow: Share,
    /// How seldom; never again if zero.
    pub slow_pause: Duration,
    /// Comes back when the server ends a connection, rather than call that a failure.
    pub reconnect: bool,
    /// Who comes back says nothing of what it had, like a new process.
    pub forget: bool,
    /// What the server has to send again for a proxy that comes back to be served.
    pub resends: Resends,
    /// How long to rest after connecting.
    pub rest: Duration,
    /// Commands, one after the other.
    pub triggers: Vec<Trigger>,
    /// New validation contexts to wait for.
    pub bundle_pushes: u32,
    /// New leaves to wait for.
    pub rotations: u32,
    /// Certificates that the server has to issue once all have connected, neither more nor fewer.
    pub expect_issued: Option<u64>,
    /// How often all lose their connection at once.
    pub storms: u32,
    /// Commands after each of which all have to be back, such as the server's restart.
    pub storm_commands: Vec<String>,
    /// Proxies that leave and come back in a second, and for how long.
    pub churn: Option<(f64, Duration)>,
    /// Share of a leaf's life after which its successor is late.
    pub renew_by: f64,
    /// The server's process.
    pub server_process: Option<ServerProcess>,
    /// The server's admin address, `host:port`, if it is one of ours.
    pub server_admin: Option<String>,
    /// Bound of the whole run.
    pub timeout: Duration,
    /// Failures at which it is given up.
    pub max_failures: u64,
    /// What was asked for, for who reads the results.
    pub told: Vec<(String, String)>,
}

/// What a proxy does beside asking for secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing.
    Sound,
    /// Refuses every response.
    Refuses,
    /// Reads seldom.
    Slow,
}

impl Plan {
    /// What this proxy does: shares are spread evenly over the numbers.
    pub(crate) fn role(&self, number: usize) -> Role {
        let upto = |count: usize, share: Share| (count as f64 * share + 1e-9).floor() as usize;
        let falls_in = |number: usize, share: Share| upto(number + 1, share) > upto(number, share);
        if falls_in(number, self.nack) {
            return Role::Refuses;
        }
        // Among the others, the share is a larger one.
        let others = number - upto(number, self.nack);
        let slow = if self.nack < 1.0 { (self.slow / (1.0 - self.nack)).min(1.0) } else { 0.0 };
        if falls_in(others, slow) { Role::Slow } else { Role::Sound }
    }

    /// Connections, if nobody reconnects.
    pub(crate) fn connection_count(&self) -> usize {
        self.connections.unwrap_or(self.proxies).min(self.proxies)
    }

    /// Proxies on the connection with this number.
    pub(crate) fn proxies_on(&self, connection: usize) -> usize {
        let connections = self.connection_count();
        self.proxies / connections + usize::from(connection < self.proxies % connections)
    }

    /// Proxies that are to be served.
    pub(crate) fn readers(&self) -> u64 {
        (0..self.proxies).filter(|number| self.role(*number) != Role::Refuses).count() as u64
    }

    /// What the server may leave unsaid to who comes back. A version is of one certificate, and heard, on SDS with a stream for
    /// each name and on Delta.
    pub(crate) fn silence(&self) -> Silence {
        let is_heard = !self.ads && (self.variant == Variant::Delta || self.streams_each() == self.names.len());
        match self.resends {
            Resends::Nothing => Silence::Always,
            Resends::Bundles if is_heard => Silence::OnCertificates,
            Resends::Bundles | Resends::All => Silence::Never,
        }
    }

    /// Streams of one proxy.
    pub(crate) fn streams_each(&self) -> usize {
        if self.one_stream { 1 } else { self.names.len() }
    }
}

/// `{n}` replaced by the number.
pub(crate) fn numbered(template: &str, number: usize) -> String {
    template.replace("{n}", &number.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// So many proxies, each on a connection of its own, and nothing after they have connected.
    pub(crate) fn plan(proxies: usize) -> Plan {
        Plan {
            proxies,
            connections: None,
            target: Target::Tcp("127.0.0.1".to_owned(), 1),
            target_text: "127.0.0.1:1".to_owned(),
            variant: Variant::Sotw,
            ads: false,
            names: vec!["default".into(), "ROOTCA".into()],
            one_stream: false,
            like_envoy: false,
            node_id: "load-{n}".to_owned(),
            node_cluster: "load".to_owned(),
            tls: None,
            server_name: None,
            credentials: Credentials::None,
            metadata: Vec::new(),
            expect_identity: None,
            rate: None,
            in_flight: 1,
            nack: 0.0,
            slow: 0.0,
            slow_pause: Duration::ZERO,
            reconnect: false,
            forget: false,
            resends: Resends::Bundles,
            rest: Duration::ZERO,
            triggers: Vec::new(),
            bundle_pushes: 0,
            rotations: 0,
            expect_issued: None,
            storms: 0,
            storm_commands: Vec::new(),
            churn: None,
            renew_by: 0.75,
            server_process: None,
            server_admin: None,
            timeout: Duration::from_secs(120),
            max_failures: 1000,
            told: Vec::new(),
        }
    }

    #[test]
    fn roles_are_shares_of_all_and_connections_are_shared_evenly() {
        let plan = Plan { nack: 0.1, slow: 0.2, connections: Some(7), ..plan(100) };
        let count = |role| (0..100).filter(|number| plan.role(*number) == role).count();
        assert_eq!([Role::Refuses, Role::Slow, Role::Sound].map(count), [10, 20, 70]);
        assert_eq!(plan.readers(), 90);
        let each: Vec<usize> = (0..7).map(|connection| plan.proxies_on(connection)).collect();
        assert_eq!(each, [15, 15, 14, 14, 14, 14, 14], "the first has the most");
    }
}
