//! What is measured, and which of it makes which row of the table.

use crate::figures::Figure;

/// Proxies in a run that measures nothing.
pub(crate) const FEW: u64 = 20;

/// One way of using a server. Each run of it has a server of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// As it is asked for on the command line.
    pub(crate) name: &'static str,
    pub(crate) proxies: u64,
    pub(crate) api: Api,
    pub(crate) tls: bool,
    /// A stream for each of the two names, and not one for both.
    pub(crate) stream_for_each_name: bool,
    /// The node of a real Envoy in every request.
    pub(crate) like_envoy: bool,
    /// Proxies that connect in a second; else as fast as they can.
    pub(crate) rate: Option<u32>,
    /// Whether our server has proxies show a token; the peer knows no proofs.
    pub(crate) tokens: bool,
    /// Whether the peer has trust bundles in a cache of their own (`-cache mux`).
    pub(crate) peer_shares_bundles: bool,
    /// Whether CAs and leaves are changed, twice each, once all proxies have their secrets.
    pub(crate) rotates: bool,
    pub(crate) when: When,
}

/// When a case is run, unless some are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// If something is measured.
    Measuring,
    /// Also to see whether everything works: it differs from the others in more than a number.
    Always,
    /// Never.
    Named,
}

/// A variant of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Sotw,
    Delta,
    /// The aggregated service, state of the world.
    Ads,
    /// The same, Delta.
    AdsDelta,
}

/// SotW, one plaintext connection and one stream for each proxy.
const PLAIN: Case = Case {
    name: "plain-5000",
    proxies: 5_000,
    api: Api::Sotw,
    tls: false,
    stream_for_each_name: false,
    like_envoy: false,
    rate: None,
    tokens: false,
    peer_shares_bundles: false,
    rotates: true,
    when: When::Measuring,
};

/// Every case, in the order in which they run.
pub(crate) const CASES: &[Case] = &[
    Case { name: "rate-1000", proxies: 1_000, rate: Some(400), rotates: false, ..PLAIN },
    PLAIN,
    Case { name: "tls-5000", tls: true, when: When::Always, ..PLAIN },
    Case { name: "envoy-5000", like_envoy: true, stream_for_each_name: true, when: When::Always, ..PLAIN },
    Case { name: "plain-10000", proxies: 10_000, ..PLAIN },
    Case { name: "delta-10000", proxies: 10_000, api: Api::Delta, when: When::Always, ..PLAIN },
    Case { name: "mux-5000", stream_for_each_name: true, peer_shares_bundles: true, when: When::Always, ..PLAIN },
    Case { name: "tokens-5000", tokens: true, when: When::Always, ..PLAIN },
    // Over the aggregated service nothing costs anything else; it is here to be seen to work with both.
    Case { name: "ads-1000", proxies: 1_000, api: Api::Ads, when: When::Always, ..PLAIN },
    Case { name: "ads-delta-1000", proxies: 1_000, api: Api::AdsDelta, when: When::Always, ..PLAIN },
    // How cost grows.
    Case { name: "plain-100", proxies: 100, when: When::Named, ..PLAIN },
    Case { name: "plain-1000", proxies: 1_000, when: When::Named, ..PLAIN },
    Case { name: "plain-19000", proxies: 19_000, when: When::Named, ..PLAIN },
];

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) case: &'static str,
    pub(crate) figure: Figure,
    pub(crate) goal: Goal,
}

/// What our server's figure should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// At most so many times the peer's: what it has to be, and what is hoped for.
    Ratio(f64, f64),
    /// The same where nothing more is hoped for: the peer does there what can be done with its library.
    Must(f64),
    /// Nothing at all.
    Zero,
    /// No goal; it says what another row is made of.
    Known,
}

const fn row(what: &'static str, case: &'static str, figure: Figure, goal: Goal) -> Row {
    Row { what, case, figure, goal }
}

/// The table.
pub(crate) const ROWS: &[Row] = {
    use Figure::{
        BundleCpu, BundleFirst, BundleP99, ConnectCpu, ConnectSeconds, FirstP50, FirstP99, LeafCpu, LeafP99,
        PeakMemory, RestMemory, Unchanged,
    };
    use Goal::{Known, Must, Ratio, Zero};
    &[
        row("RSS per proxy at rest, 5,000", "plain-5000", RestMemory, Ratio(0.50, 0.30)),
        row("RSS per proxy at rest, 5,000, TLS", "tls-5000", RestMemory, Ratio(0.60, 0.40)),
        row("RSS per proxy at rest, 5,000, as a real Envoy", "envoy-5000", RestMemory, Ratio(0.08, 0.04)),
        row("peak RSS per proxy, 5,000, as a real Envoy", "envoy-5000", PeakMemory, Ratio(0.08, 0.05)),
        row("CPU per connecting proxy, issuing included", "plain-5000", ConnectCpu, Ratio(0.45, 0.30)),
        row("CPU per connecting proxy, TLS", "tls-5000", ConnectCpu, Ratio(0.60, 0.45)),
        row("CPU per connecting proxy, as a real Envoy", "envoy-5000", ConnectCpu, Ratio(0.20, 0.12)),
        row("until 10,000 proxies have their secrets", "plain-10000", ConnectSeconds, Ratio(0.65, 0.50)),
        row("first secret at 400 proxies/s, p50", "rate-1000", FirstP50, Ratio(0.80, 0.60)),
        row("first secret at 400 proxies/s, p99", "rate-1000", FirstP99, Ratio(0.70, 0.40)),
        row("CPU per CA push, 10,000", "plain-10000", BundleCpu, Ratio(0.50, 0.35)),
        row("fan-out of a CA push, 10,000, p99", "plain-10000", BundleP99, Ratio(0.70, 0.55)),
        row("of that, until the first proxy has it", "plain-10000", BundleFirst, Known),
        row("CPU per CA push, 5,000, peer with `MuxCache`", "mux-5000", BundleCpu, Must(0.55)),
        row("fan-out of a CA push, 5,000, peer with `MuxCache`, p99", "mux-5000", BundleP99, Must(0.75)),
        row("of that, until the first proxy has it", "mux-5000", BundleFirst, Known),
        row("CPU per CA push, 5,000, as a real Envoy", "envoy-5000", BundleCpu, Ratio(0.20, 0.10)),
        row("fan-out of a CA push, 5,000, as a real Envoy, p99", "envoy-5000", BundleP99, Ratio(0.40, 0.25)),
        row("of that, until the first proxy has it", "envoy-5000", BundleFirst, Known),
        row("CPU per leaf in a rotation of 10,000", "plain-10000", LeafCpu, Ratio(0.50, 0.35)),
        row("leaf rotation of 10,000, p99", "plain-10000", LeafP99, Ratio(0.60, 0.50)),
        row("unchanged secrets in a rotation of 10,000, at most", "plain-10000", Unchanged, Zero),
    ]
};

/// The same with more and more proxies: how cost grows, for each of them.
pub(crate) const GROWTH: &[(&str, u64)] = &[
    ("plain-100", 100),
    ("plain-1000", 1_000),
    ("plain-5000", 5_000),
    ("plain-10000", 10_000),
    ("plain-19000", 19_000),
];

/// What of that is shown.
pub(crate) const GROWS: [Figure; 5] =
    [Figure::RestMemory, Figure::PeakMemory, Figure::ConnectCpu, Figure::BundleCpu, Figure::LeafCpu];

/// What is worth knowing beside the table, of each of these cases that was run.
pub(crate) const APART: &[(&str, &str)] = &[
    ("delta-10000", "Delta, 10,000"),
    ("mux-5000", "5,000 with a stream for each name; the peer has one trust bundle for all (`MuxCache`)"),
    ("tokens-5000", "5,000; ours verifies a proxy token of each, the peer nothing"),
    ("ads-1000", "ADS, 1,000"),
    ("ads-delta-1000", "Delta ADS, 1,000"),
];
