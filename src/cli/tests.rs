use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_of_serve_has_its_variable() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    for flag in serve.get_arguments().filter(|flag| flag.get_id() != "help") {
        let long = flag.get_long().unwrap();
        let expected = format!("ENVOY_SDS_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(expected.as_str()));
    }
}

/// A listener of a flag has no TLS, so an example with one would lead to keys in the clear.
#[test]
fn the_example_of_serve_keeps_the_files_listeners() {
    let mut command = Cli::command();
    let help = command.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
    let example = help.lines().find(|line| line.starts_with("Example: envoy-sds serve ")).unwrap();
    assert!(example.contains("--config") && !example.contains("--listen"), "{example}");
}

#[test]
fn wrong_usage_is_told_by_clap() {
    for (line, expected) in [
        ("serve --listen nowhere", "has no port"),
        ("serve --admin unix:/x", "has no port"),
        ("serve --log-level verbose", "expected off, error"),
        ("demo --for ever", "is not a duration"),
        ("sreve", "unrecognized subcommand"),
        ("rotate", "required arguments were not provided"),
        ("rotate --all --mesh default", "cannot be used with"),
        ("rotate --all web-0", "cannot be used with"),
        ("proxies --admin nowhere", "has no port"),
        ("ready --admin nowhere", "has no port"),
        ("token issue --name web-0", "required arguments were not provided"),
        ("token issue --name web-0 --workload web --label app", "expected KEY=VALUE"),
        ("token issue --name web-0 --workload web --valid-for ever", "is not a duration"),
        ("token issue --name web-0 --workload web --count 0", "0 is not in"),
        ("load", "required arguments were not provided"),
        ("load -n 0", "0 is not in"),
        ("load -n 1 nowhere", "has no port"),
        ("load -n 1 --nack 2", "expected a share"),
        ("load -n 1 --rate 0", "expected a number a second"),
        ("load -n 1 --churn 5", "required arguments were not provided"),
        ("load -n 1 --storm-command x", "required arguments were not provided"),
        ("load -n 1 --expect-issued 0", "required arguments were not provided"),
        ("load -n 1 --tls-ca a --insecure-tls", "cannot be used with"),
        ("load -n 1 --tokens a --state-dir b", "cannot be used with"),
        ("load -n 1 --metadata a", "expected KEY=VALUE"),
        ("load -n 1 --metadata a/b=c", "no header's name"),
        ("load -n 1 --metadata TE=c", "gRPC has its own"),
        ("load -n 1 --timeout 0s", "longer than none"),
        ("load -n 1 --churn 1 --churn-for 0s", "longer than none"),
        ("proxies -o yaml", "[possible values: table, wide, json]"),
    ] {
        let words = std::iter::once("envoy-sds").chain(line.split(' '));
        let error = Cli::try_parse_from(words).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{line}: {error}");
    }
    Cli::try_parse_from("envoy-sds check --listen unix:/a,[::1]:0 --log-level info,kube=debug a b".split(' ')).unwrap();
}

#[test]
fn a_server_that_is_not_there_is_told() {
    // A port that was free a moment ago, and that nobody listens at.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    drop(socket);
    for command in ["proxies", "rotate --all"] {
        let line = format!("envoy-sds {command} --admin {address}");
        let failure = match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Proxies(command) => command.run().unwrap_err(),
            Command::Rotate(command) => command.run().unwrap_err(),
            other => panic!("{other:?}"),
        };
        let Failure::Runtime(error) = failure else { panic!("{failure:?}") };
        assert_eq!(
            error.to_string(),
            format!("cannot reach the admin API at {address}: is envoy-sds serve running? (--admin)")
        );
    }
}

/// What `envoy-sds check` says about these arguments: `None` if all is well.
fn check(arguments: &[&str]) -> Option<String> {
    let state = ["envoy-sds", "check", "--state-dir", "/tmp/state"];
    let cli = Cli::try_parse_from(state.iter().chain(arguments)).unwrap();
    let Command::Check(check) = cli.command else { panic!("another command") };
    match check.run() {
        Ok(()) => None,
        Err(Failure::Configuration(problems)) => Some(problems.iter().map(|problem| format!("{problem}\n")).collect()),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn check_reports_configuration_and_resources_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, mesh) = (path("server.yaml"), path("mesh.yaml"));
    let cert_manager = "{name: b, type: certmanager, conf: {issuerRef: {name: i}, caCert: {file: /nowhere/ca.pem}}}";
    let text = format!("type: Mesh\nname: default\nmtls: {{enabledBackend: b, backends: [{cert_manager}]}}");
    std::fs::write(&mesh, text).unwrap();
    let place = "mesh.yaml:3: Mesh default: mtls.backends[0].conf.caCert.file: /nowhere/ca.pem: cannot be read";
    let problems = check(&[&mesh]).unwrap();
    assert!(problems.contains(place), "{problems}");

    // What is in files is told beside what is wrong with the resource itself, and of every backend.
    let (garbage, lifetime) = (path("ca.crt"), "dpCert: {rotation: {expiration: 5x}}");
    std::fs::write(&garbage, "no certificate").unwrap();
    let provided =
        format!("{{name: p, type: provided, conf: {{cert: {{file: {garbage}}}, key: {{file: /nowhere/key}}}}}}");
    let builtin = format!("{{name: e, type: builtin, {lifetime}}}");
    let text = format!(
        "type: Mesh\nname: default\nmtls: {{enabledBackend: e, backends: [{builtin}, {provided}, {cert_manager}]}}"
    );
    std::fs::write(&mesh, text).unwrap();
    let problems = check(&[&mesh]).unwrap();
    for part in [
        "backends[0].dpCert",
        "backends[1].conf.cert.file: ",
        "backends[1].conf.key.file: /nowhere/key",
        "backends[2].conf.caCert.file: /nowhere",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }

    std::fs::write(&config, format!("kubernetes: off\nresources: [{mesh}]\nzones: a")).unwrap();
    let problems = check(&["--config", &config]).unwrap();
    assert!(problems.contains("unknown field \"zones\" (did you mean zone?)"), "{problems}");
    assert!(problems.contains("needs a Kubernetes cluster with cert-manager"), "{problems}");

    std::fs::write(&mesh, "type: Mesh\nname: default\nmtls: {enabledBackend: b, backends: [{name: b, type: builtin}]}")
        .unwrap();
    std::fs::write(&config, format!("resources: [{mesh}]\nidentify: {{serviceAccountToken: {{}}}}")).unwrap();
    assert_eq!(check(&["--config", &config]), None);
    assert_eq!(check(&[]), None);
}

#[test]
fn check_looks_into_the_files_that_the_server_would_refuse_to_start_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, garbage) = (path("server.yaml"), path("garbage"));
    std::fs::write(&garbage, "neither key nor certificate").unwrap();
    let tls = format!("{{certificate: {garbage}, privateKey: {garbage}, clientCa: {garbage}}}");
    let text = format!(
        "listeners: [{{address: 127.0.0.1:0, tls: {tls}}}]\nidentify: {{proxyToken: {{publicKeys: [{{kid: a, file: {garbage}}}, \
         {{kid: b, file: /nowhere/key}}]}}}}"
    );
    std::fs::write(&config, text).unwrap();
    let problems = check(&["--config", &config]).unwrap();
    assert_eq!(problems.matches("listeners[0].tls: ").count(), 2, "{problems}");
    assert!(problems.contains("/nowhere/key") && problems.lines().count() == 4, "{problems}");
}

/// Also those that are revoked by, and none of them a pipe that nobody writes to.
#[test]
fn check_looks_into_revocations_and_waits_for_no_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, mesh, pipe, list) = (path("server.yaml"), path("mesh.yaml"), path("pipe"), path("revoked"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let with = |revocations: &str| {
        let identify = format!("{{proxyToken: {{revocations: {revocations}}}}}");
        let text = format!("resources: [{mesh}]\nstateDir: {}\nkubernetes: off\nidentify: {identify}\n", path("state"));
        std::fs::write(&config, text).unwrap();
        check(&["--config", &config])
    };
    let ca = |file: &str| {
        let backend = format!("{{name: b, type: provided, conf: {{cert: {{file: {file}}}, key: {{file: {file}}}}}}}");
        let text = format!("{{type: Mesh, name: default, mtls: {{enabledBackend: b, backends: [{backend}]}}}}");
        std::fs::write(&mesh, text).unwrap();
    };
    ca(&pipe);
    std::fs::write(&list, "a\nb\u{feff}").unwrap();
    let problems = with(&format!("{{file: {list}}}")).unwrap();
    assert!(problems.contains("revoked: revocations: line 2"), "{problems}");
    assert_eq!(problems.matches("is not a regular file").count(), 2, "{problems}");
    assert!(with(&format!("{{file: {pipe}}}")).unwrap().contains("revocations: "), "{problems}");

    let secret = "---\ntype: Secret\nname: revoked-default\ndata: /w==\n";
    std::fs::write(&mesh, format!("{{type: Mesh, name: default, mtls: {{}}}}\n{secret}")).unwrap();
    let problems = with("{secret: revoked-<mesh>}").unwrap();
    assert!(problems.contains("Secret revoked-default of mesh default: revocations: it is not UTF-8"), "{problems}");
}

/// A rule for a mesh with a typing error guards nothing.
#[test]
fn check_refuses_a_mesh_that_there_is_not_unless_the_cluster_may_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, mesh) = (path("server.yaml"), path("mesh.yaml"));
    let backends = "{enabledBackend: b, backends: [{name: b, type: builtin}]}";
    let off = "---\n{type: Mesh, name: off}\n";
    std::fs::write(&mesh, format!("{{type: Mesh, name: default, mtls: {backends}}}\n{off}")).unwrap();
    let with = |more: &str, mesh_name: &str| {
        let allow = format!("{{allow: [{{mesh: {mesh_name}, workloads: [web]}}]}}");
        let text = format!("resources: [{mesh}]\nidentify: {{proxyToken: {{}}}}\nmembership: {allow}\n{more}\n");
        std::fs::write(&config, text).unwrap();
        check(&["--config", &config])
    };
    for more in ["kubernetes: off", "clusterResources: false"] {
        let problems = with(more, "defalt").unwrap();
        assert_eq!(problems, "membership.allow[0].mesh: the mesh \"defalt\" is not there (there is default)\n");
        assert_eq!((with(more, "default"), with(more, "off")), (None, None));
    }
    assert_eq!(with("kubernetes: auto", "defalt"), None, "the cluster may have it");
}

#[test]
fn serve_tells_everything_that_is_wrong_with_its_configuration_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("server.yaml");
    std::fs::write(&config, "zones: a\nnaming: {certificates: [ROOTCA]}").unwrap();
    let arguments = ["envoy-sds", "serve", "--state-dir", "/tmp/state", "--config", config.to_str().unwrap()];
    let Command::Serve(serve) = Cli::try_parse_from(arguments).unwrap().command else { panic!("another command") };
    let Err(Failure::Configuration(problems)) = serve.run() else { panic!("it is served") };
    let [field, name] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(field.what.contains("zones") && name.what.contains("ROOTCA"), "{problems:?}");
}

#[test]
fn what_a_load_run_cannot_do_is_told_before_it_begins() {
    for (line, expected) in [
        ("load -n 9 --nack 0.6 --slow 0.6", "more than all"),
        ("load -n 9 --connections 3 --slow 0.1", "connections of their own"),
        ("load -n 9 --slow 0.1 --reconnect --storm-command x", "--slow-pause 5s"),
        ("load -n 9 --names a,a", "twice"),
        ("load -n 9 --json /nowhere/results", "cannot write /nowhere/results"),
        ("load -n 9 --html /nowhere/page", "cannot write /nowhere/page"),
        ("load -n 9 --names default,\tROOTCA --trigger x --trigger-changes ROOTCA --json /nowhere/x", "cannot write"),
        ("load -n 9 --trigger x --trigger-changes other", "not among --names"),
        ("load -n 9 --trigger x --trigger-changes any", "not among --names"),
        ("load -n 9 --trigger x --trigger-changes default --trigger-changes default", "more --trigger-changes"),
        ("load -n 9 --names ROOTCA,ALL --expect-rotations 1", "none is among --names"),
        ("load -n 9 --names ROOTCA --expect-identity spiffe://a/b", "none is among --names"),
        ("load -n 9 --names default --expect-bundle-pushes 1", "none is among --names"),
        ("load -n 9 --tls-cert a --tls-key b", "--tls-ca"),
    ] {
        let words = std::iter::once("envoy-sds").chain(line.split(' '));
        let Command::Load(command) = Cli::try_parse_from(words).unwrap().command else { panic!("{line}") };
        let failure = command.run().unwrap_err();
        let Failure::Usage(told) = failure else { panic!("{line}: {failure:?}") };
        assert!(told.contains(expected), "{line}: {told}");
    }
}

#[test]
fn a_token_goes_to_a_file_whole_and_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let (state, file) = (dir.path().join("state"), dir.path().join("token"));
    let line = format!(
        "envoy-sds token issue --name web-0 --workload web --state-dir {} --out {}",
        state.display(),
        file.display()
    );
    assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap().run(), ExitCode::SUCCESS);
    let token = std::fs::read_to_string(&file).unwrap();
    assert!(token.split('.').count() == 3 && token.trim_end() == token);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}
