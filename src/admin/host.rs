//! By which names the pages are asked for. The address has no authentication but being out of reach, and a web page in a browser
//! reaches it under a name of the page's own, if that comes to mean 127.0.0.1 (DNS rebinding): to the browser it is that page's
//! server then, whose answers it may read. But the browser says which name it asked for, and that is nobody's that is ours.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// How names end that only this machine's, a cluster's or a company's own DNS has: nobody can publish one.
const PRIVATE: [&str; 5] = [".localhost", ".svc", ".cluster.local", ".internal", ".home.arpa"];

/// What whoever asks by another name is told. The name is not repeated: it is a stranger's text.
const WHY: &str = "This address does not go by that name: ask for it by its IP address, as localhost, or as NAME.NAMESPACE.svc, \
                   or list the name in admin.hostNames of the server's configuration.\n";

/// Lets through what asks for this server by address, by a name that nobody can publish, or by one of `own`, the names that it was
/// configured with.
pub(super) async fn check(State(own): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let authority = request.uri().authority().map(Authority::as_str);
    if hosts.chain(authority).all(|asked| is_ours(asked, &own)) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, WHY).into_response()
}

/// Whether `asked`, a host with or without a port, can be no name of another's.
fn is_ours(asked: &str, own: &[String]) -> bool {
    let Ok(asked) = asked.parse::<Authority>() else { return false };
    let host = asked.host().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let is_address = host.parse::<IpAddr>().is_ok();
    let is_private = !host.contains('.') || PRIVATE.iter().any(|end| host.ends_with(end));
    is_address || is_private || own.iter().any(|own| host.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kubernetes' probes and Prometheus ask (the pod's address), its DNS (a Service's name, as short as one likes), and an
    /// ingress (the name that its user sees).
    #[test]
    fn a_name_that_somebody_can_publish_is_not_ours() {
        let own = ["sds.example.com", "envoy-sds.kong-mesh-system"].map(str::to_owned);
        for asked in [
            "127.0.0.1:5681",
            "127.0.0.1",
            "10.1.2.3:5681",
            "[::1]:5681",
            "[::1]",
            "localhost:5681",
            "LOCALHOST.",
            "sds.localhost",
            "envoy-sds:5681",
            "envoy-sds.mesh.svc",
            "envoy-sds.mesh.svc.cluster.local:5681",
            "host.docker.internal:5681",
            "sds.example.com:5681",
            "SDS.example.com",
            "envoy-sds.kong-mesh-system:5681",
        ] {
            assert!(is_ours(asked, &own), "{asked}");
        }
        for asked in [
            "",
            "evil.example",
            "evil.example:5681",
            "evil.example.:5681",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "svc.evil.example",
            "127.0.0.1@evil.example",
            "evil.example/",
            "two words",
            "example.com",
            "x.sds.example.com",
            // Namespaces may be called like what names are published under.
            "envoy-sds.shop:5681",
        ] {
            assert!(!is_ours(asked, &own), "{asked}");
        }
    }
}
