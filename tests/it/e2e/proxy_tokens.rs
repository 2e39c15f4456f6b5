//! Proxy tokens, as `envoy-sds token issue` signs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::{Code, Status};

use super::{Scene, cli, strangers_before};
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::eventually::eventually;
use crate::support::mesh::builtin_mesh;
use crate::support::proxy::{Login, Proxy};
use crate::support::sds::{self, Caller, Watcher};
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::{PATIENCE, scratch};

const MINUTE: Duration = Duration::from_secs(60);

/// A token and the id by which it is revoked.
#[derive(Debug)]
struct Token {
    text: String,
    id: String,
}

/// Has the program issue a token for the proxy `<workload>-0`.
async fn issue(state_dir: &Path, workload: &str, more: &[&str]) -> Token {
    let (state_dir, name) = (state_dir.display().to_string(), format!("{workload}-0"));
    let mut arguments = vec!["token", "issue", "--verbose", "--state-dir", &state_dir, "--workload", workload];
    arguments.extend(["--name", &name]);
    arguments.extend(more);
    let output = cli::run(&arguments, &scratch::dir("token"), MINUTE).await;
    let [text, told] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it is text"));
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(text.starts_with("eyJ") && !text.contains('\n'), "one token and nothing else: {text:?}");
    let id = told.split(" id ").nth(1).and_then(|rest| rest.split(' ').next());
    Token { text, id: id.unwrap_or_else(|| panic!("no id: {told}")).to_owned() }
}

/// A server that identifies by proxy tokens alone; `more` goes into the method's configuration.
async fn serve(more: &str) -> Server {
    let mesh = builtin_mesh("1h");
    let identify = format!("{{proxyToken: {{{more}}}}}");
    let mut server = Server::start(Settings { mesh: &mesh, identify: &identify, ..NODE_ID }).await;
    server.ready().await;
    server
}

async fn begin(server: &Server, one: &Token, other: &Token) -> Scene {
    let login = |token| Login::ProxyToken { token };
    let pair = Proxy::pair(server, ("web", login(&one.text)), ("api", login(&other.text))).await;
    let strangers = strangers_before(&pair, "spiffe://default/web", "default");
    let scene = Scene::begin(pair, strangers).await;
    scene.one.shows("what its token says", |leaf| leaf.uris == ["spiffe://default/web"]).await;
    scene
}

async fn fetch(server: &Server, token: Option<&str>) -> Result<usize, Status> {
    // Another's node id: it counts for nothing.
    let caller = Caller { node: "api-0", workload: "api", token };
    let names = ["ROOTCA", "spiffe://default/web", "spiffe://default/api"];
    sds::fetch(&server.socket, caller, &names).await.map(|secrets| secrets.len())
}

/// Waits until the proxy has lost both of its streams again, for the reason that is logged.
async fn loses_its_streams(proxy: &Proxy, server: &Server, failed: u64, reason: &str) {
    eventually(&format!("{} loses its streams", proxy.name), PATIENCE, async || {
        let now = proxy.failed_streams().await;
        if now >= failed + 2 { Ok(()) } else { Err(format!("{now}, and it was {failed}\n{}", server.log_tail())) }
    })
    .await;
    server.logs("INFO", &[reason]).await;
}

/// A token that is replaced under a running Envoy: its stream ends when the old one expires, the next one opens with the
/// new one, and no request fails. One that is not replaced is refused from then on.
#[tokio::test]
async fn a_token_is_replaced_under_a_running_envoy_and_refused_when_it_has_expired() {
    let server = serve("").await;
    let state = server.state_dir();
    let short = issue(&state, "web", &["--valid-for", "45s"]).await;
    let mut scene = begin(&server, &short, &issue(&state, "api", &[]).await).await;
    assert!(fetch(&server, Some(&short.text)).await.is_ok_and(|count| count == 2), "its own, and no other's");
    let brief = issue(&state, "web", &["--valid-for", "12s", "--label", "app=web"]).await;
    let caller = Caller { node: "web-1", workload: "web", token: Some(&brief.text) };
    let watcher = Watcher::start(&server.socket, caller, "ROOTCA");
    let failed = scene.one.failed_streams().await;
    scene.one.set_token(&issue(&state, "web", &[]).await.text);

    eventually("the stream ends with its token, and no other is opened", PATIENCE, async || {
        let ends = watcher.ends();
        let refused = ends.len() > 1 && ends[1..].iter().all(|end| end.contains("nauthenticated"));
        if refused { Ok(()) } else { Err(format!("{ends:?}")) }
    })
    .await;
    watcher.assert_sound();
    drop(watcher);
    // Whether or not it came back with it after that.
    has_expired(&server, &brief).await;
    server.logs("INFO", &[&brief.id, "expired at"]).await;

    eventually("Envoy's streams end with the old token", PATIENCE, async || {
        let now = scene.one.failed_streams().await;
        if now >= failed + 2 { Ok(()) } else { Err(format!("{now}, and it was {failed}")) }
    })
    .await;
    scene.one.is_connected(PATIENCE).await;
    scene.goes_on("with another token").await;
    let log = server.log();
    let refused: Vec<_> = log.iter().filter(|line| line.to_string().contains(&short.id)).collect();
    assert!(refused.is_empty(), "it came back with the new token at once: {refused:?}");
    has_expired(&server, &short).await;
    server.assert_discreet();
    scene.end().await;
}

/// Waits until a token is refused. Streams end some time before their token does, so that not all of them do at once.
async fn has_expired(server: &Server, token: &Token) {
    eventually("the token has expired", PATIENCE, async || match fetch(server, Some(&token.text)).await {
        Err(refused) if refused.code() == Code::Unauthenticated => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Two keys at once, each of which has signed the token of one proxy. A token that is revoked loses its streams within
/// seconds, and so do those of a key that is removed; the other proxy's go on, and who gets a new token is back. Not one
/// request fails meanwhile.
#[tokio::test]
async fn revoked_tokens_and_removed_keys_end_streams_and_others_go_on() {
    let list = scratch::dir("revocations").join("revoked.txt");
    fs::write(&list, "# nobody yet\n").expect("the scratch folder can be written");
    let server = serve(&format!("revocations: {{file: {}}}", list.display())).await;
    let state = server.state_dir();
    let made = keys(&state);
    let [first_key] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!(fs::metadata(first_key).expect("it is there").permissions().mode() & 0o777, 0o600);
    let web = issue(&state, "web", &[]).await;
    let api = issue(&state, "api", &["--new-key"]).await;
    assert_eq!(keys(&state).len(), 2);
    let mut scene = begin(&server, &web, &api).await;
    let others = scene.other.failed_streams().await;

    let failed = scene.one.failed_streams().await;
    fs::write(&list, format!("# stolen:\n{},\n", web.id)).expect("the scratch folder can be written");
    loses_its_streams(&scene.one, &server, failed, &format!("token {} is revoked", web.id)).await;
    assert_eq!(fetch(&server, Some(&web.text)).await.expect_err("it is revoked").code(), Code::Unauthenticated);
    // A list that goes wrong changes nothing, and is told.
    fs::write(&list, b"\xff\n").expect("the scratch folder can be written");
    server.says(&["identify", "revoked.txt", "UTF-8"]).await;
    assert_eq!(fetch(&server, Some(&web.text)).await.expect_err("it is revoked").code(), Code::Unauthenticated);
    fs::write(&list, &web.id).expect("the scratch folder can be written");
    server.is_content().await;
    let second = issue(&state, "web", &[]).await;
    scene.one.set_token(&second.text);
    scene.one.is_connected(PATIENCE).await;
    scene.goes_on("with a token in the place of the revoked one").await;

    // The first key signs again, and then is removed.
    let newest = keys(&state).into_iter().find(|key| key != first_key).expect("there are two");
    let made = fs::metadata(newest).and_then(|file| file.modified()).expect("it is there");
    let file = fs::File::options().write(true).open(first_key).expect("it is there");
    file.set_modified(made + MINUTE).expect("its time can be set");
    let by_first = issue(&state, "web", &[]).await;
    scene.one.set_token(&by_first.text);
    assert_eq!(fetch(&server, Some(&by_first.text)).await.expect("it is good"), 2);
    fs::write(&list, format!("{}, {}", web.id, second.id)).expect("the scratch folder can be written");
    let failed = scene.one.failed_streams().await;
    loses_its_streams(&scene.one, &server, failed, &format!("token {} is revoked", second.id)).await;
    scene.one.is_connected(PATIENCE).await;
    let failed = scene.one.failed_streams().await;
    fs::remove_file(first_key).expect("a file can be removed");
    loses_its_streams(&scene.one, &server, failed, &format!("token {} was removed", by_first.id)).await;
    assert_eq!(fetch(&server, Some(&by_first.text)).await.expect_err("its key is gone").code(), Code::Unauthenticated);
    scene.one.set_token(&issue(&state, "web", &[]).await.text);
    scene.one.is_connected(PATIENCE).await;
    scene.goes_on("with the second key alone").await;
    assert_eq!(scene.other.failed_streams().await, others, "the other proxy has nothing to do with any of it");
    for (what, token) in [("nothing", None), ("rubbish", Some("rubbish"))] {
        assert_eq!(fetch(&server, token).await.expect_err(what).code(), Code::Unauthenticated);
    }
    server.assert_discreet();
    scene.end().await;
}

/// Each mesh's Secret in the cluster revokes tokens of that mesh, and lets them in again when it is gone. One that has another
/// mesh's label is told.
#[tokio::test]
async fn mesh_secrets_revoke() {
    let place = Deployment::new(Cluster::shared(), "revoke").await;
    let mesh = builtin_mesh("1h");
    let meshes = format!("{mesh}---\n{}", mesh.replace("name: default", "name: prod"));
    let identify = "{proxyToken: {revocations: {secret: revoked-<mesh>}}}";
    let mut server =
        Server::start(Settings { mesh: &meshes, identify, kubernetes: Some(place.kubernetes()), more: "" }).await;
    server.ready().await;
    let state = server.state_dir();
    let tokens = [issue(&state, "web", &[]).await, issue(&state, "web", &["--mesh", "prod"]).await];
    let become_of = async |wanted: [Option<Code>; 2]| {
        eventually(&format!("the answers are {wanted:?}"), PATIENCE, async || {
            let mut answers = [None; 2];
            for (token, answer) in tokens.iter().zip(&mut answers) {
                let caller = Caller { node: "web-0", workload: "web", token: Some(&token.text) };
                *answer = sds::fetch(&server.socket, caller, &["ROOTCA"]).await.err().map(|status| status.code());
            }
            if answers == wanted { Ok(()) } else { Err(format!("{answers:?}\n{}", server.log_tail())) }
        })
        .await;
    };
    let kind = "system.kuma.io/secret";
    let both = format!("{}\n{}", tokens[0].id, tokens[1].id);
    become_of([None, None]).await;
    place.secret_of("prod", "revoked-prod", kind, &both).await;
    become_of([None, Some(Code::Unauthenticated)]).await;
    place.secret_of("default", "revoked-default", kind, &both).await;
    become_of([Some(Code::Unauthenticated); 2]).await;
    // Moved to another mesh by its label: what it said last holds.
    place.secret_of("default", "revoked-prod", kind, "").await;
    server.says(&["identify", "Secret revoked-prod of mesh prod", "kuma.io/mesh"]).await;
    become_of([Some(Code::Unauthenticated); 2]).await;
    place.delete_secret("revoked-prod").await;
    become_of([Some(Code::Unauthenticated), None]).await;
    place.delete_secret("revoked-default").await;
    become_of([None, None]).await;
}

/// Many tokens at once, one a line; and what cannot be is told with exit code 2, before any key is made.
#[tokio::test]
async fn tokens_are_issued_offline() {
    let dir = scratch::dir("issue");
    let issue = async |more: &[&str]| {
        let arguments = [&["token", "issue", "--state-dir", "state", "--workload", "web", "--name"][..], more].concat();
        let output = cli::run(&arguments, &dir, MINUTE).await;
        let text = |bytes| String::from_utf8(bytes).expect("it is text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    for (wrong, reason) in [
        (&["web-0", "--label", "app"][..], "expected KEY=VALUE"),
        (&["web-0", "--label", "a=1", "--label", "a=2"], "--label a is there twice"),
        (&["web-0", "--valid-for", "soon"], "is not a duration"),
        (&["web-0", "--valid-for", "1ms"], "a second at least"),
        (&["web-0", "--mesh", "Default"], "no trust domain"),
        (&["web-0", "--count", "0"], "0 is not in"),
        (&["a\u{7}b"], "cannot be shown"),
    ] {
        let (code, tokens, told) = issue(wrong).await;
        assert_eq!((code, tokens.as_str()), (Some(2), ""), "{told}");
        assert!(told.contains(reason), "{told}");
    }
    assert!(!dir.join("state").exists());
    let (code, tokens, told) = issue(&["web", "--count", "3"]).await;
    assert_eq!((code, tokens.lines().count(), told.as_str()), (Some(0), 3, ""), "{told}");
    let (_, _, told) = issue(&["web", "--count", "2", "-v"]).await;
    assert!(told.contains("web-0: id ") && told.contains("web-1: id ") && told.contains(" until "), "{told}");
    assert_eq!(keys(&dir.join("state")).len(), 1);
}

fn keys(state_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state_dir.join("proxy-token")).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut keys: Vec<_> = paths.filter(|path| path.extension().is_some_and(|ending| ending == "key")).collect();
    keys.sort();
    keys
}
