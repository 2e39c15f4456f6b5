use super::*;

fn public_pem(key: &SigningKey) -> String {
    let spki: Vec<u8> = [&SPKI_OF_P256[..], &key.public.point].concat();
    pem::encode(&pem::Pem::new("PUBLIC KEY", spki))
}

#[test]
fn a_key_is_named_by_what_it_is() {
    let key = SigningKey::generate().unwrap();
    let again = SigningKey::from_pem(key.to_pem().as_bytes()).unwrap();
    assert_eq!(again.public, key.public);
    assert_eq!(key.kid().len(), 2 * KID_BYTES);
    assert!(is_kid(key.kid()));
    assert_ne!(SigningKey::generate().unwrap().kid(), key.kid());
    let public = VerifyingKey::from_pem(key.kid(), public_pem(&key).as_bytes()).unwrap();
    assert_eq!(public, key.public);
    assert_eq!(format!("{key:?}"), format!("SigningKey({:?})", key.kid()));
}

#[test]
fn other_keys_are_refused_without_quoting_them() {
    let key = SigningKey::generate().unwrap();
    let of_another_curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for pem in [of_another_curve.serialize_pem(), public_pem(&key), String::new(), "rubbish".to_owned()] {
        let error = SigningKey::from_pem(pem.as_bytes()).unwrap_err();
        assert!(error.contains("PKCS#8"), "{error}");
    }
    let mut off_the_curve = [&SPKI_OF_P256[..], &key.public.point].concat();
    *off_the_curve.last_mut().unwrap() ^= 1;
    let off_the_curve = pem::encode(&pem::Pem::new("PUBLIC KEY", off_the_curve));
    for pem in [of_another_curve.public_key_pem(), off_the_curve, key.to_pem().to_string()] {
        let error = VerifyingKey::from_pem("a", pem.as_bytes()).unwrap_err();
        assert!(error.contains("BEGIN PUBLIC KEY"), "{error}");
    }
}
