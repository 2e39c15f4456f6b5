use serde_json::json;

use super::*;

#[test]
fn certificates_and_names_stay_and_all_else_that_may_be_a_key_is_marked() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem().replace("\r\n", "\n");
    let (pem, der) = (key.serialize_pem(), STANDARD.encode(key.serialize_der()));
    let long = "aB".repeat(30);
    let mut object = json!({
        "metadata": {"name": "default", "labels": {"value": "web", "other": long}},
        "spec": {"a": [{"inline": STANDARD.encode(&certificate)}, {"inline": STANDARD.encode(&pem)}, {"inline": "%"}],
            "b": {"inlineString": certificate, "c": {"inlineString": format!("{certificate}{pem}")}},
            "d": {"value": format!("{der}\n{certificate}"), "secret": der, "file": "/etc/ca.pem", "n": 1}},
    });
    strip(&mut object);
    assert_eq!(
        object,
        json!({
            "metadata": {"name": "default", "labels": {"value": "web", "other": long}},
            "spec": {"a": [{"inline": STANDARD.encode(&certificate)}, {"inline": NOT_KEPT}, {"inline": NOT_KEPT}],
                "b": {"inlineString": certificate, "c": {"inlineString": NOT_KEPT}},
                "d": {"value": certificate, "secret": NOT_KEPT, "file": "/etc/ca.pem", "n": 1}},
        })
    );
}
