//! What it costs to watch many paths: counted in questions to the file system, not timed.

use futures::future::join_all;

use super::spots::LOOKS;
use super::*;

/// More than one change may ask, if it goes over all.
const MANY: usize = 200;

/// Files, each in a folder of its own, that are watched.
struct Many {
    folder: tempfile::TempDir,
    watch: FileWatch,
    held: Vec<Held>,
    /// What it took to hold each.
    costs: Vec<usize>,
}

impl Many {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut many = Self { folder, watch: FileWatch::new(), held: Vec::new(), costs: Vec::new() };
        for number in 0..MANY {
            let file = many.file(number);
            std::fs::create_dir(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "one").unwrap();
            let before = LOOKS.get();
            many.held.push(many.watch.hold([&*file]));
            many.costs.push(LOOKS.get() - before);
        }
        many
    }

    fn file(&self, number: usize) -> PathBuf {
        self.folder.path().join(number.to_string()).join("ca.pem")
    }

    /// As many followers as there would be meshes.
    fn followers(&self) -> Vec<Changes> {
        (0..MANY).map(|_| self.watch.changes()).collect()
    }
}

/// Waits until each was told of something, and says what that took.
async fn cost_of_telling(followers: &mut [Changes]) -> usize {
    let before = LOOKS.get();
    join_all(followers.iter_mut().map(Changes::next)).await;
    LOOKS.get() - before
}

#[tokio::test]
async fn a_change_costs_what_has_changed_however_much_is_held_and_however_many_wait() {
    let mut many = Many::new();
    let cost = many.costs[0];
    assert!(cost > 0);
    assert_eq!(many.costs, [cost; MANY], "to hold the last is no more than to hold the first");

    let mut followers = many.followers();
    std::fs::write(many.folder.path().join("next"), "two").unwrap();
    std::fs::rename(many.folder.path().join("next"), many.file(7)).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), cost_of_telling(&mut followers));
    let told = told.await.expect("the change is told");
    assert!((1..=2 * cost).contains(&told), "{told} for one file that was replaced, {cost} to hold one");

    let before = LOOKS.get();
    many.held.truncate(MANY / 2);
    drop(many.watch.hold([&*many.file(0)]));
    assert_eq!(LOOKS.get(), before, "what is let go, or is held already, is not looked at");
}

#[tokio::test(start_paused = true)]
async fn without_any_event_all_is_looked_at_once_a_minute_however_many_wait() {
    let many = Many::new();
    // Each is followed twice when it is held: what appears meanwhile is to be found.
    let once = many.costs.iter().sum::<usize>() / 2;
    let mut followers = many.followers();
    for _ in 0..2 {
        let begin = Instant::now();
        assert_eq!(cost_of_telling(&mut followers).await, once);
        assert!(begin.elapsed() <= SAFETY_NET + Duration::from_millis(10), "{:?}", begin.elapsed());
    }
}
