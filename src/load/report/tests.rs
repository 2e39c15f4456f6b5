//! A fixed run in all three forms, and runs in which nothing, or something hostile, was measured.

use std::collections::BTreeMap;

use roxmltree::{Document, Node, ParsingOptions};

use super::*;
use crate::load::results::{FailureCount, Latency, Phase, PhaseKind, Sample, Traffic, Usage};
use crate::model::text::is_unsafe;

const MIB: u64 = 1024 * 1024;

/// What a server, or who gives the flags, may have put into any text.
const HOSTILE: &str = "\"'><script src=http://192.0.2.1/x.js>alert(1)</script>&lt;]]>\u{1b}[2J\u{202e}\n";

fn latency(count: u64, shortest: f64) -> Latency {
    // Few digits, which JSON gives back as they are.
    let rounded = |value: f64| (value * 1e5).round() / 1e5;
    let at = |quantile: f64| rounded(shortest * (1.0 - (1.0 - quantile).max(1.0 / count as f64).ln()));
    Latency {
        count,
        min_ms: at(0.0),
        mean_ms: at(0.6),
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: at(1.0),
        curve: (0..=40)
            .map(|tick| rounded(1.0 - 10f64.powf(-f64::from(tick) / 10.0)))
            .chain([1.0])
            .map(|q| (q, at(q)))
            .collect(),
    }
}

fn usage(cpu_seconds: f64, mib: u64) -> Option<Usage> {
    let peak_rss_bytes = (mib + 12) * MIB;
    Some(Usage { cpu_seconds, rss_bytes: mib * MIB, peak_rss_bytes, descriptors: 1017 })
}

fn phase(name: &str, kind: PhaseKind, began_at_seconds: f64, latencies: &[(&str, Latency)]) -> Phase {
    Phase {
        name: name.to_owned(),
        kind,
        began_at_seconds,
        seconds: 2.5,
        expected: 1000,
        reached: 1000,
        latencies: latencies.iter().map(|(name, latency)| ((*name).to_owned(), latency.clone())).collect(),
        traffic: Traffic {
            connections: 1000,
            bytes_in: 2_400_000,
            bytes_out: 122_190_000,
            secrets: 2000,
            unchanged: 0,
            acks: 2000,
            nacks: 0,
        },
        missed: None,
        issued: None,
        server: usage(0.31, 45),
        client: Usage { cpu_seconds: 0.52, ..Usage::default() },
    }
}

fn sample(at: u32) -> Sample {
    let at_seconds = f64::from(at) / 2.0;
    let connected = u64::from(at * 200).min(1000);
    let secrets = connected * 2 + if at > 12 { 1000 } else { 0 };
    Sample {
        at_seconds,
        connected,
        served: u64::from(at.saturating_sub(1) * 200).min(1000),
        secrets,
        failures: 0,
        server_cpu_seconds: Some((at_seconds * 0.12).min(0.3) + if at > 12 { 0.08 } else { 0.0 }),
        server_rss_bytes: Some(19 * MIB + connected * 26 * 1024),
    }
}

/// A run that passed.
fn passed() -> Results {
    Results {
        version: "0.1.0".to_owned(),
        started: "2026-11-22T10:00:00Z".to_owned(),
        target: "sds.example:15012".to_owned(),
        address: Some("192.0.2.7:15012".to_owned()),
        plan: vec![
            ("protocol".to_owned(), "delta".to_owned()),
            ("as-envoy".to_owned(), "61 KB node in every request".to_owned()),
        ],
        proxies: 1000,
        connections: 1000,
        streams: 2000,
        phases: vec![
            phase(
                "connect",
                PhaseKind::Connect,
                0.0,
                &[("first-secret", latency(1000, 0.8)), ("handshake", latency(1000, 0.4))],
            ),
            Phase { expected: 0, reached: 0, ..phase("rest", PhaseKind::Rest, 2.5, &[]) },
            phase("bundle-push-1", PhaseKind::BundlePush, 6.0, &[("fan-out", latency(1000, 2.0))]),
            phase("leaf-rotation-1", PhaseKind::LeafRotation, 8.5, &[("fan-out", latency(1000, 12.0))]),
        ],
        samples: (0..=24).map(sample).collect(),
        failures: Vec::new(),
        interruptions: Vec::new(),
        passed: true,
    }
}

/// The same, of which one proxy got nothing new.
fn failed() -> Results {
    let mut results = passed();
    results.phases[3].reached = 999;
    results.phases[3].traffic.nacks = 1;
    results.failures = vec![FailureCount {
        what: "stream ended: UNAVAILABLE".to_owned(),
        count: 1,
        example:
            "proxy 17, default: the server said \"the issuer does not answer, and has not done so for longer than \
                  a stream waits\""
                .to_owned(),
    }];
    results.interruptions = vec![FailureCount {
        what: "cannot connect: connection refused".to_owned(),
        count: 12,
        example: "connection 3: Connection refused (os error 111)".to_owned(),
    }];
    results.passed = false;
    results
}

/// A run that ended before anything began.
fn nothing() -> Results {
    Results {
        version: String::new(),
        started: String::new(),
        target: String::new(),
        address: None,
        plan: Vec::new(),
        proxies: 0,
        connections: 0,
        streams: 0,
        phases: Vec::new(),
        samples: Vec::new(),
        failures: Vec::new(),
        interruptions: Vec::new(),
        passed: false,
    }
}

/// Runs in which figures are missing, zero, or no numbers.
fn odd() -> Vec<Results> {
    let empty = Phase {
        seconds: 0.0,
        expected: 0,
        reached: 0,
        traffic: Traffic::default(),
        server: None,
        client: Usage::default(),
        ..phase("connect", PhaseKind::Connect, 0.0, &[("first-secret", Latency::default())])
    };
    let broken = Latency {
        count: 1,
        min_ms: f64::NAN,
        max_ms: f64::INFINITY,
        curve: vec![(f64::NAN, 1.0), (1.0, f64::INFINITY), (2.0, -1.0)],
        ..Latency::default()
    };
    let not_numbers = Phase {
        began_at_seconds: f64::NEG_INFINITY,
        seconds: f64::NAN,
        server: Some(Usage { cpu_seconds: f64::NAN, ..Usage::default() }),
        ..phase("storm", PhaseKind::Storm, 0.0, &[("ack", broken)])
    };
    let at = |at_seconds| Sample { at_seconds, server_cpu_seconds: Some(f64::NAN), ..Sample::default() };
    vec![
        nothing(),
        Results { phases: vec![empty.clone()], samples: vec![Sample::default()], ..nothing() },
        Results {
            phases: vec![empty, not_numbers.clone()],
            samples: vec![at(f64::NAN), at(f64::INFINITY)],
            ..passed()
        },
        Results { proxies: 0, phases: vec![not_numbers], samples: vec![at(1.0), at(1.0), at(0.0)], ..passed() },
    ]
}

fn hostile() -> Results {
    let mut phase = phase(HOSTILE, PhaseKind::Churn, 1.0, &[(HOSTILE, latency(10, 1.0))]);
    (phase.reached, phase.missed) = (9, Some(u64::MAX));
    Results {
        version: HOSTILE.to_owned(),
        started: HOSTILE.to_owned(),
        target: HOSTILE.to_owned(),
        address: Some(format!("{HOSTILE}:1")),
        plan: vec![(HOSTILE.to_owned(), HOSTILE.to_owned())],
        phases: vec![phase],
        failures: vec![FailureCount { what: HOSTILE.to_owned(), count: 1, example: HOSTILE.to_owned() }],
        interruptions: vec![FailureCount { what: HOSTILE.to_owned(), count: 1, example: HOSTILE.to_owned() }],
        ..passed()
    }
}

/// The page, read as XML: what there is of HTML that is none is replaced.
fn with_page(results: &Results, look: impl FnOnce(&Document<'_>)) {
    let page = html(results);
    let xml: String = page
        .split_inclusive('>')
        .map(|part| match part.find("<meta ") {
            Some(_) => part.replace('>', "/>"),
            None => part.to_owned(),
        })
        .collect();
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    match Document::parse_with_options(&xml, options) {
        Ok(document) => look(&document),
        Err(error) => panic!("{error}\n{xml}"),
    }
}

fn named<'a>(document: &'a Document<'a>, name: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    document.descendants().filter(move |node| node.tag_name().name() == name)
}

fn text(node: Node<'_, '_>) -> String {
    node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}

#[test]
fn a_run_as_a_table() {
    assert_eq!(table(&passed()), include_str!("testdata/passed.txt"));
    assert_eq!(table(&failed()), include_str!("testdata/failed.txt"));
    assert_eq!(table(&nothing()), include_str!("testdata/nothing.txt"));
}

#[test]
fn the_table_fits_into_its_columns_and_does_nothing_to_a_terminal() {
    let mut large = failed();
    large.proxies = 100_000;
    for phase in &mut large.phases {
        (phase.expected, phase.reached, phase.traffic.secrets) = (100_000, 99_999, 200_000);
        phase.traffic.bytes_in = u64::MAX;
    }
    for results in [large, failed(), hostile()].into_iter().chain(odd()) {
        for line in table(&results).lines() {
            assert!(line.chars().count() <= 100, "{line:?}");
            assert!(!line.chars().any(is_unsafe), "{line:?}");
            assert_eq!(line, line.trim_end());
        }
    }
}

#[test]
fn json_is_what_was_measured() {
    let text = json(&failed());
    assert!(text.ends_with("}\n") && text.lines().count() > 100, "for people to read");
    assert!(serde_json::from_str::<Results>(&text).unwrap() == failed(), "{text}");
    let mut older: serde_json::Value = serde_json::from_str(&json(&passed())).unwrap();
    assert!(older.as_object_mut().unwrap().remove("interruptions").is_some());
    assert!(serde_json::from_value::<Results>(older).unwrap() == passed(), "results of before they were told");
}

#[test]
fn churn_that_was_held_up_is_told() {
    let mut results = passed();
    let said =
        |results: &Results| [table(results), html(results)].map(|text| text.contains("7 departures were left out"));
    results.phases[3].missed = Some(0);
    assert_eq!(said(&results), [false, false]);
    results.phases[3].missed = Some(7);
    assert_eq!(said(&results), [true, true]);
}

#[test]
fn nothing_that_was_not_measured_is_shown_as_a_number() {
    for results in odd() {
        for text in [table(&results), html(&results)] {
            for wrong in ["NaN", "nan", "inf ", ">inf", "Infinity"] {
                assert!(!text.contains(wrong), "{wrong}: {text}");
            }
        }
        with_page(&results, |_| ());
    }
}

#[test]
fn the_page_loads_and_runs_nothing() {
    for results in [passed(), failed(), hostile()].into_iter().chain(odd()) {
        with_page(&results, |page| {
            for node in page.descendants().filter(Node::is_element) {
                let name = node.tag_name().name();
                assert!(
                    !["script", "link", "img", "image", "iframe", "object", "use", "a", "base"].contains(&name),
                    "{name}"
                );
                for attribute in node.attributes() {
                    let name = attribute.name();
                    assert!(!name.starts_with("on") && !["src", "href", "srcset", "data"].contains(&name), "{name}");
                    assert!(!attribute.value().contains("url("), "{name}");
                }
            }
            let style = text(named(page, "style").next().unwrap());
            assert!(!style.contains("url(") && !style.contains("@import"), "{style}");
        });
    }
}

#[test]
fn hostile_text_is_text() {
    let shown = crate::model::text::escaped(HOSTILE);
    with_page(&hostile(), |page| {
        assert_eq!(text(named(page, "h1").next().unwrap()), format!("Load on {shown} ({shown}:1)"));
        assert!(named(page, "code").any(|node| text(node) == shown), "the failure's example");
        assert!(named(page, "th").any(|node| text(node) == shown), "the phase's name");
        assert!(named(page, "text").any(|node| text(node).contains(&shown[..12])), "the phase's name in a chart");
        assert!(!text(page.root_element()).chars().any(|c| c != '\n' && is_unsafe(c)));
    });
}

#[test]
fn every_chart_has_its_lines_and_says_what_it_is() {
    with_page(&passed(), |page| {
        let charts: Vec<_> = named(page, "svg").filter(|node| node.attribute("role") == Some("img")).collect();
        let titles: Vec<String> = charts.iter().map(|svg| text(svg.first_element_child().unwrap())).collect();
        let latencies = ["Latency: fan-out", "Latency: first-secret", "Latency: handshake"];
        assert_eq!(titles[..3], latencies);
        assert_eq!(titles[3..], ["Proxies", "Secrets received", "Server CPU", "Server memory"]);
        let colours: BTreeMap<&str, usize> = charts
            .iter()
            .zip(&titles)
            .map(|(svg, title)| {
                let lines = svg.descendants().filter(|node| node.attribute("stroke-width") == Some("4"));
                (title.as_str(), lines.count())
            })
            .collect();
        assert_eq!(colours["Latency: fan-out"], 2, "a line for each phase that has it");
        assert_eq!(colours["Proxies"], 2);
        assert_eq!(colours["Server memory"], 1);
        for svg in charts {
            for id in svg.attribute("aria-labelledby").unwrap().split(' ') {
                let found: Vec<_> = page.descendants().filter(|node| node.attribute("id") == Some(id)).collect();
                assert_eq!(found.len(), 1, "{id}");
                assert!(!text(found[0]).is_empty());
            }
        }
    });
}

#[test]
fn a_server_that_was_not_measured_has_no_charts() {
    let mut results = passed();
    for phase in &mut results.phases {
        phase.server = None;
    }
    for sample in &mut results.samples {
        (sample.server_cpu_seconds, sample.server_rss_bytes) = (None, None);
    }
    with_page(&results, |page| {
        assert!(named(page, "h3").all(|node| !text(node).contains("Server")));
        assert!(!text(page.root_element()).contains("Memory for each proxy"));
    });
    assert!(table(&results).contains("the server's process was not given"));
}

#[test]
fn the_style_sheet_knows_every_colour_of_a_line() {
    let style = include_str!("page.css");
    for (at, plotters::style::RGBColor(red, green, blue)) in chart::COLOURS.iter().enumerate() {
        let colour = format!("#{red:02X}{green:02X}{blue:02X}");
        assert!(style.contains(&format!("--line-{at}: {colour};")), "in the light: {colour}");
        assert!(style.contains(&format!("[stroke=\"{colour}\"] {{ stroke: var(--line-{at}); }}")), "{colour}");
        assert!(style.contains(&format!("[fill=\"{colour}\"] {{ fill: var(--line-{at}); }}")), "{colour}");
    }
}
