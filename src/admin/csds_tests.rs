use super::super::proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, StructMatcher};
use super::super::testing::{V1, V2, lives, stream};
use super::*;

#[test]
fn items_41_and_106_each_status_is_what_envoys_documentation_says() {
    use ClientResourceStatus as Client;
    use ConfigStatus as Config;
    let expected = [
        (Config::NotSent, Client::DoesNotExist, "", None),
        (Config::NotSent, Client::Requested, "", None),
        (Config::NotSent, Client::Acked, V1, None),
        (Config::Stale, Client::Requested, V1, None),
        (Config::Synced, Client::Acked, V1, None),
        (Config::Stale, Client::Acked, V1, None),
        (Config::Error, Client::Nacked, "", Some(V1)),
        (Config::Error, Client::Nacked, V1, Some(V2)),
        (Config::Stale, Client::Acked, V1, Some(V1)),
    ];
    for ((_, record), (config, client, version, rejected)) in lives().into_iter().zip(expected) {
        let shown = secret("default", &record);
        assert_eq!((shown.config_status(), shown.client_status()), (config, client), "{record:?}");
        assert_eq!((&*shown.version_info, &*shown.type_url), (version, SECRET_TYPE), "{record:?}");
        let error = shown.error_state.as_ref();
        assert_eq!(error.map(|error| &*error.version_info), rejected, "{record:?}");
        assert!(error.is_none_or(|error| error.details == "bad: [redacted]" && error.last_update_attempt.is_some()));
    }
}

/// Envoy's own tools read it: the same bytes, by the types that are generated from Envoy's files.
#[test]
fn it_is_envoys_message() {
    use envoy_types::pb::envoy::service::status::v3 as theirs;
    let streams = vec![stream("default", "web-0", &[("default", lives()[7].1.clone())])];
    let ours = responses(streams, &[]).unwrap().remove(0);
    let theirs = theirs::ClientStatusResponse::decode(ours.encode_to_vec().as_slice()).unwrap();
    let client = &theirs.config[0];
    let node = client.node.as_ref().unwrap();
    assert_eq!((&*node.id, &*node.cluster), ("web-0", "web"));
    let secret = &client.generic_xds_configs[0];
    assert_eq!((&*secret.name, &*secret.version_info, &*secret.type_url), ("default", V1, SECRET_TYPE));
    assert_eq!(secret.config_status().as_str_name(), "ERROR");
    assert_eq!(secret.client_status().as_str_name(), "NACKED");
    assert_eq!(secret.last_updated.as_ref().unwrap().seconds, 11);
    assert_eq!(secret.xds_config, None, "no content");
    let error = secret.error_state.as_ref().unwrap();
    assert_eq!((&*error.details, &*error.version_info), ("bad: [redacted]", V2));
    assert_eq!(error.last_update_attempt.as_ref().unwrap().seconds, 21);
    assert_eq!(theirs.encoded_len(), ours.encoded_len(), "nothing was unknown to them");

    use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
    let pattern = matcher::string_matcher::MatchPattern::Suffix("-0".to_owned());
    let node_id = matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: true };
    let node_matchers = vec![matcher::NodeMatcher { node_id: Some(node_id), ..Default::default() }];
    let asked =
        envoy_types::pb::envoy::service::status::v3::ClientStatusRequest { node_matchers, ..Default::default() };
    let asked = ClientStatusRequest::decode(asked.encode_to_vec().as_slice()).unwrap();
    let by = asked.node_matchers[0].node_id.as_ref().unwrap();
    assert_eq!((&by.match_pattern, by.ignore_case), (&Some(MatchPattern::Suffix("-0".to_owned())), true));
}

#[test]
fn a_client_is_a_node_id_of_one_proxy() {
    let acked = lives()[4].1.clone();
    let streams = vec![
        stream("other", "web-0", &[("default", acked.clone())]),
        stream("default", "web-0", &[("default", acked.clone())]),
        stream("default", "api-0", &[("default", acked.clone())]),
        stream("default", "web-0", &[("ROOTCA", acked)]),
    ];
    let clients = responses(streams, &[]).unwrap().remove(0).config;
    let shown: Vec<(String, usize)> =
        clients.into_iter().map(|client| (client.node.unwrap().id, client.generic_xds_configs.len())).collect();
    assert_eq!(shown, [("api-0".to_owned(), 1), ("web-0".to_owned(), 2), ("web-0".to_owned(), 1)]);
    assert_eq!(responses(Vec::new(), &[]).unwrap(), [ClientStatusResponse::default()]);
}

#[test]
fn no_name_looks_like_another() {
    let record = lives()[4].1.clone();
    let streams = vec![stream("default", "web\u{202e}0-", &[("def\u{200b}ault", record)])];
    let client = responses(streams, &[]).unwrap().remove(0).config.remove(0);
    assert_eq!(client.node.unwrap().id, "web\\u{202e}0-");
    assert_eq!(client.generic_xds_configs[0].name, "def\\u{200b}ault");
}

fn by(pattern: MatchPattern, ignore_case: bool) -> NodeMatcher {
    let node_id = Some(StringMatcher { ignore_case, match_pattern: Some(pattern) });
    NodeMatcher { node_id, node_metadatas: Vec::new() }
}

#[test]
fn clients_are_matched_as_asked_for_or_not_at_all() {
    let streams: Vec<_> = ["web-0", "web-1", "api-0"].map(|name| stream("default", name, &[])).into();
    let found = |matchers: &[NodeMatcher]| {
        let clients = responses(streams.clone(), matchers)?.remove(0).config;
        Ok::<_, Status>(clients.into_iter().map(|client| client.node.unwrap().id).collect::<Vec<_>>())
    };
    for (matchers, expected) in [
        (vec![by(MatchPattern::Exact("web-0".to_owned()), false)], vec!["web-0"]),
        (vec![by(MatchPattern::Exact("WEB-0".to_owned()), false)], vec![]),
        (vec![by(MatchPattern::Exact("WEB-0".to_owned()), true)], vec!["web-0"]),
        (vec![by(MatchPattern::Prefix("web".to_owned()), false)], vec!["web-0", "web-1"]),
        (vec![by(MatchPattern::Contains("b-".to_owned()), false)], vec!["web-0", "web-1"]),
        (
            vec![by(MatchPattern::Suffix("-0".to_owned()), false), by(MatchPattern::Exact("web-1".to_owned()), false)],
            vec!["api-0", "web-0", "web-1"],
        ),
    ] {
        assert_eq!(found(&matchers).unwrap(), expected, "{matchers:?}");
    }
    let exact = by(MatchPattern::Exact("web-0".to_owned()), false);
    for matchers in [
        vec![NodeMatcher::default()],
        vec![NodeMatcher { node_id: Some(StringMatcher::default()), ..NodeMatcher::default() }],
        vec![by(MatchPattern::SafeRegex(RegexMatcher {}), false)],
        vec![NodeMatcher { node_metadatas: vec![StructMatcher {}], ..exact.clone() }],
        vec![exact, NodeMatcher::default()],
    ] {
        assert_eq!(found(&matchers).unwrap_err().code(), tonic::Code::InvalidArgument, "{matchers:?}");
    }
}

#[test]
fn many_clients_are_spread_over_responses_that_others_accept() {
    let record = lives()[7].1.clone();
    let names: Vec<(String, NameRecord)> = (0..8).map(|i| (format!("{i:01000}"), record.clone())).collect();
    let names: Vec<(&str, NameRecord)> = names.iter().map(|(name, record)| (&**name, record.clone())).collect();
    let streams: Vec<_> = (0..1000).map(|i| stream("default", &format!("web-{i}"), &names)).collect();
    let responses = responses(streams, &[]).unwrap();
    assert!(responses.len() > 1);
    assert_eq!(responses.iter().map(|response| response.config.len()).sum::<usize>(), 1000);
    assert!(responses.iter().all(|response| response.encoded_len() < 4 << 20));
}
