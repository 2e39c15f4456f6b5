use super::*;
use crate::testing::certs::{LeafOptions, TestCa, timestamp};

const NOW: i64 = 1_800_000_000;
const LATER: i64 = 1_800_050_000;

fn client_ca(ca: &TestCa, crl: Option<&str>) -> ClientCa {
    client_cas(&[ca], crl.unwrap_or_default())
}

/// Without a list if `crl` is empty.
fn client_cas(cas: &[&TestCa], crl: &str) -> ClientCa {
    let pem: String = cas.iter().map(|ca| ca.certificate().pem()).collect();
    ClientCa::from_pem(pem.as_bytes(), Some(crl.as_bytes()).filter(|crl| !crl.is_empty())).unwrap()
}

fn leaf(uris: &[&str]) -> LeafOptions {
    LeafOptions { uris: Some(uris.iter().map(ToString::to_string).collect()), ..LeafOptions::default() }
}

fn web(ca: &TestCa) -> Certificate {
    ca.leaf(&leaf(&["spiffe://prod/web"]))
}

/// What `judge` says of a leaf and the intermediates shown with it.
fn verdict(judge: &ClientCa, chain: &[&Certificate]) -> Result<(), String> {
    let chain: Vec<_> = chain.iter().map(|certificate| certificate.der().clone()).collect();
    judge.verify(&chain, timestamp(NOW)).map(drop)
}

#[track_caller]
fn is_revoked(judge: &ClientCa, chain: &[&Certificate]) {
    assert!(verdict(judge, chain).unwrap_err().contains("Revoked"));
}

/// `cat old.crl new.crl`, in whatever order; also where the old one has ended.
#[test]
fn of_several_lists_of_an_issuer_the_newest_counts() {
    let (ca, next) = (TestCa::root("clients"), timestamp(LATER));
    let (first, second) = (web(&ca), web(&ca));
    for old_end in [next, timestamp(NOW - 1)] {
        let old = ca.crl_from(timestamp(NOW - 500), &[&second], old_end);
        let new = ca.crl_from(timestamp(NOW - 400), &[&first], next);
        for lists in [old.clone() + &new, new.clone() + &old] {
            let judge = client_ca(&ca, Some(&lists));
            is_revoked(&judge, &[&first]);
            assert_eq!(verdict(&judge, &[&second]), Ok(()), "it was only on hold");
            assert!(judge.ended(timestamp(NOW)).is_empty());
            assert_eq!(judge.next_end(timestamp(NOW)), Some(next));
        }
    }
    // Which of two of the same age is meant cannot be told.
    let judge = client_ca(&ca, Some(&(ca.crl(&[&second], next) + &ca.crl(&[&first], next))));
    is_revoked(&judge, &[&first]);
    is_revoked(&judge, &[&second]);
}

/// A CA that changes its key has two certificates and two lists for a while.
#[test]
fn each_key_of_a_ca_has_its_own_list() {
    let next = timestamp(LATER);
    let (old, new) = (TestCa::root("clients"), TestCa::root("clients"));
    let [old_good, old_bad, new_good, new_bad] = [&old, &old, &new, &new].map(web);
    let (of_old, of_new) = (old.crl(&[&old_bad], next), new.crl(&[&new_bad], next));
    for lists in [of_old.clone() + &of_new, of_new + &of_old] {
        for cas in [[&old, &new], [&new, &old]] {
            let judge = client_cas(&cas, &lists);
            for good in [&old_good, &new_good] {
                assert_eq!(verdict(&judge, &[good]), Ok(()));
            }
            for bad in [&old_bad, &new_bad] {
                is_revoked(&judge, &[bad]);
            }
        }
    }
    // One of them has made no list yet.
    let judge = client_cas(&[&old, &new], &of_old);
    assert_eq!(verdict(&judge, &[&new_bad]), Ok(()));
    is_revoked(&judge, &[&old_bad]);
}

#[test]
fn each_key_of_an_intermediate_has_its_own_list() {
    let (root, next) = (TestCa::root("clients"), timestamp(LATER));
    let [old, new, without] = ["below"; 3].map(|name| root.intermediate(name));
    let [old_good, old_bad, new_good, new_bad] = [&old, &old, &new, &new].map(web);
    let lists = new.crl_from(timestamp(NOW - 400), &[&new_bad], next) + &old.crl(&[&old_bad], next);
    let judge = client_ca(&root, Some(&lists));
    for (good, bad, issuer) in [(&old_good, &old_bad, &old), (&new_good, &new_bad, &new)] {
        assert_eq!(verdict(&judge, &[good, issuer.certificate()]), Ok(()));
        is_revoked(&judge, &[bad, issuer.certificate()]);
    }
    // Its list may be broken, or forged.
    let error = verdict(&judge, &[&web(&without), without.certificate()]).unwrap_err();
    assert!(error.contains("BadSignature"), "{error}");
    assert_eq!(judge.lists_of_others().len(), 2);
    assert!(client_ca(&root, Some(&root.crl(&[], next))).lists_of_others().is_empty());
}

/// A CA that is taken out is trusted no more, though its list is still there and its successor has its name.
#[test]
fn the_list_of_a_ca_that_was_taken_out_keeps_nobody_in() {
    let (old, new, next) = (TestCa::root("clients"), TestCa::root("clients"), timestamp(LATER));
    let [of_old, good, bad] = [&old, &new, &new].map(web);
    let left_over = old.crl(&[], next);
    let without_its_own = client_cas(&[&new], &left_over);
    let with_its_own = client_cas(&[&new], &(left_over + &new.crl(&[&bad], next)));
    for judge in [&without_its_own, &with_its_own] {
        assert!(verdict(judge, &[&of_old]).is_err());
        assert_eq!(verdict(judge, &[&good]), Ok(()));
        assert_eq!(judge.lists_of_others().len(), 1, "it is told");
    }
    is_revoked(&with_its_own, &[&bad]);
}

/// The same CA by two ways: shown as an intermediate, its list counts as well.
#[test]
fn a_list_counts_on_every_way_to_its_issuer() {
    let (root, next) = (TestCa::root("root"), timestamp(LATER));
    let below = root.intermediate("below");
    let (good, bad) = (web(&below), web(&below));
    for cas in [vec![&root], vec![&below], vec![&root, &below]] {
        let judge = client_cas(&cas, &below.crl(&[&bad], next));
        assert_eq!(verdict(&judge, &[&good, below.certificate()]), Ok(()));
        is_revoked(&judge, &[&bad, below.certificate()]);
    }
}

#[test]
fn revocation_lists() {
    let (root, next) = (TestCa::root("clients"), timestamp(LATER));
    let intermediate = root.intermediate("below");
    let leaf = intermediate.leaf(&leaf(&["spiffe://prod/web"]));
    let chain = [leaf.der().clone(), intermediate.certificate().der().clone()];
    let verdict = |crl: &str, at: i64| client_ca(&root, Some(crl)).verify(&chain, timestamp(at)).map(drop);
    // The issuer has no list here: not revoked.
    assert_eq!(verdict(&root.crl(&[], next), NOW), Ok(()));
    assert_eq!(verdict(&intermediate.crl(&[], next), NOW), Ok(()));
    assert!(verdict(&intermediate.crl(&[&leaf], next), NOW).unwrap_err().contains("Revoked"));
    // The whole path is looked at, and all lists.
    let both = intermediate.crl(&[], next) + &root.crl(&[intermediate.certificate()], next);
    assert!(verdict(&both, NOW).unwrap_err().contains("Revoked"));
    // A list that has ended says nothing of anybody.
    assert!(verdict(&root.crl(&[], next), LATER + 1).unwrap_err().contains("expired"));
    let judge = client_ca(&root, Some(&root.crl(&[], next)));
    assert_eq!(judge.next_end(timestamp(NOW)), Some(next));
    let of_ca = root.certificate().validity().not_after;
    assert_eq!((judge.next_end(next), judge.ended(next).len(), judge.ended(timestamp(NOW)).len()), (Some(of_ca), 1, 0));
}

/// The last byte is of the signature.
fn with_a_bad_signature(crl: &str) -> String {
    let mut crl = pem::parse(crl).unwrap().into_contents();
    *crl.last_mut().unwrap() ^= 1;
    pem::encode(&pem::Pem::new("X509 CRL", crl))
}

#[test]
fn revocation_lists_that_are_no_good() {
    let (ca, namesake) = (TestCa::root("clients"), TestCa::root("clients"));
    let next = timestamp(LATER);
    let pem = ca.certificate().pem();
    let load =
        |crl: &str| ClientCa::from_pem(pem.as_bytes(), Some(crl.as_bytes())).map(drop).map_err(|e| e.to_string());
    assert_eq!(load(&ca.crl(&[], next)), Ok(()));
    assert_eq!(load(&TestCa::root("another").crl(&[], next)), Ok(()), "it may be an intermediate's");
    assert!(load("").unwrap_err().contains("no PEM block"));
    assert!(load(&pem).unwrap_err().contains("no PEM block"));
    assert_eq!(load(&namesake.crl(&[], next)), Ok(()), "it may be that of a CA that was taken out");
    assert!(load(&with_a_bad_signature(&ca.crl(&[], next))).unwrap_err().contains("has not signed it"));
    let broken = ca.crl(&[], next) + "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    assert!(load(&broken).unwrap_err().contains("revocation list 2"), "{:?}", load(&broken));
    assert!(ClientCa::from_pem(b"", None).unwrap_err().to_string().contains("CERTIFICATE"));
}

/// `judge`, when the files have these CAs and lists by now.
fn renewed(judge: &ClientCa, cas: &[&TestCa], crl: &str) -> ClientCa {
    let pem: String = cas.iter().map(|ca| ca.certificate().pem()).collect();
    judge.renewed(pem.as_bytes(), Some(crl.as_bytes())).unwrap()
}

/// What is written in place is read half-written, and half of it is a good file too.
#[test]
fn a_list_that_is_gone_counts_until_the_file_has_settled() {
    let (one, other, next) = (TestCa::root("one"), TestCa::root("other"), timestamp(LATER));
    let below = one.intermediate("below");
    let [of_one, of_other, of_below] = [&one, &other, &below].map(web);
    let cas = [&one, &other];
    let only = one.crl(&[&of_one], next);
    let all = only.clone() + &other.crl(&[&of_other], next) + &below.crl(&[&of_below], next);
    let whole = client_cas(&cas, &all);
    let half = renewed(&whole, &cas, &only);
    for judge in [&whole, &half, &renewed(&half, &cas, &only)] {
        is_revoked(judge, &[&of_one]);
        is_revoked(judge, &[&of_other]);
        is_revoked(judge, &[&of_below, below.certificate()]);
    }
    assert_eq!(half.missed_lists(), ["CN=other", "CN=below"]);
    assert!(whole.missed_lists().is_empty() && renewed(&half, &cas, &all).missed_lists().is_empty());

    let settled = half.without_missed();
    is_revoked(&settled, &[&of_one]);
    assert_eq!(verdict(&settled, &[&of_other]), Ok(()));
    assert!(settled.missed_lists().is_empty() && renewed(&settled, &cas, &only).missed_lists().is_empty());
    // That of a CA which goes out with it settles as well.
    let without = renewed(&whole, &[&one], &(only + &below.crl(&[], next)));
    assert_eq!((without.missed_lists(), without.lists_of_others()), (vec!["CN=other"], vec!["CN=below"]));
    assert!(without.without_missed().missed_lists().is_empty());
}

/// Clients go on showing it as an intermediate, and reach the root.
#[test]
fn the_list_of_a_ca_that_is_taken_out_counts_on_below_its_root() {
    let (root, next) = (TestCa::root("root"), timestamp(LATER));
    let below = root.intermediate("below");
    let (good, bad) = (web(&below), web(&below));
    let of_root = root.crl(&[], next);
    let old = below.crl_from(timestamp(NOW - 500), &[], next);
    let list = below.crl_from(timestamp(NOW - 400), &[&bad], next);
    let newest = below.crl_from(timestamp(NOW - 300), &[], next);
    let whole = client_cas(&[&root, &below], &(of_root.clone() + &list));
    let without = |lists: &str| renewed(&whole, &[&root], &(of_root.clone() + lists));
    let verdict = |judge: &ClientCa, leaf| verdict(judge, &[leaf, below.certificate()]);

    let lost = without("");
    let later = renewed(&lost, &[&root], &(of_root.clone() + "\n"));
    let back = renewed(&lost, &[&root, &below], &of_root);
    for judge in [&lost, &later, &back] {
        is_revoked(judge, &[&bad, below.certificate()]);
        assert_eq!((verdict(judge, &good), judge.missed_lists()), (Ok(()), vec!["CN=below"]));
    }
    assert_eq!(verdict(&lost.without_missed(), &bad), Ok(()), "as with any other list");

    let put_back = without(&old);
    for judge in [&put_back, &put_back.without_missed()] {
        is_revoked(judge, &[&bad, below.certificate()]);
        assert_eq!((judge.missed_lists(), judge.older_lists()), (vec![], vec!["CN=below"]));
    }
    // The file has it still, or its successor.
    for (lists, expected) in [(&list, false), (&newest, true)] {
        let judge = without(lists);
        assert_eq!(verdict(&judge, &bad).is_ok(), expected);
        assert!(judge.missed_lists().is_empty() && judge.older_lists().is_empty());
    }
    // A successor by its name is another CA.
    let namesake = TestCa::root("below");
    let judge = renewed(&client_cas(&[&below], &list), &[&namesake], &of_root);
    assert_eq!(
        (judge.verify(&[web(&namesake).der().clone()], timestamp(NOW)).is_ok(), judge.missed_lists().len()),
        (true, 1)
    );
}

/// What was read when nobody knew its CA is not dropped for what is known by now.
#[test]
fn a_list_that_is_found_to_be_no_good_is_missed_as_well() {
    let (root, next) = (TestCa::root("root"), timestamp(LATER));
    let below = root.intermediate("below");
    let of_root = root.crl(&[], next);
    let forged = with_a_bad_signature(&below.crl(&[], next));
    let judge = renewed(&client_ca(&root, Some(&(of_root.clone() + &forged))), &[&root, &below], &of_root);
    assert_eq!(judge.missed_lists(), ["CN=below"]);
    assert!(verdict(&judge, &[&web(&below)]).is_err());
    assert_eq!(verdict(&judge.without_missed(), &[&web(&below)]), Ok(()));
}

#[test]
fn an_older_list_does_not_take_the_place_of_a_newer_one() {
    let (ca, next) = (TestCa::root("clients"), timestamp(LATER));
    let bad = web(&ca);
    let old = ca.crl_from(timestamp(NOW - 500), &[], next);
    let new = ca.crl_from(timestamp(NOW - 400), &[&bad], next);
    let newest = ca.crl_from(timestamp(NOW - 300), &[], next);
    let put_back = renewed(&client_ca(&ca, Some(&new)), &[&ca], &old);
    for judge in [&put_back, &put_back.without_missed(), &renewed(&put_back, &[&ca], &(old.clone() + "\n"))] {
        is_revoked(judge, &[&bad]);
        assert_eq!(judge.older_lists(), ["CN=clients"]);
    }
    let mended = renewed(&put_back, &[&ca], &newest);
    assert_eq!(verdict(&mended, &[&bad]), Ok(()));
    assert!(mended.older_lists().is_empty());
    // One that is appended to does not lose the older one.
    let both = renewed(&client_ca(&ca, Some(&(old + &new))), &[&ca], &new);
    assert!(both.missed_lists().is_empty() && both.older_lists().is_empty());
}

#[test]
fn a_verdict_is_good_until_the_first_end_on_the_path_that_was_found() {
    let root = TestCa::root_until("root", timestamp(NOW + 300));
    let [long, short] =
        [("long", NOW + 200), ("short", NOW + 50)].map(|(name, end)| root.intermediate_until(name, timestamp(end)));
    let of = |ca: &TestCa, seconds: i64| {
        ca.leaf(&LeafOptions {
            validity: Some((timestamp(NOW - 9), timestamp(NOW + seconds))),
            ..leaf(&["spiffe://prod/web"])
        })
    };
    let until = |chain: &[&Certificate]| {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.der().clone()).collect();
        client_ca(&root, None).verify(&chain, timestamp(NOW)).unwrap()
    };
    let stranger = TestCa::root_until("stranger", timestamp(NOW - 1));
    // What is shown beside the path, over or soon, is nobody's business.
    let chain = [&of(&long, 100), long.certificate(), short.certificate(), stranger.certificate()];
    assert_eq!(until(&chain), timestamp(NOW + 100));
    assert_eq!(until(&[&of(&long, 500), long.certificate()]), timestamp(NOW + 200));
    assert_eq!(until(&[&of(&short, 500), short.certificate()]), timestamp(NOW + 50));
    assert_eq!(until(&[&of(&root, 500)]), timestamp(NOW + 300), "the CA's own end counts");
}

/// Who trusts a CA trusts it until its end, whatever its leaves say.
#[test]
fn a_ca_that_is_over_accepts_nobody() {
    let old = TestCa::root_until("clients", timestamp(NOW - 1));
    let renewed = old.renewed_until(timestamp(LATER));
    let web = web(&old);
    let judge = client_ca(&old, None);
    let error = verdict(&judge, &[&web]).unwrap_err();
    assert!(error.contains("expired"), "{error}");
    assert_eq!(judge.ended_cas(timestamp(NOW)).len(), 1);
    // Renewed with the same key it does, in whichever order they are there, and is told of.
    for cas in [[&old, &renewed], [&renewed, &old]] {
        let judge = client_cas(&cas, "");
        assert_eq!(judge.verify(&[web.der().clone()], timestamp(NOW)), Ok(timestamp(LATER)));
        assert_eq!(
            (judge.ended_cas(timestamp(NOW)).len(), judge.next_end(timestamp(NOW))),
            (1, Some(timestamp(LATER)))
        );
    }
}

#[test]
fn what_is_no_ca_is_no_client_ca() {
    let ca = TestCa::root("clients");
    let pem = ca.certificate().pem() + &web(&ca).pem();
    let error = ClientCa::from_pem(pem.as_bytes(), None).unwrap_err();
    assert!(
        matches!(&error, ClientCaError::Ca(what) if what.contains("certificate 2") && what.contains("no CA")),
        "{error}"
    );
}
