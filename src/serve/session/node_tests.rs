//! What a stream keeps of its client's node.

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use futures::StreamExt;
use http_body_util::StreamBody;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::identify::NodeClaim;
use crate::serve::ServeSettings;
use crate::serve::client_testing::{call, framed, full_node, request};
use crate::serve::open;
use crate::serve::state::sotw;
use crate::serve::testing::TestServer;

#[tokio::test]
async fn item_8_a_node_of_61_kb_in_each_request_leaves_its_id_and_cluster_behind() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    let (requests, outgoing) = mpsc::channel(64);
    let frames = ReceiverStream::new(outgoing).map(|data| Ok::<_, Status>(http_body::Frame::data(data)));
    let (parts, ()) = call("StreamSecrets", "web").body(()).unwrap().into_parts();
    let shared = server.service.shared();
    let opened = open::open(&shared, &parts).await.unwrap();
    let body = Body::new(StreamBody::new(frames));
    let mut session = Session::<sotw::State>::new(shared, opened, body, Door::Dedicated);
    let names = ["default", "ROOTCA", "x"];
    for round in 0..3 {
        let bytes = framed(&DiscoveryRequest { node: full_node(), ..request(&names[..=round]) });
        // As HTTP/2 cuts it.
        for piece in bytes.chunks(16 << 10) {
            requests.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        server.issue();
        session.next().await.unwrap().unwrap();

        let Phase::Live(live) = &session.inner.phase else { panic!("it is live") };
        // All fields, so that a new one is looked at here.
        let NodeClaim { id, cluster, plain_trust } = &live.client.claim;
        assert_eq!((&**id, &**cluster, plain_trust), ("proxy-0", "web", &false));
        assert!(id.capacity() + cluster.capacity() < 64);
        assert_eq!(session.inner.inbound.capacity(), 0, "not even the room for it");
        // Whatever else there is: the state of the stream, and what operators see of it.
        for text in [format!("{session:?}"), format!("{:?}", server.service.roster().snapshot())] {
            assert!(text.contains("proxy-0") && !text.contains("some_extension"), "{text}");
        }
    }
}
