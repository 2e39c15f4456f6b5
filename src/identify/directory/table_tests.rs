//! Tests of [`super`].

use super::*;

fn key(name: &str) -> Key {
    Key { namespace: "shop".into(), name: name.into() }
}

fn labels(app: &str) -> Labels {
    [("app".into(), app.into())].into()
}

fn object(uid: &str, labels: Labels) -> Object {
    Object { uid: uid.to_owned(), labels, ends: None }
}

fn listed(objects: &[(&str, &str)]) -> Table {
    let mut table = Table::default();
    table.begin();
    for (name, uid) in objects {
        table.apply(key(name), object(uid, labels(name)));
    }
    assert!(table.complete().is_empty());
    table
}

fn has(table: &Table, name: &str, uid: &str) -> bool {
    table.find(&key(name), Some(uid), Timestamp::UNIX_EPOCH) != Found::Absent
}

#[test]
fn what_a_new_list_does_not_show_is_gone_and_nothing_before_it_is_complete() {
    let mut table = listed(&[("web-0", "u1"), ("web-1", "u2")]);
    table.begin();
    assert!(table.is_listing() && table.is_listed());
    assert!(!table.apply(key("web-0"), object("u1", labels("web-0"))), "nothing has changed");
    assert!(has(&table, "web-1", "u2"));
    assert_eq!(table.complete(), [key("web-1")]);
    assert!(has(&table, "web-0", "u1") && !has(&table, "web-1", "u2"));
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let mut table = listed(&[("web-0", "u1")]);
    table.begin();
    table.fails("gone away".to_owned());
    assert_eq!(table.failure(), Some("gone away"));
    table.begin();
    assert!(has(&table, "web-0", "u1"));
    table.apply(key("web-0"), object("u1", labels("web-0")));
    assert!(table.complete().is_empty());
    assert_eq!(table.failure(), None);
}

#[test]
fn only_what_counts_is_a_change() {
    let mut table = listed(&[("web-0", "u1")]);
    assert!(!table.apply(key("web-0"), object("u1", labels("web-0"))));
    assert!(table.apply(key("web-0"), object("u1", labels("other"))));
    assert!(table.apply(key("web-0"), object("u2", labels("other"))), "it was made anew");
    assert!(!has(&table, "web-0", "u1"));
    assert!(!table.delete(&key("web-0"), "u1"), "the old one's end");
    assert!(table.delete(&key("web-0"), "u2"));
    assert!(!table.delete(&key("web-0"), "u2"));
}

#[test]
fn an_answer_counts_before_the_watch_has_caught_up() {
    let mut table = listed(&[("web-0", "u1")]);
    let number = table.ask(key("web-0"), Some("u2".into()));
    assert_eq!(table.answer(number, object("u2", labels("a"))), (true, true));
    // What the watch tells of the pod before.
    assert!(!table.apply(key("web-0"), object("u1", labels("b"))));
    assert!(!table.delete(&key("web-0"), "u1"));
    assert!(has(&table, "web-0", "u2"));
    // It has caught up.
    assert!(!table.apply(key("web-0"), object("u2", labels("a"))));
    assert!(table.apply(key("web-0"), object("u3", labels("a"))));
    assert!(has(&table, "web-0", "u3"));
}

#[test]
fn an_answer_that_the_watch_has_overtaken_does_not_count() {
    let mut table = listed(&[]);
    let number = table.ask(key("web-0"), Some("u1".into()));
    table.apply(key("web-0"), object("u1", labels("a")));
    table.delete(&key("web-0"), "u1");
    assert_eq!(table.answer(number, object("u1", labels("a"))), (false, false));
    assert!(!has(&table, "web-0", "u1"));
    // The end of the pod that had the name before says nothing.
    let number = table.ask(key("web-0"), Some("u2".into()));
    table.delete(&key("web-0"), "u1");
    assert_eq!(table.answer(number, object("u2", labels("a"))), (true, true));
    // A list that was begun meanwhile may be older or newer.
    let number = table.ask(key("web-1"), None);
    table.begin();
    assert_eq!(table.answer(number, object("u1", labels("a"))), (false, false));
    table.forget(number);
    assert!(table.questions.is_empty());
}

#[test]
fn labels_are_kept_once() {
    let mut table = listed(&[]);
    for number in 0..1000 {
        table.apply(key(&format!("web-{number}")), object(&format!("u{number}"), labels("web")));
    }
    assert_eq!(table.labels.len(), 1);
    for number in 0..1000 {
        table.apply(key("web-0"), object("u0", labels(&number.to_string())));
    }
    assert!(table.labels.len() < 100, "{}", table.labels.len());
}

#[test]
fn what_is_being_deleted_ends_although_it_is_still_there() {
    let mut table = listed(&[("web-0", "u1")]);
    let at = |second| Timestamp::from_second(second).unwrap();
    assert_eq!(table.end_of(&key("web-0")), None);
    let ending = Object { ends: Some(at(90)), ..object("u1", labels("web-0")) };
    assert!(table.apply(key("web-0"), ending.clone()), "its end is news");
    assert!(!table.apply(key("web-0"), ending));
    assert_eq!(table.end_of(&key("web-0")), Some(at(90)));
    assert!(matches!(table.find(&key("web-0"), Some("u1"), at(89)), Found::There(_)));
    assert_eq!(table.find(&key("web-0"), Some("u1"), at(90)), Found::Ended);
    assert_eq!(table.find(&key("web-0"), None, at(90)), Found::Ended);
    assert_eq!(table.find(&key("web-0"), Some("u2"), at(90)), Found::Absent);
}

#[test]
fn uids_and_accounts_go_with_their_objects() {
    let mut table = listed(&[("web-0", "u1"), ("web-1", "u2")]);
    table.remember_account("u1", "web".into());
    table.remember_account("u9", "web".into());
    table.apply(key("web-0"), object("u1", labels("other")));
    assert_eq!((table.by_uid("u1"), table.account_of("u1").as_deref()), (Some(&key("web-0")), Some("web")));
    table.apply(key("web-0"), object("u3", labels("other")));
    assert_eq!((table.by_uid("u1"), table.by_uid("u3")), (None, Some(&key("web-0"))));
    table.remember_account("u3", "web".into());
    table.delete(&key("web-0"), "u3");
    table.begin();
    table.complete();
    assert!(table.by_uid.is_empty() && table.accounts.is_empty());
}
