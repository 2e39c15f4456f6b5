use super::*;

const ALL: u64 = 10_000;

/// A mesh of which `issued` of all have been issued.
fn backlog(issued: u64) -> Backlog {
    let left = usize::try_from(ALL - issued).unwrap();
    let in_flight = left.min(64);
    let waiting = left - in_flight;
    Backlog { first: waiting.saturating_sub(100), renewals: waiting.min(100), in_flight, ..Backlog::default() }
}

/// Issues `per_turn` in each tenth of a second, and gives what the log is told, and when.
fn run(per_turn: u64, turns: u32) -> (Progress, Instant, Vec<(f64, String)>) {
    let (mesh, mut progress, began): (Arc<str>, _, _) = ("default".into(), Progress::default(), Instant::now());
    let (mut told, mut now, mut issued) = (Vec::new(), began, 0);
    for turn in 0..turns {
        now = began + Duration::from_millis(100) * turn;
        if let Some(news) = progress.note(&mesh, backlog(issued), now) {
            let text = match news {
                News::Waiting(outlook) => outlook.to_string(),
                News::Done(issued, took) => format!("{issued} in {} s", took.as_secs()),
            };
            told.push((now.duration_since(began).as_secs_f64(), text));
        }
        for _ in 0..per_turn.min(ALL - issued) {
            progress.issued("default");
            issued += 1;
        }
    }
    (progress, now, told)
}

#[test]
fn the_log_is_told_every_ten_seconds_and_at_the_end() {
    let (progress, now, told) = run(10, 1200);
    let times: Vec<f64> = told.iter().map(|(at, _)| at.round()).collect();
    assert_eq!(times, [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0]);
    let first = "9000 of 10000 certificates are still to be issued: 8836 proxies that have none wait, 100 renewals after \
                 them, 64 are in flight; 100/s, about 90 s";
    assert_eq!(told[0].1, first);
    assert_eq!(told.last().unwrap().1, "9940 in 99 s", "the last are in flight then, and have not waited");
    assert_eq!((progress.outlooks(now), progress.tell_at()), (BTreeMap::new(), None));
}

#[test]
fn what_is_quick_is_not_told_and_nobody_waits_without_being_seen() {
    let (_, _, told) = run(200, 100);
    assert_eq!(told, []);
    let (progress, now, _) = run(200, 30);
    let outlook = progress.outlooks(now)["default"];
    assert_eq!((outlook.of, outlook.backlog.left(), outlook.per_second.round()), (10_200, 4200, 2069.0));
}

#[test]
fn if_nothing_is_issued_it_is_told_less_and_less_often_and_without_a_rate() {
    let (_, _, told) = run(0, 20_000);
    let times: Vec<f64> = told.iter().map(|(at, _)| at.round()).collect();
    assert_eq!(times, [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 960.0, 1280.0, 1600.0, 1920.0]);
    assert!(told.iter().all(|(_, text)| text.ends_with("64 are in flight")), "{told:?}");
}

#[test]
fn it_is_not_over_before_the_last_that_waits_for_anything_has_one() {
    let (mesh, mut progress, began): (Arc<str>, _, _) = ("default".into(), Progress::default(), Instant::now());
    let mut at = |second: u64, [first, in_flight, pending, retrying]: [usize; 4]| {
        let backlog = Backlog { first, renewals: 0, in_flight, pending, retrying };
        let now = began + Duration::from_secs(second);
        let told = progress.note(&mesh, backlog, now).map(|news| match news {
            News::Waiting(outlook) => outlook.to_string(),
            News::Done(issued, took) => format!("{issued} in {} s", took.as_secs()),
        });
        let is_shown = progress.outlooks(now).contains_key("default");
        if (100..130).contains(&second) {
            progress.issued("default");
        }
        (told, is_shown)
    };
    assert_eq!(at(0, [136, 64, 0, 0]), (None, true));
    assert!(at(30, [72, 64, 64, 0]).1);
    // The CA is away, and all have been asked for.
    let text = "200 of 200 certificates are still to be issued: 0 proxies that have none wait, 0 renewals after them, 8 are \
                in flight, 192 have long been without an answer";
    assert_eq!(at(90, [0, 8, 192, 0]), (Some(text.to_owned()), true));
    assert_eq!(at(100, [0, 0, 200, 0]), (None, true));
    let told: Vec<u64> =
        (101..130).filter(|second| at(*second, [0, 0, 300 - *second as usize, 0]).0.is_some()).collect();
    assert_eq!(told, [110, 120], "it is back");
    let (text, _) = at(130, [0, 0, 0, 3]);
    assert!(text.is_some_and(|text| text.ends_with("3 have failed and are tried again; 1.0/s, about 3 s")));
    assert_eq!(at(131, [0, 1, 0, 0]), (Some("30 in 131 s".to_owned()), false));
}

#[test]
fn of_a_mesh_that_is_gone_nothing_is_left() {
    let [stays, goes] = ["stays", "goes"].map(Arc::<str>::from);
    let (mut progress, began) = (Progress::default(), Instant::now());
    let both = BTreeMap::from([(&stays, backlog(0)), (&goes, backlog(0))]);
    assert_eq!(progress.note_all(&both, began), []);
    let told = progress.note_all(&both, began + TOLD_EVERY);
    assert!(matches!(&told[..], [(_, News::Waiting(_)), (_, News::Waiting(_))]), "{told:?}");
    let one = BTreeMap::from([(&stays, backlog(0))]);
    let later = Duration::from_secs(15);
    assert_eq!(progress.note_all(&one, began + later), [(goes, News::Done(0, later))]);
    assert_eq!(progress.0.into_keys().collect::<Vec<_>>(), [stays]);
}

#[test]
fn who_is_in_nobodys_way_is_no_rush() {
    let (mesh, mut progress, now): (Arc<str>, _, _) = ("default".into(), Progress::default(), Instant::now());
    let alone = Backlog { pending: 1, retrying: 1, ..Backlog::default() };
    assert_eq!((progress.note(&mesh, alone, now), progress.outlooks(now)), (None, BTreeMap::new()));
    // One that is never answered does not fill the log because others are renewed now and then.
    progress.note(&mesh, Backlog { first: 1, ..alone }, now);
    let mut told = Vec::new();
    for second in 1..=1_000 {
        progress.issued("default");
        let in_flight = second as usize % 3;
        if progress.note(&mesh, Backlog { in_flight, ..alone }, now + Duration::from_secs(second)).is_some() {
            told.push(second);
        }
    }
    assert_eq!(told, [10, 20, 40, 80, 160, 320, 640, 960]);
}

#[test]
fn the_rate_is_that_of_the_last_seconds() {
    let (mut progress, now, _) = run(10, 300);
    let later = now + Duration::from_secs(5);
    let rate = |progress: &Progress, at| progress.outlooks(at)["default"].per_second.round();
    assert_eq!((rate(&progress, now), rate(&progress, later)), (101.0, 55.0));
    assert_eq!(rate(&progress, now + Duration::from_secs(1000)), 0.0, "it has stalled, though nobody has noted that");
    progress.note(&"default".into(), backlog(3000), later);
    progress.issued("default");
    assert!(progress.outlooks(later)["default"].to_string().contains("/s, about"));
}
