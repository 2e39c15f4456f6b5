//! The configuration file: every field optional, none of it checked against another yet.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::HostPort;
use super::identify::{Identify, Places};
use super::{Ads, Kubernetes, Limits, Listener, Membership, Naming};
use crate::document::{Field, Fields, Node, Report};
use crate::model::diagnostic::{Location, Problem};

/// What a configuration file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) listeners: Option<Vec<(Listener, Location)>>,
    pub(super) admin: Admin,
    pub(super) resources: Vec<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) system_namespace: Option<(String, Location)>,
    pub(super) zone: Option<(String, Location)>,
    pub(super) kubernetes: Kubernetes,
    pub(super) cluster_resources: Option<bool>,
    pub(super) identify: Identify,
    pub(super) places: Places,
    pub(super) membership: Membership,
    pub(super) naming: Naming,
    pub(super) limits: Limits,
    pub(super) ads: Ads,
}

/// What `admin` says: where the admin API is, what it is called, and where the metrics are by themselves.
#[derive(Debug, Default)]
pub(super) struct Admin {
    pub(super) address: Option<(HostPort, Location)>,
    pub(super) host_names: Vec<String>,
    pub(super) metrics_address: Option<(HostPort, Location)>,
}

/// How often an ADS stream may be sent everything again: more often is waste, less often helps nobody.
const ADS_RESYNC: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(24 * 3600);

/// Decodes the one document of a file; an empty file has none.
pub(super) fn decode(document: Option<&Node>, path: Arc<PathBuf>) -> (File, Vec<Problem>) {
    let report = Report::new(Some(path));
    let file = document.and_then(|node| decode_file(&report.root(node))).unwrap_or_default();
    (file, report.finish().0)
}

fn decode_file(root: &Field<'_>) -> Option<File> {
    let fields = root.map()?;
    let (identify, places) = fields.given("identify").and_then(|f| Identify::decode(&f)).unwrap_or_default();
    let kubernetes = [("auto", Kubernetes::Auto), ("on", Kubernetes::On), ("off", Kubernetes::Off)];
    let located = |field: Field<'_>| field.text().map(|text| (text.to_owned(), field.location()));
    // What opens something when it is left out is refused with nothing after it.
    let file = File {
        listeners: fields.given("listeners").and_then(|f| decode_listeners(&f)),
        admin: fields.optional("admin").and_then(|f| f.strict_map(decode_admin)).unwrap_or_default(),
        resources: fields.given("resources").map(|f| decode_paths(&f)).unwrap_or_default(),
        state_dir: fields.optional("stateDir").and_then(|f| f.name().map(PathBuf::from)),
        system_namespace: fields.optional("systemNamespace").and_then(located),
        zone: fields.optional("zone").and_then(located),
        kubernetes: fields.given("kubernetes").and_then(|f| f.one_of(&kubernetes)).unwrap_or_default(),
        cluster_resources: fields.given("clusterResources").and_then(|f| f.boolean()),
        membership: fields.given("membership").and_then(|f| Membership::decode(&f)).unwrap_or_default(),
        naming: fields.optional("naming").and_then(|f| Naming::decode(&f)).unwrap_or_default(),
        limits: fields.given("limits").and_then(|f| decode_limits(&f)).unwrap_or_default(),
        ads: fields.optional("ads").and_then(|f| f.strict_map(decode_ads)).unwrap_or_default(),
        identify,
        places,
    };
    fields.refuse_others();
    Some(file)
}

fn decode_listeners(field: &Field<'_>) -> Option<Vec<(Listener, Location)>> {
    let items = field.list()?;
    if items.is_empty() {
        field.problem_with_hint("must not be empty", "leave it out for the default ones");
    }
    Some(items.iter().filter_map(|item| Some((Listener::decode(item)?, item.location()))).collect())
}

fn decode_admin(fields: &Fields<'_>) -> Admin {
    let address = |field: Field<'_>| Some((field.check(field.text()?.parse())?, field.location()));
    Admin {
        address: fields.optional("address").and_then(address),
        host_names: fields.optional("hostNames").map(|field| decode_host_names(&field)).unwrap_or_default(),
        metrics_address: fields.optional("metricsAddress").and_then(address),
    }
}

/// Names as they are in a URL, without a port; lower-case from here on, as they are the same to everybody else (RFC 9110,
/// section 4.2.3).
fn decode_host_names(field: &Field<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for item in field.list().unwrap_or_default() {
        let Some(name) = item.text() else { continue };
        let name = name.to_ascii_lowercase();
        if !is_host_name(&name) {
            let hint = "such as sds.example.com: no scheme, port, path or wildcard";
            item.problem_with_hint(format!("{name:?} is not the name of a host"), hint);
        } else if names.contains(&name) {
            item.problem_with_hint("the same name is there twice", "once is enough");
        } else {
            names.push(name);
        }
    }
    names
}

/// RFC 1123, section 2.1, and the underscore that some have all the same.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let fits = (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        fits && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn decode_paths(field: &Field<'_>) -> Vec<PathBuf> {
    let items = field.list().unwrap_or_default();
    items.iter().filter_map(|item| item.name().map(PathBuf::from)).collect()
}

fn decode_limits(field: &Field<'_>) -> Option<Limits> {
    let fields = field.map()?;
    let default = Limits::default();
    let limit = |key, most, default| {
        let value = fields.given(key).and_then(|field| field.integer(1..=most));
        value.and_then(|value| usize::try_from(value).ok()).unwrap_or(default)
    };
    let limits = Limits {
        streams: limit("streams", 1_000_000, default.streams),
        streams_per_proxy: limit("streamsPerProxy", 10_000, default.streams_per_proxy),
        streams_per_identity: limit("streamsPerIdentity", 1_000_000, default.streams_per_identity),
        new_streams_per_second: fields
            .given("newStreamsPerSecond")
            .and_then(|field| field.integer(0..=1_000_000))
            .and_then(|rate| u32::try_from(rate).ok())
            .filter(|rate| *rate > 0),
        names_per_stream: limit("namesPerStream", 4096, default.names_per_stream),
        max_connection_age: fields
            .given("maxConnectionAge")
            .and_then(|field| decode_age(&field))
            .or(default.max_connection_age),
        issuances_in_flight: limit("issuancesInFlight", 10_000, default.issuances_in_flight),
    };
    fields.refuse_others();
    Some(limits)
}

/// `0s` is for ever. Below a minute proxies would do little but reconnect.
fn decode_age(field: &Field<'_>) -> Option<Duration> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let age = field.duration(Duration::ZERO..=YEAR)?;
    if !age.is_zero() && age < Duration::from_secs(60) {
        field.problem_with_hint("is too short for a connection", "give a minute or more, or 0s for no bound");
        return None;
    }
    Some(age).filter(|age| !age.is_zero())
}

fn decode_ads(fields: &Fields<'_>) -> Ads {
    Ads { resync: fields.optional("resync").and_then(|f| f.duration(ADS_RESYNC)) }
}
