//! What an operator should know of, though the server does its work.

use std::collections::BTreeMap;

use super::Admin;
use crate::issue::ca::cert_manager::PendingBoard;
use crate::issue::overview::Failing;
use crate::model::preflight::Outcome;
use crate::model::text::escaped;
use crate::runtime::watch_board::{Unlisted, WatchBoard};

/// How many of one kind are told: when a CA is away, every proxy has the same trouble.
const SHOWN: usize = 20;

/// How long a text may be, in bytes: some have in them what a CA or an API server has said, however much that is.
const LONGEST: usize = 2048;

/// Texts by what they are about. Some have names of a proxy's choice in them, so none gets in unescaped.
#[derive(Debug, Default)]
pub(super) struct Warnings(BTreeMap<String, Told>);

#[derive(Debug, Default)]
struct Told {
    texts: Vec<String>,
    /// How many there are beside these.
    more: usize,
}

impl Warnings {
    /// Those of now.
    pub(super) fn of(admin: &Admin) -> Self {
        let mut warnings = Self::default();
        for problem in admin.problems.borrow().iter() {
            warnings.tell("resources", || problem.to_string());
        }
        for (field, mesh) in &admin.named_meshes {
            if !admin.policies.borrow().meshes.contains_key(mesh.as_str()) {
                warnings.tell("configuration", || format!("{field}: there is no mesh {mesh:?}"));
            }
        }
        if let Some(text) = *admin.own_ca.borrow() {
            warnings.tell("configuration", || text.to_owned());
        }
        for problem in admin.proof_problems.iter().flat_map(|problems| problems.borrow().to_vec()) {
            warnings.tell("identify", || problem.to_string());
        }
        warnings.tell_of_cluster(&admin.cluster);
        for trouble in admin.state_troubles.borrow().values() {
            warnings.tell("state", || trouble.clone());
        }
        for ((mesh, backend), trouble) in admin.trust.troubles().borrow().iter() {
            let consequence = if trouble.has_last_good {
                "what it said before stays trusted"
            } else if admin.trust.all().borrow().meshes.contains_key(mesh) {
                "its CA is not trusted until this is mended"
            } else {
                "the mesh has no trust bundle until this is mended"
            };
            let text = || format!("backend {backend}: {}; {consequence}", trouble.reason);
            warnings.tell(&format!("trust/{mesh}"), text);
        }
        for ((mesh, backend), verdict) in admin.verdicts.borrow().iter() {
            if let Some(why) = &verdict.conflict {
                warnings.tell(&format!("preflight/{mesh}"), || {
                    format!("what backend {backend} is to sign for cannot be in force yet: {why}")
                });
            }
            let trouble = match &verdict.outcome {
                Outcome::Failed(reason) => reason.clone(),
                Outcome::Pending if verdict.holds_back => "its test certificate is awaited".to_owned(),
                _ => continue,
            };
            let consequence = match &verdict.unlisted {
                Some(signs) => format!(
                    "; until it passes backend {signs}, which is not listed any more, goes on signing and stays trusted \
                     (to end that at once, enable a backend that signs, or set mtls.skipValidation)"
                ),
                None if verdict.holds_back => "; the policy before stays in force until it passes".to_owned(),
                None => String::new(),
            };
            let since = verdict.since;
            warnings.tell(&format!("preflight/{mesh}"), || {
                format!("backend {backend} has not passed its preflight (since {since}): {trouble}{consequence}")
            });
        }
        let waiting = admin.pending.iter().flat_map(PendingBoard::snapshot);
        // Every request is pending for a moment; what is told here is what somebody may have to do something about.
        for pending in waiting.filter(|pending| pending.slow || pending.hint.is_some()) {
            warnings.tell(&format!("pending/{}", pending.mesh), || {
                let hint = pending.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
                format!(
                    "{} has been waiting for {} {} since {}: {}: {}{hint}",
                    pending.proxy,
                    pending.issuer.kind,
                    pending.issuer.name,
                    pending.since,
                    pending.reason,
                    pending.message
                )
            });
        }
        for (mesh, Failing { count, first }) in admin.manager.failing(SHOWN) {
            let about = format!("issuance/{mesh}");
            for (key, status) in &first {
                let next = status.next.map(|next| format!("; next attempt at {next}")).unwrap_or_default();
                let error = status.error.as_deref().unwrap_or_default();
                warnings.tell(&about, || format!("{key}: {error}{next}"));
            }
            warnings.0.entry(escaped(&about)).or_default().more += count - first.len();
        }
        warnings
    }

    fn tell_of_cluster(&mut self, board: &WatchBoard) {
        for (kind, Unlisted { since, why }) in board.unlisted() {
            self.tell(&format!("cluster/{kind}"), || {
                format!(
                    "not listed since {since}: {why}; what the API server listed before counts until it does so again"
                )
            });
        }
    }

    fn tell(&mut self, about: &str, text: impl FnOnce() -> String) {
        let told = self.0.entry(escaped(about)).or_default();
        if told.texts.len() < SHOWN {
            told.texts.push(shortened(escaped(&text())));
        } else {
            told.more += 1;
        }
    }

    /// What each is about, and the texts.
    pub(super) fn into_texts(self) -> BTreeMap<String, Vec<String>> {
        let texts = |Told { mut texts, more }: Told| {
            texts.extend((more > 0).then(|| format!("and {more} more")));
            texts
        };
        self.0.into_iter().map(|(about, told)| (about, texts(told))).collect()
    }
}

/// At most [`LONGEST`] bytes of it, and a sign that there was more.
fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock::Clock;
    use crate::runtime::tasks::Tasks;
    use crate::testing::fake_cluster::FakeApi;
    use crate::trust::source::mesh_secret::watch_mesh_secrets;

    #[test]
    fn a_node_id_cannot_write_on_a_terminal() {
        let mut warnings = Warnings::default();
        warnings.tell("issuance/de\u{9b}fault", || "\u{1b}]0;web\u{7}-0\u{202e}: the CA is away".to_owned());
        let texts = warnings.into_texts();
        let expected = ["\\u{1b}]0;web\\u{7}-0\\u{202e}: the CA is away".to_owned()];
        assert_eq!(texts, BTreeMap::from([("issuance/de\\u{9b}fault".to_owned(), expected.to_vec())]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_is_told_of_by_kind() {
        let (api, board) = (FakeApi::default(), WatchBoard::new(Clock::simulated(jiff::Timestamp::UNIX_EPOCH)));
        api.set_down(true);
        let (tasks, _deaths) = Tasks::new();
        let _secrets = watch_mesh_secrets(api.client(), "system", &board, &tasks);
        let told = || {
            let mut warnings = Warnings::default();
            warnings.tell_of_cluster(&board);
            warnings.into_texts()
        };
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(told(), BTreeMap::new(), "it may just be restarted");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let texts = told();
        let text = &texts["cluster/mesh Secrets"][0];
        assert!(text.starts_with("not listed since 1970-01-01T00:00:00Z: "), "{text}");
        api.set_down(false);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(told(), BTreeMap::new());
    }

    #[test]
    fn a_text_without_end_is_cut_and_remains_text() {
        let mut warnings = Warnings::default();
        for offset in 0..4 {
            warnings.tell("resources", || "x".repeat(offset) + &"🦀".repeat(LONGEST));
        }
        warnings.tell("resources", || "x".repeat(LONGEST));
        let texts = warnings.into_texts().remove("resources").unwrap();
        let (whole, cut) = texts.split_last().unwrap();
        assert_eq!(*whole, "x".repeat(LONGEST));
        for text in cut {
            assert!(text.ends_with("🦀…") && text.len() <= LONGEST + '…'.len_utf8(), "{}", text.len());
        }
    }

    #[test]
    fn only_what_is_shown_is_made() {
        let (mut warnings, mut made) = (Warnings::default(), 0);
        for number in 0..SHOWN + 5 {
            warnings.tell("resources", || {
                made += 1;
                format!("problem {number}")
            });
        }
        let texts = warnings.into_texts().remove("resources").unwrap();
        assert_eq!((made, texts.len(), texts.last().unwrap().as_str()), (SHOWN, SHOWN + 1, "and 5 more"));
    }
}
