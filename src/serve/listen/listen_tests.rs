//! Listeners, over real sockets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use rcgen::SanType;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint as ClientEndpoint;

use super::*;
use crate::serve::ServeSettings;
use crate::serve::client_testing::eventually;
use crate::serve::testing::{Ca, TestServer, ca};

/// Opens a stream over `io` and subscribes to `default`.
async fn subscribe<IO>(io: IO) -> (mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Some(TokioIo::new(io));
    let connector = tower::service_fn(move |_| {
        let io = io.take().ok_or_else(|| io::Error::other("one connection only"));
        async move { io }
    });
    let channel = ClientEndpoint::from_static("http://sds").connect_with_connector(connector).await.unwrap();
    let (requests, outgoing) = mpsc::channel(4);
    let node = Some(Node { id: "proxy-0".to_owned(), ..Default::default() });
    let first = DiscoveryRequest { node, resource_names: vec!["default".to_owned()], ..Default::default() };
    requests.send(first).await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let responses = client.stream_secrets(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    (requests, responses)
}

async fn next(responses: &mut Streaming<DiscoveryResponse>) -> DiscoveryResponse {
    let message = tokio::time::timeout(Duration::from_secs(10), responses.message()).await;
    message.expect("soon").unwrap().expect("a response")
}

#[tokio::test]
async fn item_14_a_unix_socket_and_its_peer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sds.sock");
    let endpoint = Endpoint::Unix { path: path.clone(), mode: 0o600 };
    let server = TestServer::start(ServeSettings::default(), &[ListenerSettings { endpoint, tls: None }]).await;
    assert_eq!(server.addresses, [format!("unix:{}", path.display())]);
    server.issue();
    let (_requests, mut responses) = subscribe(UnixStream::connect(&path).await.unwrap()).await;
    next(&mut responses).await;
    let peer = server.authenticate.seen.lock().unwrap()[0].unix_peer.unwrap();
    assert_eq!(peer.pid, Some(i32::try_from(std::process::id()).unwrap()));
    assert!(server.tasks.stop(Duration::from_secs(8)).await);
    assert!(!path.exists(), "the socket file goes with the server");
}

/// Writes a server certificate of `ca`; the new files replace the old ones, as a mount does it.
fn write(folder: &Path, ca: &Ca) -> TlsFiles {
    let (certificate, key) = ca.leaf(vec![SanType::DnsName("sds".try_into().unwrap())]);
    let replace = |name: &str, content: &str| {
        let (path, next) = (folder.join(name), folder.join("next"));
        std::fs::write(&next, content).unwrap();
        std::fs::rename(&next, &path).unwrap();
        path
    };
    TlsFiles {
        private_key: replace("tls.key", &key),
        certificate: replace("tls.crt", &certificate.pem()),
        client_ca: Some(folder.join("client-ca.crt")),
        client_crl: None,
    }
}

async fn connect(
    address: &str,
    trusted: &Ca,
    client: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("sds").unwrap(), stream).await
}

fn client_certificate(ca: &Ca) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let (certificate, key) = ca.leaf(vec![SanType::URI("spiffe://default/web".try_into().unwrap())]);
    (certificate.der().clone(), PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
}

#[tokio::test]
async fn tls_and_its_reload_without_dropping_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new, clients) = (ca("old CA"), ca("new CA"), ca("client CA"));
    std::fs::write(folder.path().join("client-ca.crt"), clients.certificate.pem()).unwrap();
    let tls = Some(write(folder.path(), &old));
    let settings = ListenerSettings { endpoint: Endpoint::Tcp("127.0.0.1:0".to_owned()), tls };
    let server = TestServer::start(ServeSettings::default(), &[settings]).await;
    let address = server.addresses[0].clone();

    server.issue();
    let (certificate, key) = client_certificate(&clients);
    let io = connect(&address, &old, Some((certificate.clone(), key))).await.unwrap();
    let (_requests, mut responses) = subscribe(io).await;
    next(&mut responses).await;
    let shown = server.authenticate.seen.lock().unwrap()[0].client_certificate.clone().unwrap();
    assert_eq!(shown.certificates(), [certificate]);

    // Without a client certificate the handshake is fine: who it is, others decide.
    connect(&address, &old, None).await.unwrap();
    // With one of a foreign CA it is not; in TLS 1.3 the client learns it when it first reads.
    let mut foreign = connect(&address, &old, Some(client_certificate(&new))).await.unwrap();
    foreign.read_u8().await.unwrap_err();

    // A certificate that the key does not belong to changes nothing.
    let elsewhere = tempfile::tempdir_in(folder.path()).unwrap();
    std::fs::rename(write(elsewhere.path(), &new).certificate, folder.path().join("tls.crt")).unwrap();
    eventually(|| server.metrics().contains("tls_files_broken 1")).await;
    connect(&address, &old, None).await.unwrap();

    write(folder.path(), &new);
    let reloaded = async {
        while connect(&address, &new, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reloaded).await.expect("new connections see the new certificate");
    server.issue();
    next(&mut responses).await;
}

#[tokio::test]
async fn revocation_lists_are_read_again_for_those_who_come_and_those_who_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, clients) = (ca("CA"), ca("client CA"));
    let crl = folder.path().join("client.crl");
    let replace = |text: &str| {
        std::fs::write(folder.path().join("next"), text).unwrap();
        std::fs::rename(folder.path().join("next"), &crl).unwrap();
    };
    std::fs::write(folder.path().join("client-ca.crt"), clients.certificate.pem()).unwrap();
    replace(&clients.crl(&[]));
    let tls = Some(TlsFiles { client_crl: Some(crl.clone()), ..write(folder.path(), &ca) });
    let settings = ListenerSettings { endpoint: Endpoint::Tcp("127.0.0.1:0".to_owned()), tls };
    let server = TestServer::start(ServeSettings::default(), &[settings]).await;
    let address = server.addresses[0].clone();
    server.issue();
    let (certificate, key) = client_certificate(&clients);
    let io = connect(&address, &ca, Some((certificate.clone(), key.clone_key()))).await.unwrap();
    let (_requests, mut responses) = subscribe(io).await;
    next(&mut responses).await;
    let shown = server.authenticate.seen.lock().unwrap()[0].client_certificate.clone().unwrap();
    let mut judge = shown.client_ca().clone();
    let chain = [certificate.clone()];
    let accepts = |judge: &crate::identify::client_ca::ClientCaWatch| {
        judge.borrow().verify(&chain, Clock::system().now()).map(drop)
    };
    accepts(&judge).unwrap();

    replace(&clients.crl(&[&certificate]));
    let changed = tokio::time::timeout(Duration::from_secs(10), judge.changed()).await;
    changed.expect("those who are there hear of it").unwrap();
    accepts(&judge).unwrap_err();
    if let Ok(mut revoked) = connect(&address, &ca, Some((certificate.clone(), key.clone_key()))).await {
        revoked.read_u8().await.unwrap_err();
    }

    // What is no list, or one whose signature is not good, changes nothing and is told.
    let mut forged = pem::parse(clients.crl(&[])).unwrap().into_contents();
    *forged.last_mut().unwrap() ^= 1;
    for broken in ["", &pem::encode(&pem::Pem::new("X509 CRL", forged))] {
        replace(broken);
        eventually(|| server.metrics().contains("tls_files_broken 1")).await;
        replace(&clients.crl(&[&certificate]));
        eventually(|| server.metrics().contains("tls_files_broken 0")).await;
        accepts(&judge).unwrap_err();
    }
    judge.mark_unchanged();
    replace(&clients.crl(&[]));
    judge.changed().await.unwrap();
    accepts(&judge).unwrap();
    connect(&address, &ca, Some((certificate, key))).await.unwrap();

    // A CA that is taken out is out, though its list is still there and its successor has its name.
    let successor = self::ca("client CA");
    judge.mark_unchanged();
    std::fs::write(folder.path().join("next"), successor.certificate.pem()).unwrap();
    std::fs::rename(folder.path().join("next"), folder.path().join("client-ca.crt")).unwrap();
    let changed = tokio::time::timeout(Duration::from_secs(10), judge.changed()).await;
    changed.expect("those who are there hear of it").unwrap();
    accepts(&judge).unwrap_err();
}

/// The server's own certificate and the lists of its clients' come from different people.
#[tokio::test]
async fn a_broken_certificate_holds_no_list_back_nor_a_broken_list_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new, clients) = (ca("old CA"), ca("new CA"), ca("client CA"));
    let replace = |name: &str, text: &str| {
        std::fs::write(folder.path().join("next"), text).unwrap();
        std::fs::rename(folder.path().join("next"), folder.path().join(name)).unwrap();
    };
    replace("client-ca.crt", &clients.certificate.pem());
    replace("client.crl", &clients.crl(&[]));
    let crl = Some(folder.path().join("client.crl"));
    let tls = Some(TlsFiles { client_crl: crl, ..write(folder.path(), &old) });
    let settings = ListenerSettings { endpoint: Endpoint::Tcp("127.0.0.1:0".to_owned()), tls };
    let server = TestServer::start(ServeSettings::default(), &[settings]).await;
    let address = server.addresses[0].clone();
    let mut problems = server.problems[0].clone();
    let mut told = async |expected: &[&str]| {
        let are_there = |problems: &Arc<Vec<Problem>>| {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            texts.len() == expected.len() && texts.iter().zip(expected).all(|(text, part)| text.contains(part))
        };
        let told = tokio::time::timeout(Duration::from_secs(10), problems.wait_for(are_there)).await;
        assert!(told.is_ok(), "{expected:?}: {:?}", server.problems[0].borrow());
    };
    told(&[]).await;

    let (certificate, key) = client_certificate(&clients);
    replace("tls.crt", "rubbish");
    told(&["tls.crt"]).await;
    replace("client.crl", &clients.crl(&[&certificate]));
    let is_revoked = async || match connect(&address, &old, Some((certificate.clone(), key.clone_key()))).await {
        Ok(mut revoked) => revoked.read_u8().await.is_err(),
        Err(_) => true,
    };
    let revoked = async {
        // Who is not revoked is not told anything either, until it speaks.
        while !tokio::time::timeout(Duration::from_millis(500), is_revoked()).await.unwrap_or(false) {}
    };
    tokio::time::timeout(Duration::from_secs(10), revoked).await.expect("the list counts");

    replace("client.crl", "rubbish");
    told(&["tls.crt", "client.crl"]).await;
    write(folder.path(), &new);
    told(&["client.crl"]).await;
    connect(&address, &new, None).await.unwrap();
    assert!(server.metrics().contains("tls_files_broken 1"));
    replace("client.crl", &(clients.crl(&[]) + &ca("nobody").crl(&[])));
    told(&["no CA in clientCa has signed"]).await;
    eventually(|| server.metrics().contains("tls_files_broken 0")).await;
    replace("client.crl", &clients.crl(&[]));
    told(&[]).await;
}

/// For people, in `/readyz`; also one that ends while the server runs.
#[tokio::test]
async fn revocation_lists_that_have_ended_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, clients) = (ca("CA"), ca("client CA"));
    let replace = |text: &str| {
        std::fs::write(folder.path().join("next"), text).unwrap();
        std::fs::rename(folder.path().join("next"), folder.path().join("client.crl")).unwrap();
    };
    std::fs::write(folder.path().join("client-ca.crt"), clients.certificate.pem()).unwrap();
    replace(&clients.crl_until(time::OffsetDateTime::UNIX_EPOCH + time::Duration::DAY, &[]));
    let crl = folder.path().join("client.crl");
    let files = TlsFiles { client_crl: Some(crl.clone()), ..write(folder.path(), &ca) };
    let has_ended = |problems: &[Problem]| {
        problems.len() == 1 && {
            let told = problems[0].to_string();
            told.contains(crl.to_str().unwrap()) && told.contains("client CA has ended") && told.contains("refused")
        }
    };
    let checked = check(&files, &Clock::system());
    assert!(checked.problems.is_empty() && has_ended(&checked.warnings), "{checked:?}");
    let settings = ListenerSettings { endpoint: Endpoint::Tcp("127.0.0.1:0".to_owned()), tls: Some(files) };
    let server = TestServer::start(ServeSettings::default(), &[settings]).await;
    let mut problems = server.problems[0].clone();
    assert!(has_ended(&problems.borrow()), "{:?}", problems.borrow());
    let mut becomes = async |ended: bool| {
        let is_it = |problems: &Arc<Vec<Problem>>| if ended { has_ended(problems) } else { problems.is_empty() };
        let told = tokio::time::timeout(Duration::from_secs(20), problems.wait_for(is_it)).await;
        assert!(told.is_ok(), "{ended}: {:?}", server.problems[0].borrow());
    };
    replace(&clients.crl(&[]));
    becomes(false).await;
    let soon = time::OffsetDateTime::from_unix_timestamp(Clock::system().now().as_second() + 4).unwrap();
    replace(&clients.crl_until(soon, &[]));
    becomes(true).await;
}

#[tokio::test]
async fn handshakes_that_fail_are_counted_and_who_fails_for_a_certificate_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, clients, stranger) = (ca("CA"), ca("client CA"), ca("CA of a stranger"));
    std::fs::write(folder.path().join("client-ca.crt"), clients.certificate.pem()).unwrap();
    let tls = Some(write(folder.path(), &ca));
    let settings = ListenerSettings { endpoint: Endpoint::Tcp("127.0.0.1:0".to_owned()), tls };
    let server = TestServer::start(ServeSettings::default(), &[settings]).await;
    let address = server.addresses[0].as_str();

    connect(address, &stranger, None).await.unwrap_err();
    let mut refused = connect(address, &ca, Some(client_certificate(&stranger))).await.unwrap();
    refused.read_u8().await.unwrap_err();
    drop(TcpStream::connect(address).await.unwrap());
    let mut rude = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut rude, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    for reason in ["server_certificate", "client_certificate", "closed", "other"] {
        let line = format!("tls_handshakes_failed_total{{reason=\"{reason}\"}} 1\n");
        eventually(|| server.metrics().contains(&line)).await;
    }
    let remembered = server.service.refusals().snapshot();
    let mut remembered: Vec<_> = remembered.iter().map(|refused| (refused.method, &*refused.reason)).collect();
    remembered.sort_unstable();
    let of_client = "in TLS, its client certificate is not accepted: no CA in clientCa has issued it";
    let of_server = "in TLS, it does not accept this server's certificate: alert UnknownCA";
    assert_eq!(remembered, [(None, of_server), (Some("clientCertificate"), of_client)]);
}

#[tokio::test]
async fn handshakes_that_are_not_made_make_way_for_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let ca = ca("CA");
    let mut files = write(folder.path(), &ca);
    files.client_ca = None;
    let settings = ListenerSettings { endpoint: Endpoint::Tcp("127.0.0.1:0".to_owned()), tls: Some(files) };
    let server = TestServer::start(ServeSettings::default(), &[settings]).await;
    let mut mute = Vec::new();
    for _ in 0..handshakes::HANDSHAKES {
        mute.push(TcpStream::connect(&server.addresses[0]).await.unwrap());
    }
    // Whoever comes then is neither turned away nor kept waiting until the others are out of time.
    let further = connect(&server.addresses[0], &ca, None);
    tokio::time::timeout(Duration::from_secs(5), further).await.expect("it waits for a moment").unwrap();
    eventually(|| server.metrics().contains("tls_handshakes_given_up_total 1")).await;
}

#[tokio::test]
async fn peers_that_say_nothing_or_nonsense_hold_nobody_up() {
    let server = TestServer::start(ServeSettings::default(), &[crate::serve::testing::tcp()]).await;
    let address = &server.addresses[0];
    let _mute = TcpStream::connect(address).await.unwrap();
    let mut rude = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut rude, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(rude);
    let channel = ClientEndpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let refused = client.fetch_secrets(DiscoveryRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn what_cannot_be_bound_is_told() {
    let clock = Clock::system();
    let tcp = |address: &str, tls| ListenerSettings { endpoint: Endpoint::Tcp(address.to_owned()), tls };
    let error = bind(&[tcp("no-such-host.invalid:1", None)], &clock).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot listen at no-such-host.invalid:1: "), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let mut files = write(folder.path(), &ca("CA"));
    let error = bind(&[tcp("127.0.0.1:0", Some(files.clone()))], &clock).await.unwrap_err();
    assert!(error.to_string().contains("client-ca.crt"), "{error}");
    files.client_ca = None;
    bind(&[tcp("127.0.0.1:0", Some(files.clone()))], &clock).await.unwrap();
    std::fs::write(&files.private_key, ca("another").leaf(Vec::new()).1).unwrap();
    let error = bind(&[tcp("127.0.0.1:0", Some(files))], &clock).await.unwrap_err();
    assert!(matches!(error, BindError::Tls { source: TlsError::Pair { .. }, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_lack_of_file_descriptors_is_waited_out() {
    let pause = async |error: io::Error| {
        let before = tokio::time::Instant::now();
        accept_failed(&error).await;
        before.elapsed()
    };
    const EMFILE: i32 = 24;
    assert!(pause(io::Error::from_raw_os_error(EMFILE)).await > Duration::from_millis(100));
    assert_eq!(pause(io::ErrorKind::ConnectionAborted.into()).await, Duration::ZERO);
}
