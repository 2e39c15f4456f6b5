use super::*;
use crate::issue::manager::Status;
use crate::issue::verify::tests::svid_with;
use crate::testing::certs::{TestCa, timestamp};

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// A leaf from `from` for a day, which leads through `intermediates` to `root`.
fn leaf(from: i64, intermediates: &[&TestCa], root: &TestCa) -> Svid {
    let mut svid = svid_with((timestamp(NOW + from), timestamp(NOW + from + DAY)), timestamp(NOW + 1_000 * DAY));
    svid.anchor = root.certificate().clone();
    svid.intermediates = intermediates.iter().map(|ca| ca.certificate().clone()).collect();
    svid
}

fn ca(name: &str, days: i64) -> TestCa {
    TestCa::root_until(name, timestamp(NOW + days * DAY))
}

/// The slot of a proxy that has reported `svid`, whose key this server does not have.
fn reported(svid: &Svid) -> Slot {
    let status = Status { held_until: Some(svid.usable_until()), ..Status::default() };
    Slot { status, held: Some(HeldLeaf::from(svid)), ..Slot::default() }
}

fn first(known: &Known, slot: &Slot) -> Option<String> {
    let mut first = None;
    known.compare(&mut first, "default", slot);
    first.map(|ca| ca.subject.to_string())
}

#[test]
fn what_is_reported_leads_through_what_it_was_issued_by() {
    let (root, old, new) = (ca("Root", 1_000), ca("Old", 2), ca("New", 100));
    let other = ca("Other", 1);
    let (mut known, mesh) = (Known::default(), "default".into());
    let (before, after) = (leaf(0, &[&old], &root), leaf(3_600, &[&new], &root));
    assert!(known.note(&mesh, &before));
    assert!(!known.note(&mesh, &before), "nothing new");
    assert!(known.note(&mesh, &leaf(60, &[&old], &root)), "another that ends later");
    known.note(&mesh, &after);
    known.note(&mesh, &leaf(0, &[], &other));
    known.note(&"elsewhere".into(), &leaf(0, &[&other], &root));
    assert_eq!(first(&known, &reported(&before)).unwrap(), old.certificate().subject());
    assert_eq!(first(&known, &reported(&after)).unwrap(), new.certificate().subject(), "its successor's");
    assert_eq!(first(&known, &reported(&leaf(0, &[], &ca("Unknown", 1)))), None);
    // What is in memory says it itself.
    let in_memory = Slot::default();
    in_memory.current.send_replace(Some(Arc::new(leaf(0, &[&other], &root))));
    assert_eq!(first(&Known::default(), &in_memory).unwrap(), other.certificate().subject());
    assert_eq!(first(&known, &Slot::default()), None);
}

#[test]
fn what_no_leaf_needs_is_forgotten_and_there_is_a_bound() {
    let (mut known, mesh) = (Known::default(), "default".into());
    let (root, soon) = (ca("Root", 1_000), ca("Soon", 2));
    known.note(&mesh, &leaf(0, &[&soon], &root));
    known.prune(timestamp(NOW + DAY));
    assert_eq!(known.0[&mesh].len(), 2);
    let mut over = known.clone();
    over.prune(timestamp(NOW + DAY + 1));
    assert_eq!(over, Known::default());
    let like_root = known.0[&mesh].iter().find(|used| used.digest == used.anchor).unwrap().clone();
    let many = (0..MOST).map(|number| Used { digest: number.to_string().into(), ..like_root.clone() });
    known.0.get_mut(&mesh).unwrap().extend(many.collect::<Vec<_>>());
    known.note(&mesh, &leaf(0, &[&soon], &root));
    assert_eq!(known.0[&mesh].len(), MOST);
    assert!(known.0[&mesh].iter().any(|used| *used.subject == *soon.certificate().subject()), "the first to end stays");
}

#[tokio::test(start_paused = true)]
async fn what_is_noted_is_there_after_a_restart_and_is_not_written_for_each_leaf() {
    let folder = tempfile::tempdir().unwrap();
    let (state_dir, file) = (StateDir::new(folder.path()), folder.path().join("signing-cas.json"));
    let clock = Clock::simulated(timestamp(NOW));
    let root = ca("Root", 1_000);
    let settle = || tokio::time::sleep(Duration::from_millis(1));
    let (tasks, _deaths) = Tasks::new();
    let cas = SigningCas::start(&state_dir, clock.clone(), &tasks);
    settle().await;
    assert!(!file.exists(), "there is nothing to keep");
    cas.note(&"default".into(), &leaf(0, &[], &root));
    settle().await;
    let once = std::fs::read(&file).unwrap();
    cas.note(&"default".into(), &leaf(1, &[], &root));
    settle().await;
    assert_eq!(std::fs::read(&file).unwrap(), once);
    tokio::time::sleep(KEPT_EVERY).await;
    assert_ne!(std::fs::read(&file).unwrap(), once);
    // What has come since is written when the server ends.
    cas.note(&"default".into(), &leaf(2, &[], &root));
    assert!(tasks.stop(Duration::from_secs(1)).await);
    let (tasks, _deaths) = Tasks::new();
    assert_eq!(SigningCas::start(&state_dir, clock, &tasks).known(), cas.known());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_told_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = StateDir::new(folder.path().join("state"));
    std::fs::write(folder.path().join("state"), "in the way").unwrap();
    let (tasks, _deaths) = Tasks::new();
    let cas = SigningCas::start(&state_dir, Clock::simulated(timestamp(NOW)), &tasks);
    let mut troubles = state_dir.troubles();
    cas.note(&"default".into(), &leaf(0, &[], &ca("Root", 1_000)));
    troubles.wait_for(|troubles| !troubles.is_empty()).await.unwrap();
    std::fs::remove_file(folder.path().join("state")).unwrap();
    troubles.wait_for(|troubles| troubles.is_empty()).await.unwrap();
}
