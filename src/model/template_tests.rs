use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> PathTemplate {
    PathTemplate::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn templates_render() {
    let value = |field| {
        Some(match field {
            TemplateField::Mesh => "m",
            TemplateField::Namespace => "shop",
            TemplateField::Workload => "web.v1",
            TemplateField::ServiceAccount => "web",
            TemplateField::Zone => "z",
            TemplateField::Name => "web-0",
        })
    };
    for (text, expected) in [
        ("/{{ .Namespace }}/{{ .Workload }}", "shop/web.v1"),
        ("/ns/{{.Namespace}}/sa/{{-  .ServiceAccount -}}", "ns/shop/sa/web"),
        ("/x-{{ .Name }}-y/{{ .Zone }}.{{- .Mesh }}", "two"),
        ("/a/ {{- .Name -}} \n /b", "a/web-0/b"),
        ("/fixed", "fixed"),
        ("/.{{ .Mesh }}.", ".m."),
    ] {
        match PathTemplate::parse(text) {
            Ok(template) => assert_eq!(template.render(value).unwrap().join("/"), expected, "{text}"),
            Err(error) => assert!(expected == "two" && error.0.contains("two fields"), "{text}: {error}"),
        }
    }
    let template = parse("/{{ .Mesh }}/{{ .Name }}").with(TemplateField::Mesh, "m");
    assert_eq!(template.segments, parse("/m/{{ .Name }}").segments);
    assert!(template.tells_workloads_apart() && !parse("/{{ .Mesh }}/x").tells_workloads_apart());
}

#[test]
fn what_is_no_template() {
    for (text, expected) in [
        ("", "must begin with /"),
        ("a/b", "must begin with /"),
        ("{{ .Name }}", "must begin with /"),
        ("/", "empty segment"),
        ("/a/", "empty segment"),
        ("/a//b", "empty segment"),
        ("/a/../b", "segments . and .. are not allowed"),
        ("/{{ .Name }}-{{ .Zone }}", "two fields in one segment"),
        ("/{{ .Name }}{{ .Zone }}", "two fields in one segment"),
        ("/a b", "' ' cannot be in the path"),
        ("/%2e", "'%' cannot be in the path"),
        ("/ä", "'ä' cannot be in the path"),
        ("/a}}", "'}' cannot be in the path"),
        ("/{ .Name }", "fields are written {{ .Name }}"),
        ("/{{ .Name", "is not closed"),
        ("/{{ .name }}", "\".name\" is not a field; the fields are .Mesh, .Namespace"),
        ("/{{ Name }}", "functions are not read"),
        ("/{{-.Name}}", "functions are not read"),
        ("/{{ .Name | lower }}", "pipes are not read"),
        ("/{{ if .Name }}x{{ end }}", "conditionals"),
        ("/{{ label \"kuma.io/workload\" }}", "labels are not read"),
        ("/{{ printf \"a/b\" }}", "functions are not read"),
        ("/{{ .Name.Other }}", "is not a field"),
        ("/{{}}", "functions are not read"),
    ] {
        let error = PathTemplate::parse(text).unwrap_err();
        assert!(error.0.contains(expected), "{text}: {error}");
    }
}

#[test]
fn trust_domains_render() {
    for (text, zone, expected) in [
        ("internal.kongair.com", "", Ok("internal.kongair.com")),
        ("{{ .Mesh }}.{{ .Zone }}.mesh.local", "east", Ok("m.east.mesh.local")),
        ("{{ .Zone }}", "", Err("this server is in none")),
        ("{{ .Namespace }}.local", "", Err("the same for all of them")),
        ("{{ .Mesh | lower }}", "", Err("pipes")),
    ] {
        match (render_trust_domain(text, "m", zone), expected) {
            (Ok(rendered), Ok(expected)) => assert_eq!(rendered, expected),
            (Err(error), Err(expected)) => assert!(error.0.contains(expected), "{error}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }
}

#[test]
fn collisions() {
    for (one, other, expected) in [
        ("/{{ .Name }}", "/{{ .Name }}", false),
        ("/{{ .Name }}", "/{{ .Workload }}", true),
        ("/a/{{ .Name }}", "/b/{{ .Name }}", false),
        ("/a/{{ .Name }}", "/{{ .Name }}/a", true),
        ("/a/{{ .Name }}", "/{{ .Namespace }}/{{ .Name }}", true),
        ("/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}", "/{{ .Namespace }}/{{ .Workload }}", false),
        ("/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}", "/ns/{{ .Namespace }}/sa/{{ .Workload }}", true),
        ("/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}", "/ns/{{ .Namespace }}/wl/{{ .Workload }}", false),
        ("/a-{{ .Name }}", "/b-{{ .Name }}", false),
        ("/a-{{ .Name }}", "/a-{{ .Workload }}", true),
        ("/a-{{ .Name }}", "/{{ .Name }}-a", true),
        ("/a-{{ .Name }}", "/a-b-{{ .Name }}", true),
        ("/a-{{ .Name }}", "/a-", false),
        ("/a-{{ .Name }}", "/a-b", true),
        ("/{{ .Name }}.x", "/{{ .Name }}.y", false),
        ("/a", "/b", false),
        ("/a", "/a", false),
        ("/a", "/{{ .Name }}", true),
    ] {
        let (one_parsed, other_parsed) = (parse(one), parse(other));
        assert_eq!(one_parsed.may_collide(&other_parsed), expected, "{one} {other}");
        assert_eq!(other_parsed.may_collide(&one_parsed), expected, "{other} {one}");
    }
}

fn templates() -> impl Strategy<Value = String> {
    let literal = prop_oneof![Just(""), Just("a"), Just("a-"), Just("-"), Just("ns"), Just(".")];
    let field = prop_oneof![Just(""), Just("{{ .Name }}"), Just("{{ .Workload }}"), Just("{{ .Namespace }}")];
    let segment =
        (literal.clone(), field, literal).prop_map(|(before, field, after)| format!("/{before}{field}{after}"));
    prop::collection::vec(segment, 1..4).prop_map(|segments| segments.concat())
}

fn assignments() -> impl Strategy<Value = BTreeMap<TemplateField, String>> {
    let hostile = prop_oneof![
        Just("../"),
        Just("a/b"),
        Just(""),
        Just("ä"),
        Just("-"),
        Just("."),
        Just(".."),
        Just("a"),
        Just("ns"),
        Just("a-a"),
        Just("-a"),
        Just("a%2fb"),
        Just("a\0"),
        Just("{{ .Name }}"),
        Just("a/../b"),
        Just("\u{202e}a"),
    ];
    let fields = [TemplateField::Name, TemplateField::Workload, TemplateField::Namespace];
    prop::collection::vec(hostile, 3)
        .prop_map(move |values| fields.into_iter().zip(values.into_iter().map(str::to_owned)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever the names are: one ID by two templates that were found not to collide means the same values in the same
    /// places, and every ID has the segments of its template.
    #[test]
    fn names_cannot_be_played_with(
        one in templates(), other in templates(), first in assignments(), second in assignments(),
    ) {
        let (Ok(one), Ok(other)) = (PathTemplate::parse(&one), PathTemplate::parse(&other)) else { return Ok(()) };
        let render = |template: &PathTemplate, values: &BTreeMap<TemplateField, String>| {
            template.render(|field| values.get(&field).map(String::as_str)).ok()
        };
        let (Some(by_one), Some(by_other)) = (render(&one, &first), render(&other, &second)) else { return Ok(()) };
        prop_assert_eq!(by_one.len(), one.segments.len());
        prop_assert!(by_one.iter().all(|segment| is_clean(segment) && !is_dots(segment)));
        let id = format!("spiffe://x/{}", by_one.join("/"));
        prop_assert!(spiffe::SpiffeId::new(&id).is_ok(), "{}", id);
        if by_one == by_other && !one.may_collide(&other) {
            prop_assert_eq!(&one.segments, &other.segments);
            for field in one.segments.iter().filter_map(|segment| segment.field) {
                prop_assert_eq!(first.get(&field), second.get(&field));
            }
        }
    }

    #[test]
    fn arbitrary_templates_never_panic(text in "[/a.{} |\\-\"]{0,20}") {
        let _ = PathTemplate::parse(&text);
    }
}
