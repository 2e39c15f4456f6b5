//! Where the real parts are.

use std::path::PathBuf;

/// The program `name`: `envoy`, `envoy-oldest` (the oldest version that is supported), `etcd`, `kube-apiserver`, `kubectl`,
/// `cert-manager`, `promtool` or `compose-loader`.
pub fn program(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(path.exists(), "{} is missing: run tests/run, it installs the real parts", path.display());
    path
}

/// The folder with cert-manager's custom resource definitions, of the version that [`program`] gives.
pub fn crds() -> PathBuf {
    program("crds")
}

fn folder() -> PathBuf {
    let from = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("ENVOY_SDS_PARTS").unwrap_or_else(|| {
        from("ENVOY_SDS_CACHE")
            .or_else(|| from("XDG_CACHE_HOME").map(|cache| cache.join("envoy-sds")))
            .or_else(|| from("HOME").map(|home| home.join(".cache/envoy-sds")))
            .expect("ENVOY_SDS_PARTS or HOME is set")
            .join("parts/current")
    })
}
