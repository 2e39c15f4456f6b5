//! The configuration of the client, and what errors say.

use super::*;

#[tokio::test]
async fn a_missing_kubeconfig_is_named() {
    let error = connect(Mode::Auto, Some(Path::new("/no/such/config"))).await.err().unwrap().to_string();
    assert!(error.contains("/no/such/config"), "{error}");
}

#[tokio::test]
async fn off_is_off() {
    assert!(connect(Mode::Off, Some(Path::new("/no/such/config"))).await.unwrap().is_none());
}

#[tokio::test]
async fn a_kubeconfig_makes_a_client_without_any_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}]}"#;
    std::fs::write(&path, text).unwrap();
    assert!(connect(Mode::On, Some(&path)).await.unwrap().is_some());
}

#[test]
fn errors_are_explained_with_their_causes() {
    let status = kube::core::Status::failure("leases is forbidden", "Forbidden").with_code(403).boxed();
    let refused = || kube::Error::Service(Box::new(std::io::Error::other("connection refused")));
    for (error, expected) in [
        (watcher::Error::InitialListFailed(kube::Error::Api(status)), "leases is forbidden (403)"),
        (watcher::Error::WatchFailed(refused()), "ServiceError: connection refused"),
    ] {
        let explained = explain(&error);
        assert!(explained.ends_with(&format!(": {expected}")), "{explained}");
        assert_eq!(explained.matches(expected).count(), 1);
    }
}
