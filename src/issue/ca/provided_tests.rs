use std::path::PathBuf;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
use tokio::sync::mpsc;

use super::super::local::offset;
use super::*;
use crate::issue::ca::{Authorities, AuthoritySource};
use crate::model::policy::{Backend, BackendKind};
use crate::model::secrets::{ClusterSecrets, MeshSecrets};
use crate::testing::certs::timestamp;

const NOW: i64 = 1_800_000_000;

/// The PEM texts of a self-signed CA and of its key.
struct Pair {
    certificate: String,
    key: String,
}

fn pair(name: &str, until: i64) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (offset(timestamp(NOW - 1_000)), offset(timestamp(until)));
    Pair { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn secrets(content: &[(&str, &str)]) -> Arc<MeshSecrets> {
    let secret =
        |(name, text): &(&str, &str)| (("default".into(), (*name).into()), SecretBytes::new(text.as_bytes().to_vec()));
    Arc::new(content.iter().map(secret).collect())
}

/// A CA from files in a folder, or from mesh Secrets.
struct Rig {
    folder: tempfile::TempDir,
    secrets: watch::Sender<Arc<KnownSecrets>>,
    clock: Clock,
}

impl Rig {
    fn new(clock: Clock) -> Self {
        let (secrets, _) = watch::channel(Arc::new(KnownSecrets::default()));
        Self { folder: tempfile::tempdir().unwrap(), secrets, clock }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let next = self.path("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.path(name)).unwrap();
    }

    fn in_files(&self) -> Provided {
        self.of(DataSource::File(self.path("ca.crt")), DataSource::File(self.path("ca.key")))
    }

    fn in_secrets(&self) -> Provided {
        self.of(DataSource::Secret("crt".into()), DataSource::Secret("key".into()))
    }

    fn of(&self, certificate: DataSource, private_key: DataSource) -> Provided {
        let sources = ProvidedCa { certificate, private_key, allow_self_signed: true };
        let surroundings = Surroundings {
            secrets: self.secrets.subscribe(),
            files: Arc::new(FileWatch::new()),
            clock: self.clock.clone(),
        };
        Provided::new("default".into(), sources, surroundings)
    }
}

fn anchor(given: &Given) -> &str {
    given.anchor.as_ref().map_or("none", Certificate::subject)
}

async fn signs(ca: &Provided) -> Result<String, CaError> {
    let request = SigningRequest {
        mesh: "default".into(),
        proxy: "web-0".into(),
        spiffe_id: "spiffe://default/web".into(),
        lifetime: None,
        request_timeout: Duration::from_secs(10),
    };
    ca.sign(request).await.map(|signed| signed.chain.certificates[0].issuer().to_owned())
}

#[tokio::test]
async fn a_pair_that_is_replaced_one_file_after_the_other_is_never_half_used() {
    let rig = Rig::new(Clock::fixed(timestamp(NOW)));
    let (old, new) = (pair("Old", NOW + 5_000), pair("New", NOW + 9_000));
    rig.write("ca.crt", &old.certificate);
    rig.write("ca.key", &old.key);
    let ca = rig.in_files();
    assert_eq!((signs(&ca).await.unwrap().as_str(), ca.trouble()), ("CN=Old", None));
    rig.write("ca.crt", &new.certificate);
    let given = ca.look();
    assert_eq!((anchor(&given), signs(&ca).await.unwrap().as_str()), ("CN=Old", "CN=Old"));
    let trouble = given.trouble.unwrap();
    let path = rig.path("ca.key").display().to_string();
    for part in [&*path, "is not the private key", "CN=New", "signs until"] {
        assert!(trouble.contains(part), "{trouble}: {part}");
    }
    assert_eq!(ca.trouble(), Some(trouble));
    rig.write("ca.key", &new.key);
    let given = ca.look();
    assert_eq!((anchor(&given), &given.trouble), ("CN=New", &None));
    assert_eq!((signs(&ca).await.unwrap().as_str(), ca.trouble()), ("CN=New", None));
}

#[tokio::test]
async fn what_is_bad_keeps_the_last_good_and_no_message_has_a_key_in_it() {
    let rig = Rig::new(Clock::fixed(timestamp(NOW)));
    let (good, expired) = (pair("Good", NOW + 5_000), pair("Expired", NOW - 1));
    let put = |certificate: &str, key: &str| {
        rig.write("ca.crt", certificate);
        rig.write("ca.key", key);
    };
    put(&good.certificate, &good.key);
    let ca = rig.in_files();
    let half_a_key = &good.key[..100];
    for (certificate, key, expected) in [
        (&*expired.certificate, &*expired.key, "expired"),
        ("", &good.key, "no PEM block"),
        (&good.certificate, "", "no PEM block with a private key"),
        (&good.certificate, half_a_key, "no PEM block with a private key"),
        (&good.certificate, &expired.key, "is not the private key"),
        (&good.key, &good.certificate, "no PEM block"),
    ] {
        put(certificate, key);
        let given = ca.look();
        assert_eq!((anchor(&given), signs(&ca).await.unwrap().as_str()), ("CN=Good", "CN=Good"));
        let trouble = given.trouble.unwrap();
        assert!(trouble.contains(expected), "{trouble}: {expected}");
        let secret = good.key.lines().nth(1).unwrap();
        assert!(!trouble.contains(&secret[..16]) && !format!("{ca:?}").contains(&secret[..16]), "{trouble}");
    }
    put(&good.certificate, "");
    std::fs::remove_file(rig.path("ca.key")).unwrap();
    let trouble = ca.look().trouble.unwrap();
    assert!(trouble.contains("the CA's private key in file") && trouble.contains("No such file"), "{trouble}");
    assert_eq!(signs(&ca).await.unwrap(), "CN=Good");
}

#[tokio::test]
async fn one_that_was_never_good_signs_nothing_and_says_why() {
    let rig = Rig::new(Clock::fixed(timestamp(NOW)));
    let ca = rig.in_files();
    let Err(CaError::Unavailable(reason)) = signs(&ca).await else { panic!("nothing is there") };
    assert!(reason.contains("ca.crt"), "{reason}");
    let good = pair("Good", NOW + 5_000);
    rig.write("ca.crt", &good.certificate);
    rig.write("ca.key", &good.key);
    ca.look();
    assert_eq!(signs(&ca).await.unwrap(), "CN=Good");
}

#[tokio::test]
async fn secrets_that_are_not_listed_yet_are_awaited_and_those_that_are_not_there_are_told() {
    let rig = Rig::new(Clock::fixed(timestamp(NOW)));
    let ca = rig.in_secrets();
    let trouble = ca.look().trouble.unwrap();
    assert!(trouble.contains("in mesh Secret \"crt\": is in no resource file"), "{trouble}");
    let good = pair("Good", NOW + 5_000);
    let set = |cluster: ClusterSecrets| {
        rig.secrets.send_replace(Arc::new(KnownSecrets { cluster, ..KnownSecrets::default() }))
    };
    set(ClusterSecrets::Pending);
    let ca = rig.in_secrets();
    assert_eq!(ca.look(), Given { anchor: None, trouble: None });
    set(ClusterSecrets::Listed(secrets(&[("crt", &good.certificate)])));
    let trouble = ca.look().trouble.unwrap();
    assert!(trouble.contains("Secret \"key\": is neither in a resource file nor in the cluster"), "{trouble}");
    set(ClusterSecrets::Listed(secrets(&[("crt", &good.certificate), ("key", &good.key)])));
    assert_eq!(anchor(&ca.look()), "CN=Good");
    set(ClusterSecrets::Listed(Arc::default()));
    let given = ca.look();
    assert_eq!((anchor(&given), given.trouble.is_some()), ("CN=Good", true));
}

#[tokio::test]
async fn an_environment_variable_that_is_not_set_is_told_by_its_name() {
    let rig = Rig::new(Clock::fixed(timestamp(NOW)));
    let ca = rig.of(DataSource::EnvVar("PATH".into()), DataSource::EnvVar("ENVOY_SDS_NO_SUCH".into()));
    let trouble = ca.look().trouble.unwrap();
    assert!(trouble.contains("the CA's certificate in environment variable PATH: no PEM block"), "{trouble}");
    let good = pair("Good", NOW + 5_000);
    let inline = DataSource::Inline(SecretBytes::new(good.certificate.into_bytes()));
    let ca = rig.of(inline, DataSource::EnvVar("ENVOY_SDS_NO_SUCH".into()));
    let trouble = ca.look().trouble.unwrap();
    assert!(
        trouble.contains("the CA's private key in environment variable ENVOY_SDS_NO_SUCH: is not set"),
        "{trouble}"
    );
    // What can be no name is not told, as it may be the key.
    for source in [DataSource::EnvVar(good.key.as_str().into()), DataSource::File(good.key.as_str().into())] {
        let trouble = rig.of(source.clone(), source).trouble().unwrap();
        assert!(!trouble.contains("PRIVATE") && !trouble.contains(good.key.lines().nth(1).unwrap()), "{trouble}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_followed_wherever_it_lies_and_its_end_is_noticed() {
    let rig = Rig::new(Clock::simulated(timestamp(NOW)));
    let (first, second) = (pair("First", NOW + 100), pair("Second", NOW + 90_000));
    let put = |pair: &Pair| {
        let files = secrets(&[("crt", &pair.certificate), ("key", &pair.key)]);
        rig.secrets.send_replace(Arc::new(KnownSecrets { files, ..KnownSecrets::default() }));
    };
    put(&first);
    let ca = Arc::new(rig.in_secrets());
    let (tell, mut told) = mpsc::unbounded_channel();
    let followed = async {
        ca.follow(|given| tell.send(given).unwrap()).await;
    };
    let watched = async {
        let given = told.recv().await.unwrap();
        assert_eq!((anchor(&given), &given.trouble), ("CN=First", &None));
        let ended = loop {
            let given = told.recv().await.unwrap();
            if given.trouble.is_some() {
                break given;
            }
        };
        assert!(rig.clock.now() > timestamp(NOW + 100) && ended.trouble.unwrap().contains("expired"));
        assert!(matches!(signs(&ca).await, Err(CaError::Failed(_))), "an ended CA signs nothing");
        put(&second);
        let given = loop {
            let given = told.recv().await.unwrap();
            if given.trouble.is_none() {
                break given;
            }
        };
        assert_eq!(anchor(&given), "CN=Second");
        assert_eq!(signs(&ca).await.unwrap(), "CN=Second");
    };
    tokio::select! {
        () = followed => panic!("it does not end by itself"),
        () = watched => {}
    }
}

#[tokio::test]
async fn one_that_nobody_follows_is_looked_at_when_it_signs() {
    let rig = Rig::new(Clock::fixed(timestamp(NOW)));
    let put = |pair: &Pair| {
        rig.write("ca.crt", &pair.certificate);
        rig.write("ca.key", &pair.key);
    };
    put(&pair("Old", NOW + 5_000));
    let ca = rig.in_files();
    put(&pair("New", NOW + 9_000));
    assert_eq!(signs(&ca).await.unwrap(), "CN=New");
}

#[tokio::test]
async fn the_one_in_force_and_one_that_is_tried_out_are_two() {
    let rig = Rig::new(Clock::fixed(timestamp(NOW)));
    let authorities = Authorities::new(rig.path("state"), None, rig.secrets.subscribe(), rig.clock.clone());
    let backend = |certificate: &str| Backend {
        name: "ours".into(),
        leaf_lifetime: None,
        request_timeout: Duration::from_secs(10),
        trust_domain: "default".into(),
        kind: BackendKind::Provided(ProvidedCa {
            certificate: DataSource::File(rig.path(certificate)),
            private_key: DataSource::File(rig.path("ca.key")),
            allow_self_signed: true,
        }),
    };
    let given = |certificate: &str| authorities.given("default", &backend(certificate)).unwrap();
    let in_force = given("old.crt");
    let tried_out = given("new.crt");
    assert!(Arc::ptr_eq(&in_force, &given("old.crt")) && Arc::ptr_eq(&tried_out, &given("new.crt")));
    let gone = Arc::downgrade(&tried_out);
    drop(tried_out);
    assert!(gone.upgrade().is_none());
}
