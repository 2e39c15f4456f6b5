use h2::server;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::load::plan::tests::plan;
use crate::load::results::{FailureCount, Results};
use crate::load::{Plan, Target};
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

/// What a run against a server is that allows so many streams at a time on a connection, and answers none. It is ended when as many
/// are open as it has in all.
async fn ran(plan: Plan, allowed: u32) -> Results {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Tcp("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
    let (open, mut opened) = watch::channel(0);
    let (tasks, _deaths) = Tasks::new();
    let tasks = &tasks;
    let all = plan.proxies * plan.streams_each();
    let server = async move {
        while let Ok((io, _)) = listener.accept().await {
            let open = open.clone();
            let mut http = server::Builder::new();
            let accepting = http.max_concurrent_streams(allowed).handshake::<_, Bytes>(io);
            tasks.spawn(async move {
                let (mut accepting, mut streams) = (accepting.await.unwrap(), Vec::new());
                while let Some(Ok(stream)) = accepting.accept().await {
                    streams.push(stream);
                    open.send_modify(|open| *open += 1);
                }
            });
        }
    };
    let stop = async move {
        tokio::select! {
            () = server => {}
            _ = opened.wait_for(|open| *open == all) => {}
        }
    };
    let plan = Plan { target, timeout: Duration::from_secs(60), ..plan };
    crate::load::run(plan, Clock::system(), stop, &mut |_, _| ()).await.unwrap()
}

/// Those that do not fit would wait for ever, and nobody would know for what.
#[tokio::test]
async fn more_streams_than_the_server_allows_are_a_failure_at_once() {
    for reconnect in [false, true] {
        let shared = Plan { connections: Some(1), reconnect, ..plan(3) };
        let results = ran(shared.clone(), 5).await;
        let failure = FailureCount {
            what: "more streams on a connection than the server allows".to_owned(),
            count: 3,
            example: "proxy 0: 6 for 3 proxies, and 5 are allowed at a time; let no more than 2 share a connection (--connections)"
                .to_owned(),
        };
        assert_eq!((results.failures, results.passed), (vec![failure], false), "reconnect: {reconnect}");
        let results = ran(shared, 6).await;
        let [interrupted] = &results.failures[..] else { panic!("{:?}", results.failures) };
        assert_eq!(interrupted.what, "interrupted", "all of them were open");
    }
}

#[test]
fn who_needs_more_streams_than_are_allowed_is_told_what_helps() {
    let said = |needed, proxies, allowed| too_many(needed, proxies, allowed).detail;
    assert!(said(2000, 1000, 1024).ends_with("let no more than 512 share a connection (--connections)"));
    assert!(said(2000, 1000, 2).ends_with("let no more than 1 share a connection (--connections)"));
    assert!(said(2000, 1000, 1).ends_with("(--one-stream)"));
    assert!(said(2, 1, 1).ends_with("(--one-stream)"));
}

/// The first failure of a run of one proxy against a server that answers every connection with these bytes.
async fn answered(plan: Plan, bytes: &[u8]) -> (String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Tcp("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
    let mut held = Vec::new();
    let server = async {
        while let Ok((mut io, _)) = listener.accept().await {
            io.write_all(bytes).await.unwrap();
            held.push(io);
        }
    };
    let plan = Plan { target, timeout: Duration::from_secs(60), ..plan };
    let results = crate::load::run(plan, Clock::system(), server, &mut |_, _| ()).await.unwrap();
    let failure = results.failures.into_iter().next().unwrap();
    (failure.what, failure.example)
}

/// The two mistakes that everybody makes, which neither HTTP/2 nor TLS call by their names.
#[tokio::test]
async fn who_speaks_tls_to_a_server_without_or_not_to_one_with_is_asked_about_it() {
    let alert = b"\x15\x03\x03\x00\x02\x02\x46";
    let (what, example) = answered(plan(1), alert).await;
    assert!(
        what == "connection lost" && example.ends_with("; does the server want TLS (--tls-ca)?"),
        "{what}: {example}"
    );

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let (what, example) = answered(Plan { tls: Some(vec![Arc::new(config)]), ..plan(1) }, settings).await;
    assert_eq!(what, "cannot connect: TLS handshake failed");
    assert!(example.ends_with("; does the server speak TLS there?"), "{example}");
}
