//! Status conditions: what this server wants said of an object, merged into what others say of it. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

/// Bytes of a condition's message; Kuma's definitions allow 32 KiB, and `kubectl describe` shows it in one line.
const MAX_MESSAGE: usize = 4096;

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    /// `True` or `False`.
    pub(super) holds: bool,
    /// One word, for programs.
    pub(super) reason: &'static str,
    /// Sentences, for people.
    pub(super) message: String,
}

impl Condition {
    /// A condition whose message is all of `sentences`, as far as there is room.
    pub(super) fn new(holds: bool, reason: &'static str, sentences: &[String]) -> Self {
        Self { holds, reason, message: shortened(&sentences.join("; "), MAX_MESSAGE) }
    }

    fn status(&self) -> &'static str {
        if self.holds { "True" } else { "False" }
    }
}

/// What is wanted of one type of condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// This.
    Say(Condition),
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
            (Wanted::Say(condition), at) => {
                let before = at.map_or(Value::Null, |at| merged[at].clone());
                if says(&before, condition, generation) {
                    continue;
                }
                changed = true;
                let same_status = before["status"] == condition.status();
                if !same_status || before["reason"] != condition.reason {
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
        && found["message"] == condition.message.as_str()
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
