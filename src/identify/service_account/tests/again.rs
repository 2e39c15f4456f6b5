//! That the API server's word is asked for again.

use super::*;

/// Of a token that is good for a day: how long the API server's yes counts, with and without a pod.
#[tokio::test(start_paused = true)]
async fn the_api_server_is_asked_again() {
    for (bound, interval) in [(false, 300), (true, 3600)] {
        let mut status = yes();
        if !bound {
            status.user.as_mut().unwrap().extra = None;
        }
        let (fake, method) = rig(Some(status));
        let proof = identify(&method, token(86_400)).await.unwrap().unwrap();
        let mut changes = proof.standing.changes();
        tokio::time::sleep(Duration::from_secs(interval + 1)).await;
        assert_eq!(fake.calls(), 2, "asked for the second time");
        // While it is away, its last word counts.
        fake.answer(None);
        tokio::time::sleep(Duration::from_secs(7200)).await;
        assert!(proof.standing.facts().is_ok());
        assert!(identify(&method, token(86_400)).await.is_ok());
        // The Secret that the token is bound to is gone, or the key that signed it.
        fake.answer(Some(no()));
        tokio::time::timeout(Duration::from_secs(120), changes.next()).await.expect("it ends").expect("news");
        assert!(matches!(proof.standing.facts(), Err(IdentifyError::Refused { .. })));
        assert!(matches!(identify(&method, token(86_400)).await, Err(IdentifyError::Refused { .. })));
    }
}

/// Waits until the API server has answered so often.
async fn asked(fake: &Fake, times: usize) {
    let asked = async {
        while fake.answered() < times {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(7200), asked).await.expect("it is asked");
}

/// With an error, its no may be its own trouble.
#[tokio::test(start_paused = true)]
async fn a_no_with_an_error_is_asked_about_again_and_one_without_is_not() {
    let (fake, method) = rig(Some(yes()));
    let proof = identify(&method, token(86_400)).await.unwrap().unwrap();
    let mut changes = proof.standing.changes();
    fake.answer(Some(no()));
    asked(&fake, 3).await;
    fake.answer(Some(yes()));
    asked(&fake, 4).await;
    assert!(proof.standing.facts().is_ok());
    // With the yes, the doubts are forgotten.
    fake.answer(Some(no()));
    asked(&fake, 7).await;
    assert!(proof.standing.facts().is_ok());
    tokio::time::timeout(Duration::from_secs(60), changes.next()).await.expect("it ends").expect("news");
    assert!(proof.standing.facts().is_err());
    assert_eq!(fake.calls(), 8);

    let (fake, method) = rig(Some(yes()));
    let proof = identify(&method, token(86_400)).await.unwrap().unwrap();
    let mut changes = proof.standing.changes();
    fake.answer(Some(TokenReviewStatus { error: None, ..no() }));
    tokio::time::timeout(Duration::from_secs(3601), changes.next()).await.expect("it ends").expect("news");
    assert!(proof.standing.facts().is_err());
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_anothers_now_ends_and_is_not_asked_about_again() {
    let (fake, method) = rig(Some(yes()));
    let proof = identify(&method, token(86_400)).await.unwrap().unwrap();
    let mut status = yes();
    status.user.as_mut().unwrap().uid = Some("a2".to_owned());
    fake.answer(Some(status));
    tokio::time::sleep(Duration::from_secs(3601)).await;
    assert!(matches!(proof.standing.facts(), Err(IdentifyError::Refused { .. })));
    let asked = fake.calls();
    tokio::time::sleep(Duration::from_secs(36_000)).await;
    assert_eq!(fake.calls(), asked);
}

#[tokio::test(start_paused = true)]
async fn that_the_api_server_reviews_nothing_is_told_before_the_first_token_and_until_it_does() {
    let (fake, method) = rig(None);
    let mut problems = method.problems();
    let told = tokio::time::timeout(Duration::from_secs(1), problems.wait_for(|problems| !problems.is_empty())).await;
    let told = told.expect("in time").expect("it is told")[0].to_string();
    assert!(told.contains("reviews no tokens: down") && told.contains("rbac.yaml"), "{told}");
    fake.answer(Some(no()));
    let told = tokio::time::timeout(Duration::from_secs(60), problems.wait_for(|problems| problems.is_empty())).await;
    told.expect("in time").expect("it is told");
    assert_eq!(fake.calls(), 0, "there is no token");
}
