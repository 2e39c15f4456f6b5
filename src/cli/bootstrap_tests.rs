use clap::Parser;

use super::super::{Cli, Command};
use super::*;

fn settings(line: &str) -> Result<Settings, String> {
    let words = ["envoy-sds", "bootstrap"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
    match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
        Command::Bootstrap(command) => command.settings().map_err(|failure| match failure {
            Failure::Usage(what) => what,
            other => panic!("{other:?}"),
        }),
        other => panic!("{other:?}"),
    }
}

/// The first line of a bootstrap gives that very bootstrap, and what holds without a flag is the same here as there.
#[test]
fn the_command_in_a_bootstrap_gives_it_again() {
    for line in [
        "--server unix:/run/sds.sock",
        "--server a:1 --server-ca /ca --server-name b --identity service-account --grpc-client google --token-file /t",
        "--server a:1 --server-ca /ca --identity client-certificate --certificate-folder /c --secret-file /s",
        "--server unix:/s --identity unix --workload x --names spire --spiffe-id spiffe://a/b --api delta",
        "--server unix:/s --identity node-id --mesh m --name n --api ads --listen [::]:1 --outbound [::1]:2 --upstream c:3",
        "--server 127.0.0.1:5678 --names osm --namespace shop --admin 127.0.0.1:0 --application localhost:3",
        "--server unix:/s --client-id spiffe://a/b --client-id spiffe://a/c --upstream-id spiffe://a/d",
    ] {
        let first = settings(line).unwrap();
        let text = crate::bootstrap::Bootstrap::new(first.clone()).unwrap().text();
        let command = text.lines().next().and_then(|line| line.strip_prefix("# envoy-sds bootstrap ")).unwrap();
        // What a shell does with brackets in quotes.
        assert_eq!(settings(&command.replace('\'', "")).unwrap(), first, "{command}");
    }
    let named = settings("--server unix:/s").unwrap();
    let Settings { server, identity, secret_file, .. } = named.clone();
    let (name, workload) = (Text::new("web-0").unwrap(), Text::new("web").unwrap());
    assert_eq!(Settings::new(server, identity, secret_file, name, workload), named);
}

#[test]
fn paths_are_absolute_and_the_server_is_the_one_of_this_machine() {
    let settings = settings("--state-dir state --token-file t --folder out").unwrap();
    let here = std::env::current_dir().unwrap().display().to_string();
    assert_eq!(settings.server.to_string(), format!("unix:{here}/state/sds.sock"));
    assert_eq!(settings.identity, Identity::ProxyToken { file: Text::new(format!("{here}/t")).unwrap() });
    assert_eq!(settings.secret_file.as_str(), format!("{here}/out/secret.yaml"));
}

#[test]
fn what_cannot_be_is_refused() {
    let long = format!("--server unix:/{}", "x".repeat(108));
    for (line, expected) in [
        ("--server nowhere", "has no port"),
        ("--identity password", "possible values: token, service-account, client-certificate, unix, node-id"),
        ("--names consul", "possible values: common, spire"),
        ("--name=", "there is nothing in it"),
        ("--mesh a\nb", "it has the character \"\\n\""),
        ("--token-file a\nb --server unix:/s", "--token-file: it has the character"),
        ("--server-name a", "--server-ca"),
        ("--identity service-account", "--server host:port --server-ca FILE"),
        ("--print ca", "possible values: bootstrap, secret, server-ca"),
        ("--client-id web", "invalid value"),
        ("--folder . --print secret", "cannot be used with"),
        (&long, "too long for a unix socket"),
    ] {
        let error = settings(line).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn a_file_that_is_another_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new/envoy.yaml");
    write(&file, "one").unwrap();
    write(&file, "one").unwrap();
    let Err(Failure::Runtime(error)) = write(&file, "two") else { panic!("it was written") };
    assert!(error.to_string().contains("is there already"), "{error}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "one");
}
