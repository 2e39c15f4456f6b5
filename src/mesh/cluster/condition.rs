//! Status conditions: what this server wants said of an object, merged into what others say of it. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

/// Bytes of a condition's message; Kuma's definitions allow 32 KiB, and `kubectl describe` shows it in one line.
const MAX_MESSAGE: usize = 4096;

/// One condition.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// `True` or `False`; `None` if it is not known yet.
    pub(super) holds: Option<bool>,
    /// One word, for programs.
    pub(super) reason: &'static str,
    /// Sentences, for people.
    pub(super) message: String,
    /// Whether the message is another system's: with names, numbers and times in it that are others each time, and on
    /// each replica.
    is_volatile: bool,
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        (self.holds, self.reason) == (other.holds, other.reason) && self.means(&other.message)
    }
}

impl Eq for Condition {}

impl Condition {
    /// A condition whose message is all of `sentences`, as far as there is room.
    pub(super) fn new(holds: bool, reason: &'static str, sentences: &[String]) -> Self {
        let message = shortened(&sentences.join("; "), MAX_MESSAGE);
        Self { holds: Some(holds), reason, message, is_volatile: false }
    }

    /// One of which nothing is known yet.
    pub(super) fn unknown(reason: &'static str, message: &str) -> Self {
        Self { holds: None, reason, message: message.to_owned(), is_volatile: false }
    }

    /// The same, with a message of another system.
    pub(super) fn volatile(self) -> Self {
        Self { is_volatile: true, ..self }
    }

    fn status(&self) -> &'static str {
        match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }

    /// Whether `message` says what this one's does. Of a volatile one, words that may be names or numbers do not count.
    fn means(&self, message: &str) -> bool {
        let is_word =
            |word: &&str| !word.contains(|part: char| part.is_ascii_digit() || matches!(part, '-' | '/' | ':'));
        let words = |text: &'_ str| text.split_whitespace().filter(is_word).map(str::to_owned).collect::<Vec<_>>();
        self.message == message || (self.is_volatile && words(&self.message) == words(message))
    }
}

/// What is wanted of one type of condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// This.
    Say(Condition),
    /// This, unless something is said of this very version of the object already.
    Await(Condition),
    /// Nothing new is known: what is there stays.
    Keep,
    /// It says nothing of this object any more.
    Remove,
}

/// A change of one condition's state, which is worth an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transition {
    pub(super) condition: Condition,
    pub(super) of: &'static str,
}

/// Puts what is wanted, by type, into `current`, and leaves the conditions of others alone. `None` if it is all there
/// already. `generation` is left out where a write of the status makes a new one.
pub(super) fn merge(
    current: &[Value],
    wanted: &[(&'static str, Wanted)],
    generation: Option<i64>,
    now: Timestamp,
) -> Option<(Vec<Value>, Vec<Transition>)> {
    let mut merged = current.to_vec();
    let (mut transitions, mut changed) = (Vec::new(), false);
    for (of, wanted) in wanted {
        let at = merged.iter().position(|found| found["type"] == *of);
        match (wanted, at) {
            (Wanted::Keep, _) | (Wanted::Remove, None) => {}
            (Wanted::Remove, Some(at)) => {
                merged.remove(at);
                changed = true;
            }
            (Wanted::Say(condition) | Wanted::Await(condition), at) => {
                let before = at.map_or(Value::Null, |at| merged[at].clone());
                let is_said = says(&before, condition, generation);
                let is_of_this_version = generation.is_some() && before["observedGeneration"].as_i64() == generation;
                if is_said || (matches!(wanted, Wanted::Await(_)) && is_of_this_version) {
                    continue;
                }
                changed = true;
                let same_status = before["status"] == condition.status();
                // That nothing is known yet is no news.
                if condition.holds.is_some() && (!same_status || before["reason"] != condition.reason) {
                    transitions.push(Transition { condition: condition.clone(), of });
                }
                let since = before["lastTransitionTime"].as_str().filter(|_| same_status);
                let mut next = json!({
                    "type": of,
                    "status": condition.status(),
                    "reason": condition.reason,
                    "message": condition.message,
                    "lastTransitionTime": since.map_or_else(|| seconds(now), str::to_owned),
                });
                if let Some(generation) = generation {
                    next["observedGeneration"] = json!(generation);
                }
                match at {
                    Some(at) => merged[at] = next,
                    None => merged.push(next),
                }
            }
        }
    }
    changed.then_some((merged, transitions))
}

/// Whether `found` says it already. Definitions that do not keep the generation have none to compare.
pub(super) fn says(found: &Value, condition: &Condition, generation: Option<i64>) -> bool {
    let same_generation = match (found["observedGeneration"].as_i64(), generation) {
        (Some(found), Some(wanted)) => found == wanted,
        _ => true,
    };
    found["status"] == condition.status()
        && found["reason"] == condition.reason
        && found["message"].as_str().is_some_and(|found| condition.means(found))
        && same_generation
}

/// At most `most` bytes of it.
pub(super) fn shortened(text: &str, most: usize) -> String {
    const MARK: &str = " …";
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most.saturating_sub(MARK.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}{MARK}", &text[..end])
}

/// RFC 3339 with whole seconds, as Kubernetes writes it.
fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(holds: bool, reason: &'static str, message: &str) -> Wanted {
        Wanted::Say(Condition::new(holds, reason, &[message.to_owned()]))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn conditions_of_others_stay_and_the_time_moves_with_the_status_only() {
        let others = json!({"type": "SpiffeIDProvider", "status": "True", "reason": "R", "message": "m", "own": 1});
        let wanted = [("Ready", say(true, "Accepted", "fine"))];
        let (first, transitions) = merge(std::slice::from_ref(&others), &wanted, Some(3), at(60)).unwrap();
        assert_eq!(first[0], others);
        assert_eq!(
            first[1],
            json!({"type": "Ready", "status": "True", "reason": "Accepted", "message": "fine",
                "lastTransitionTime": "1970-01-01T00:01:00Z", "observedGeneration": 3})
        );
        assert_eq!(transitions.len(), 1);
        assert!(merge(&first, &wanted, Some(3), at(90)).is_none(), "it is all there");

        let (second, transitions) = merge(&first, &wanted, Some(4), at(90)).unwrap();
        assert_eq!(second[1]["lastTransitionTime"], "1970-01-01T00:01:00Z");
        assert_eq!((second[1]["observedGeneration"].as_i64(), transitions.len()), (Some(4), 0));

        let wanted = [("Ready", say(false, "Invalid", "a: is bad")), ("BackendReady", Wanted::Keep)];
        let (third, transitions) = merge(&second, &wanted, Some(4), at(120)).unwrap();
        assert_eq!(third[1]["lastTransitionTime"], "1970-01-01T00:02:00Z");
        assert_eq!((third.len(), transitions.len()), (2, 1));
        let (gone, _) = merge(&third, &[("Ready", Wanted::Remove)], None, at(120)).unwrap();
        assert_eq!(gone, [others]);
    }

    #[test]
    fn what_is_not_known_of_a_new_version_takes_the_place_of_what_was_said_of_the_old() {
        let wanted = [("Backend", Wanted::Await(Condition::unknown("Pending", "wait")))];
        let old = json!({"type": "Backend", "status": "True", "reason": "R", "message": "m", "observedGeneration": 3});
        assert!(merge(std::slice::from_ref(&old), &wanted, Some(3), at(0)).is_none(), "it is of this version");
        let (merged, transitions) = merge(&[old], &wanted, Some(4), at(0)).unwrap();
        assert_eq!((&merged[0]["status"], merged[0]["observedGeneration"].as_i64()), (&json!("Unknown"), Some(4)));
        assert_eq!(transitions.len(), 0, "no Event");
        assert!(merge(&merged, &wanted, Some(4), at(0)).is_none());
    }

    #[test]
    fn names_and_numbers_in_messages_of_others_are_no_difference() {
        let failed = |message: &str| Condition::new(false, "Failed", &[message.to_owned()]).volatile();
        assert_eq!(
            failed("request web-0-abcde was denied at 10:30:00"),
            failed("request web-0-fghij was denied at 10:31:00")
        );
        assert_ne!(failed("request web-0-abcde was denied"), failed("request web-0-abcde has failed"));
        let current = json!({"type": "Backend", "status": "False", "reason": "Failed", "message": "try 1 failed"});
        assert!(
            merge(std::slice::from_ref(&current), &[("Backend", Wanted::Say(failed("try 2 failed")))], None, at(0))
                .is_none()
        );
        let said = Condition::new(false, "Failed", &["try 2 failed".to_owned()]);
        assert!(merge(&[current], &[("Backend", Wanted::Say(said))], None, at(0)).is_some());
    }

    #[test]
    fn what_a_definition_does_not_keep_is_no_difference() {
        let pruned = json!({"type": "Ready", "status": "True", "reason": "Accepted", "message": "fine"});
        assert!(merge(&[pruned], &[("Ready", say(true, "Accepted", "fine"))], Some(9), at(0)).is_none());
    }

    #[test]
    fn messages_are_bounded() {
        let Wanted::Say(condition) = say(false, "Invalid", &"ä".repeat(MAX_MESSAGE)) else { unreachable!() };
        assert!(condition.message.len() <= MAX_MESSAGE && condition.message.ends_with('…'));
    }
}
