//! How to connect a first Envoy: said at the start, as commands that work on this machine as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::{Config, Endpoint, Listener};
use crate::identify::proxy_token::DEFAULT_AUDIENCE;
use crate::model::text::for_shell;

/// The mesh that commands mean unless they are told.
const USUAL_MESH: &str = "default";

/// The commands, in one line, and what they leave open; `None` where a token of this server's own is not all that a proxy
/// needs, or none of its listeners is one that an Envoy on this machine should use. `addresses` are those that are bound, in
/// the listeners' order, and `meshes` what is known of them.
pub(super) fn commands<'m>(
    config: &Config,
    addresses: &[String],
    meshes: impl Iterator<Item = &'m str> + Clone,
) -> Option<String> {
    let method = config.identify.proxy_token.as_ref().filter(|_| config.identify.is_by_own_tokens_alone())?;
    let ways = config.listeners.iter().zip(addresses).filter_map(|(listener, address)| Way::to(listener, address));
    let Way { server, certificate, .. } = ways.min_by_key(|way| way.rank)?;
    let mesh = match meshes.clone().find(|mesh| *mesh == USUAL_MESH) {
        Some(_) => String::new(),
        None => meshes.take(1).map(|mesh| format!(" --mesh {}", for_shell(mesh))).collect(),
    };
    let audience = match method.audiences.first() {
        Some(other) if !method.audiences.iter().any(|audience| audience == DEFAULT_AUDIENCE) => {
            format!(" --audience {}", for_shell(other))
        }
        _ => String::new(),
    };
    let (flag, note) = match certificate {
        None => ("", String::new()),
        Some(file) => (
            " --server-ca FILE",
            format!(
                " (FILE has the CA of {file}; if that is for another name than the address, --server-name says which)"
            ),
        ),
    };
    Some(format!(
        "envoy-sds token issue --state-dir {}{mesh}{audience} --name web-0 --workload web --out token && \
         envoy-sds bootstrap --server {}{flag}{mesh} --folder . && envoy -c envoy.yaml{note}",
        for_shell(&absolute(&config.state_dir)),
        for_shell(&server),
    ))
}

/// How an Envoy on this machine reaches a listener.
struct Way {
    /// The lowest asks for least.
    rank: u8,
    /// `--server`
    server: String,
    /// The server's certificate, whose CA Envoy has to know.
    certificate: Option<String>,
}

impl Way {
    /// `None` for an address without TLS that is not this machine's alone: a bootstrap has no keys come from there.
    fn to(listener: &Listener, bound: &str) -> Option<Self> {
        if let Endpoint::Unix(path) = &listener.at {
            return Some(Self { rank: 0, server: format!("unix:{}", absolute(path)), certificate: None });
        }
        let mut address: SocketAddr = bound.parse().ok()?;
        match address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let server = address.to_string();
        match &listener.tls {
            Some(tls) => Some(Self { rank: 2, server, certificate: Some(absolute(&tls.certificate)) }),
            None => address.ip().is_loopback().then_some(Self { rank: 1, server, certificate: None }),
        }
    }
}

/// Whoever pastes it may be in another folder.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_error| path.to_owned()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ListenerTls, Overrides, Surroundings};

    fn config(listeners: Vec<Listener>) -> Config {
        let overrides = Overrides { state_dir: Some("/s".into()), ..Overrides::default() };
        Config { listeners, ..Config::load(None, overrides, &Surroundings::default()).unwrap() }
    }

    fn plain(at: &str) -> Listener {
        Listener::plain(at.parse().unwrap())
    }

    fn with_tls(at: &str) -> Listener {
        let file = |name: &str| format!("/tls/{name}").into();
        let tls = ListenerTls {
            certificate: file("tls.crt"),
            private_key: file("tls.key"),
            client_ca: None,
            client_crl: None,
        };
        Listener { tls: Some(tls), ..plain(at) }
    }

    /// What `--server` is, and what follows it.
    fn server(listeners: &[(Listener, &str)]) -> Option<String> {
        let (listeners, addresses): (Vec<_>, Vec<_>) =
            listeners.iter().map(|(listener, bound)| (listener.clone(), (*bound).to_owned())).unzip();
        let told = commands(&config(listeners), &addresses, ["default"].into_iter())?;
        let (_, server) = told.split_once(" --server ").unwrap();
        Some(server.split(" --folder").next().unwrap().to_owned())
    }

    #[test]
    fn the_address_that_asks_for_least_is_named_and_complete() {
        let (unix, any, loopback) =
            (plain("unix:/run/a b.sock"), (plain("0.0.0.0:0"), "0.0.0.0:41"), (plain("localhost:0"), "[::1]:42"));
        let (remote, secured) = ((plain("10.0.0.1:5678"), "10.0.0.1:5678"), (with_tls("[::]:5678"), "[::]:5678"));
        let is = |expected: &str| Some(expected.to_owned());
        assert_eq!(server(&[any.clone(), (unix, "unix:/run/a b.sock")]), is("'unix:/run/a b.sock'"));
        assert_eq!(server(&[secured.clone(), any]), is("127.0.0.1:41"));
        assert_eq!(server(&[remote.clone(), loopback]), is("'[::1]:42'"));
        assert_eq!(server(&[remote.clone(), secured.clone()]), is("'[::1]:5678' --server-ca FILE"));
        assert_eq!(server(&[remote]), None, "no keys are to cross a network in the clear");
        let (listener, bound) = secured;
        let told = commands(&config(vec![listener]), &[bound.to_owned()], ["default"].into_iter()).unwrap();
        assert!(told.contains("(FILE has the CA of /tls/tls.crt; "), "{told}");
    }

    #[test]
    fn the_token_is_one_that_this_server_takes() {
        let mut config = config(vec![plain("127.0.0.1:0")]);
        let told = |config: &Config, meshes: &[&'static str]| {
            commands(config, &["127.0.0.1:41".to_owned()], meshes.iter().copied())
        };
        let usual = "envoy-sds token issue --state-dir /s --name web-0 --workload web --out token && envoy-sds bootstrap \
                     --server 127.0.0.1:41 --folder . && envoy -c envoy.yaml";
        for meshes in [&["a", "default"][..], &[]] {
            assert_eq!(told(&config, meshes).as_deref(), Some(usual));
        }
        config.state_dir = "it's".into();
        config.identify.proxy_token.as_mut().unwrap().audiences = vec!["mine".to_owned()];
        let other = told(&config, &["prod"]).unwrap();
        assert!(other.contains("/it'\\''s' --mesh prod --audience mine --name web-0"), "{other}");
        assert!(other.contains("--server 127.0.0.1:41 --mesh prod --folder"), "{other}");
        config.identify.insecure_node_id = true;
        assert_eq!(told(&config, &[]), None);
    }
}
