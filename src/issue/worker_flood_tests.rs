//! Proxies that come and go by the thousand, and those that wait for something else meanwhile.

use super::*;

const MANY: usize = 100 * HEARD_AT_ONCE;

/// How many turns it may take until something that is ready has been seen to: one that has begun, the signing, the turn itself,
/// and one before the test looks.
const SOON: usize = 4 * HEARD_AT_ONCE;

impl Rig {
    /// Many proxies that come and go at once.
    fn flood(&self) {
        for number in 0..MANY {
            drop(self.subscribe(&format!("passer-by-{number}")));
        }
        assert_eq!(self.manager.inbox.len(), MANY);
    }

    /// How many the worker has heard of.
    fn heard(&self) -> usize {
        MANY - self.manager.inbox.len()
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_landed_is_not_held_up_by_who_comes_and_goes() {
    let mut rig = Rig::new(8);
    rig.hold();
    let mut web = rig.subscribe("web");
    rig.asked().await;
    rig.release(1);
    rig.flood();
    next(&mut web).await;
    assert!(rig.heard() <= SOON, "{} were heard first", rig.heard());
}

#[tokio::test(start_paused = true)]
async fn nor_is_what_is_due() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    let due = rig.manager.snapshot().into_values().next().unwrap().1.next.unwrap();
    let wait = due.duration_since(rig.clock.now()).unsigned_abs();
    tokio::time::sleep(wait.saturating_sub(Duration::from_secs(1))).await;
    rig.flood();
    let unheard = rig.manager.inbox.clone();
    // The clock goes on while the flood is there: no timer is waited for.
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(rig.asked().await.0, "web");
    assert!(unheard.len() >= MANY - SOON, "{} were heard first", rig.heard());
}

#[tokio::test(start_paused = true)]
async fn nor_is_another_trust() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    rig.trust.send_replace(trusting(&[&other]));
    rig.flood();
    assert_eq!(rig.asked().await, ("web".into(), 0));
    assert!(rig.heard() <= SOON, "{} were heard first", rig.heard());
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_heard_to_its_end_and_forgotten() {
    let mut rig = Rig::new(8);
    rig.flood();
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    assert_eq!((rig.asked().await.0, rig.heard()), ("web".into(), MANY));
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(rig.manager.snapshot().len(), 1, "but for the one that is there");
}

#[tokio::test(start_paused = true)]
async fn one_proxy_that_comes_and_goes_without_end_is_one_thing_to_hear() {
    let rig = Rig::new(8);
    let web = rig.subscribe("web");
    for _ in 0..MANY {
        drop(rig.subscribe("web"));
    }
    assert_eq!(rig.manager.inbox.len(), 1);
    drop(web);
}
