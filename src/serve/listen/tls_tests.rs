//! What time does to TLS files, and what does not happen at once.

use prometheus_client::registry::Registry;
use rcgen::SanType;

use super::*;
use crate::serve::testing::ca;
use crate::testing::certs::{LeafOptions, TestCa, timestamp};

const NOW: i64 = 1_800_000_000;

/// The files of a listener whose own certificate ends at `end`, with these client CAs and revocation lists.
fn write(folder: &Path, end: i64, cas: &[&TestCa], crl: &str) -> TlsFiles {
    let (certificate, key) = ca("CA").leaf_until(vec![SanType::DnsName("sds".try_into().unwrap())], timestamp(end));
    let file = |name: &str, content: &str| {
        std::fs::write(folder.join(name), content).unwrap();
        folder.join(name)
    };
    let cas: String = cas.iter().map(|ca| ca.certificate().pem()).collect();
    TlsFiles {
        certificate: file("tls.crt", &certificate.pem()),
        private_key: file("tls.key", &key),
        client_ca: Some(file("client-ca.crt", &cas)),
        client_crl: Some(file("client.crl", crl)),
    }
}

fn metrics() -> Metrics {
    Metrics::new(&mut Registry::default())
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_certificate_or_a_client_ca_is_told_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let (clients, later) = (TestCa::root_until("clients", timestamp(NOW + 50)), timestamp(NOW + 9999));
    let files = write(folder.path(), NOW + 100, &[&clients], &clients.crl(&[], later));
    let clock = Clock::simulated(timestamp(NOW));
    let checked = check(&files, &clock);
    assert!(checked.problems.is_empty() && checked.warnings.is_empty(), "{checked:?}");

    let (tasks, _deaths) = Tasks::new();
    let tls = Tls::load(files.clone(), &clock).unwrap();
    let mut problems = tls.problems();
    let _handshakes = tls.start(&tasks, clock.clone(), metrics(), Refusals::default());
    assert!(problems.borrow_and_update().is_empty());
    for (end, told) in [(NOW + 50, "the CA CN=clients has ended"), (NOW + 100, "the server's certificate has ended")] {
        problems.changed().await.unwrap();
        assert!((end..end + 2).contains(&clock.now().as_second()), "{}", clock.now());
        let problems = problems.borrow_and_update().clone();
        assert_eq!(problems.iter().filter(|problem| problem.to_string().contains(told)).count(), 1, "{problems:?}");
    }
    assert_eq!(problems.borrow().len(), 2);
    let checked = check(&files, &clock);
    assert!(checked.problems.len() == 2 && checked.warnings.is_empty(), "{checked:?}");
    let earlier = check(&files, &Clock::fixed(timestamp(0)));
    assert!(earlier.problems.is_empty() && earlier.warnings.len() == 1, "{earlier:?}");
    tasks.stop(Duration::from_secs(1)).await;
}

/// As while files are read: what has ended in between is seen all the same.
#[tokio::test(start_paused = true)]
async fn an_end_that_passes_while_nobody_waits_for_it_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (clients, later) = (TestCa::root_until("clients", timestamp(NOW + 50)), timestamp(NOW + 9999));
    let files = write(folder.path(), NOW + 60, &[&clients], &clients.crl(&[], later));
    let clock = Clock::simulated(timestamp(NOW));
    let (tasks, _deaths) = Tasks::new();
    let tls = Tls::load(files, &clock).unwrap();
    let mut problems = tls.problems();
    let judges = watch::Sender::new(tls.clients.made().clone().unwrap());
    let mut judge = judges.subscribe();
    tokio::time::advance(Duration::from_secs(100)).await;
    tasks.spawn_essential("tls files", tls.keep_current(Some(judges), clock.clone(), metrics()));
    let judged = tokio::time::timeout(Duration::from_secs(10), judge.changed()).await;
    judged.expect("streams are judged anew").unwrap();
    drop(problems.wait_for(|problems| problems.len() == 2).await.unwrap());
    assert!((NOW + 100..NOW + 102).contains(&clock.now().as_second()), "{}", clock.now());
    tasks.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_file_that_has_lost_a_list_is_believed_when_it_has_stayed_so() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other, later) = (TestCa::root("one"), TestCa::root("other"), timestamp(NOW + 9999));
    let web = other.leaf(&LeafOptions { uris: Some(vec!["spiffe://prod/web".to_owned()]), ..LeafOptions::default() });
    let (first, second) = (one.crl(&[], later), other.crl(&[&web], later));
    let files = write(folder.path(), NOW + 100, &[&one, &other], &(first.clone() + &second));
    let crl = files.client_crl.clone().unwrap();
    let clock = Clock::fixed(timestamp(NOW));

    let (tasks, _deaths) = Tasks::new();
    let tls = Tls::load(files, &clock).unwrap();
    let mut problems = tls.problems();
    let judges = watch::Sender::new(tls.clients.made().clone().unwrap());
    let judge = judges.subscribe();
    tasks.spawn_essential("tls files", tls.keep_current(Some(judges), clock, metrics()));
    let verdict = || judge.borrow().verify(&[web.der().clone()], timestamp(NOW));
    verdict().unwrap_err();

    // In place, as an editor or `cp` does it, who may take a while for the rest.
    std::fs::write(&crl, &first).unwrap();
    let is_told = |problems: &Arc<Vec<Problem>>| problems.iter().any(|told| told.what.contains("not there any more"));
    let told = tokio::time::timeout(Duration::from_secs(10), problems.wait_for(is_told)).await;
    drop(told.expect("it is told").unwrap());
    assert!(verdict().unwrap_err().contains("Revoked"));
    tokio::time::pause();
    drop(problems.wait_for(|problems| problems.is_empty()).await.unwrap());
    verdict().unwrap();
    tasks.stop(Duration::from_secs(1)).await;
}
