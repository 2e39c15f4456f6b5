//! What a failure is counted as, what is remembered, and when the log tells.

use prometheus_client::registry::Registry;
use rustls::pki_types::UnixTime;
use rustls::{CertRevocationListError, InvalidMessage, PeerIncompatible};

use super::*;

fn of_tls(error: impl Into<Error>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.into())
}

#[test]
fn a_failure_is_whose_certificate_was_refused_or_nobodys() {
    use HandshakeFailure::{ClientCertificate, Closed, Other, ServerCertificate};
    let expired = |time: u64| {
        let (time, not_after) = (Duration::from_secs(time), Duration::from_secs(1));
        let [time, not_after] = [time, not_after].map(UnixTime::since_unix_epoch);
        of_tls(CertificateError::ExpiredContext { time, not_after })
    };
    let alert = |alert| of_tls(Error::AlertReceived(alert));
    for (error, failure, text) in [
        (alert(AlertDescription::UnknownCA), ServerCertificate, "does not accept this server's certificate"),
        // What Envoy says of a name that is another.
        (alert(AlertDescription::CertificateUnknown), ServerCertificate, "alert CertificateUnknown"),
        (alert(AlertDescription::DecryptError), ServerCertificate, "alert DecryptError"),
        (alert(AlertDescription::CertificateExpired), ServerCertificate, "alert CertificateExpired"),
        (alert(AlertDescription::HandshakeFailure), Other, "HandshakeFailure"),
        (of_tls(CertificateError::UnknownIssuer), ClientCertificate, "no CA in clientCa has issued it"),
        (of_tls(CertificateError::Revoked), ClientCertificate, "it is revoked"),
        (of_tls(CertificateError::BadEncoding), ClientCertificate, "BadEncoding"),
        (of_tls(CertRevocationListError::BadSignature), ClientCertificate, "BadSignature"),
        (expired(2), ClientCertificate, "it has ended"),
        (of_tls(InvalidMessage::InvalidContentType), Other, "InvalidContentType"),
        (of_tls(PeerIncompatible::NoCipherSuitesInCommon), Other, "NoCipherSuitesInCommon"),
        (io::ErrorKind::UnexpectedEof.into(), Closed, "end of file"),
        (io::ErrorKind::ConnectionReset.into(), Closed, "reset"),
    ] {
        let (is, said) = why(&error);
        assert!(is == failure && said.contains(text), "{error:?}: {is:?}, {said}");
    }
    // A second later it is the same refusal.
    assert_eq!(why(&expired(2)), why(&expired(3)));
}

#[test]
fn the_first_is_told_at_once_and_then_how_many_once_a_minute() {
    let (mut pace, start) = (Pace::default(), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(pace.count(at(0)), Some(1));
    for second in 1..60 {
        assert_eq!(pace.count(at(second)), None);
    }
    assert_eq!(pace.count(at(60)), Some(60));
    assert_eq!(pace.count(at(61)), None);
    // Those of the last minute are told of with the next one, however late it is.
    assert_eq!(pace.count(at(7200)), Some(2));
    assert_eq!(pace.count(at(7201)), None);
}

#[test]
fn one_reason_does_not_hide_another_and_health_checks_are_told_of_to_nobody() {
    let metrics = Metrics::new(&mut Registry::default());
    let refusals = Refusals::default();
    let failed = FailedHandshakes::new(metrics, refusals.clone(), Clock::system());
    let one: Option<SocketAddr> = Some("192.0.2.1:40000".parse().unwrap());
    let again = Some("192.0.2.1:40001".parse().unwrap());
    failed.failed(one, &io::ErrorKind::UnexpectedEof.into());
    assert!(failed.paces.lock().unwrap().is_empty());
    failed.failed(one, &of_tls(InvalidMessage::InvalidContentType));
    failed.timed_out(one);
    assert!(refusals.snapshot().is_empty(), "they may be no proxies");
    failed.failed(one, &of_tls(CertificateError::Revoked));
    failed.failed(again, &of_tls(CertificateError::Revoked));
    let remembered = refusals.snapshot();
    let [refused] = remembered.as_slice() else { panic!("{remembered:?}") };
    assert_eq!((&*refused.host, refused.method, refused.count), ("192.0.2.1", Some("clientCertificate"), 2));
    let untold = |failure| failed.paces.lock().unwrap().get(&failure).map(|pace: &Pace| pace.untold);
    assert_eq!(untold(HandshakeFailure::Other), Some(0));
    assert_eq!(untold(HandshakeFailure::Timeout), Some(0));
    assert_eq!(untold(HandshakeFailure::ClientCertificate), Some(1));
    assert_eq!(untold(HandshakeFailure::ServerCertificate), None);
}
