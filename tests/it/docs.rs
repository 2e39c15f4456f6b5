//! Holds README.md, ARCHITECTURE.md and `docs/` to what they speak of: links lead to files and headings, files that they name are
//! there, commands have the flags that they are shown with, answers of a server have the fields and columns that one answers with, and
//! nothing of the machine that they were written on is in them.

mod markdown;
mod quick_start;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use self::markdown::{anchors, inline_code, links, sessions, shell_lines};
use crate::support::mesh::builtin_mesh;
use crate::support::server::{NODE_ID, PROGRAM, Server, Settings};

/// Folders of which what a document names in backticks has to be there.
const NAMED_FOLDERS: [&str; 3] = ["deploy/", "docs/", "envoy-config/"];

/// Hosts that a link may lead to: those of the projects that the documents speak of.
const HOSTS: [&str; 5] = ["cert-manager.io", "github.com", "kubernetes.default.svc", "localhost", "www.envoyproxy.io"];

/// How paths of somebody's machine begin.
const MACHINE_PATHS: [&str; 3] = ["/root/", "/work/", "/home/runner/"];

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    let anchors: BTreeMap<_, _> = documents.iter().map(|(path, text)| (path.clone(), anchors(text))).collect();
    let mut wrong = Vec::new();
    for (path, text) in &documents {
        for target in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = match file {
                "" => path.clone(),
                file => plain(&path.parent().expect("a file is in a folder").join(file)),
            };
            let is_there = root().join(&file).exists();
            let has_anchor = anchor.is_empty() || anchors.get(&file).is_some_and(|anchors| anchors.contains(anchor));
            if !is_there || !has_anchor {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_that_is_named_is_there() {
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        for named in inline_code(&text) {
            let is_file = NAMED_FOLDERS.iter().any(|folder| named.starts_with(folder))
                && !named.contains(['*', ' ', '{', '<', '$'])
                && named.contains('.');
            if is_file && !root().join(&named).exists() {
                wrong.push(format!("{}: {named}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "files that are not there:\n{}", wrong.join("\n"));
}

#[test]
fn every_command_has_the_flags_that_it_is_shown_with() {
    let mut program = Help::default();
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        for line in shell_lines(&text) {
            for arguments in calls(&line) {
                if let Err(why) = program.check(&arguments) {
                    wrong.push(format!("{}: {why}: {line}", path.display()));
                }
            }
        }
    }
    assert!(!program.seen.is_empty(), "no command is shown anywhere");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Answers of a server are of this program: `/readyz` with the fields that it has, `proxies` with its columns.
#[tokio::test]
async fn answers_have_the_fields_and_columns_that_a_server_answers_with() {
    let mut server = Server::start(Settings { mesh: &builtin_mesh("1h"), ..NODE_ID }).await;
    server.ready().await;
    let (_, answer) = server.readyz().await.expect("it answers");
    let admin = server.admin.to_string();
    let head = |flags: &[&str]| {
        let output = Command::new(PROGRAM).arg("proxies").args(flags).args(["--admin", &admin]).output();
        let table = String::from_utf8(output.expect("the program runs").stdout).expect("a table is text");
        columns(table.lines().next().unwrap_or_default())
    };
    let (narrow, wide, refused) = (head(&[]), head(&["--output", "wide"]), head(&["--refused"]));
    assert!(narrow.len() > 5 && wide.len() > narrow.len() && refused.len() > 3, "{narrow:?} {wide:?} {refused:?}");

    let (mut answers, mut tables, mut wrong) = (0, 0, Vec::new());
    for (path, text) in documents() {
        for (command, output) in sessions(&text) {
            let piped = command.contains(" | ");
            if command.contains("/readyz") && !piped {
                let shown: Value = serde_json::from_str(&output)
                    .unwrap_or_else(|error| panic!("{}: {command}: {error}:\n{output}", path.display()));
                answers += 1;
                if fields(&shown) != fields(&answer) {
                    wrong.push(format!(
                        "{}: {command}: {:?}, not {:?}",
                        path.display(),
                        fields(&shown),
                        fields(&answer)
                    ));
                }
            } else if command.contains("envoy-sds proxies") && !piped && !command.contains("json") {
                let expected = match (command.contains("--refused"), command.contains("wide")) {
                    (true, _) => &refused,
                    (false, true) => &wide,
                    (false, false) => &narrow,
                };
                let shown = columns(output.lines().next().unwrap_or_default());
                tables += 1;
                if shown != *expected {
                    wrong.push(format!("{}: {command}: {shown:?}, not {expected:?}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(answers >= 2 && tables >= 5, "only {answers} answers and {tables} tables were found");
}

/// Envoy notices a token that is moved into its place, and no other; and one that could not be issued must not empty the file.
#[test]
fn no_token_is_written_in_place() {
    let mut shown = 0;
    for (path, text) in documents() {
        for line in shell_lines(&text).into_iter().filter(|line| line.contains("token issue")) {
            assert!(!line.contains('>'), "{}: {line}", path.display());
            shown += 1;
        }
    }
    assert!(shown >= 3, "only {shown} commands were found");
}

#[test]
fn the_readme_says_where_the_demo_puts_its_envoy() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect("it can be read");
    let code = read("src/demo/envoy_binary.rs");
    let version = code.split_once("const VERSION: &str = \"").and_then(|(_, rest)| rest.split('"').next());
    let folder = format!("~/.cache/envoy-sds/envoy-{}/bin", version.expect("the demo has a version of Envoy"));
    assert!(read("README.md").contains(&folder), "README.md does not name {folder}");
}

#[test]
fn nothing_of_a_machine_is_shown() {
    let checkout = root().display().to_string();
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        for (index, line) in text.lines().enumerate() {
            let host = hosts(line).into_iter().find(|host| !is_known(host));
            let here = MACHINE_PATHS.iter().any(|path| line.contains(path)) || line.contains(&checkout);
            if here || host.is_some() {
                wrong.push(format!("{}:{}: {}", path.display(), index + 1, host.as_deref().unwrap_or(line)));
            }
        }
    }
    assert!(wrong.is_empty(), "paths of a machine, or hosts that are not in HOSTS:\n{}", wrong.join("\n"));
}

#[test]
fn markdown_is_read_as_it_is_meant() {
    let text = "# A *page*: `serve` & more\n[a](b.md#c) `[no](x)` ![d](e.svg)\n```sh\n# no heading\n[no](y)\n$ x\n```\n## Twice\n## Twice\n";
    assert_eq!(links(text), ["b.md#c", "e.svg"]);
    assert_eq!(anchors(text), ["a-page-serve--more", "twice", "twice-1"].map(str::to_owned).into());
    assert_eq!(inline_code(text), ["serve", "[no](x)"]);
    let text = "```console\n$ envoy-sds a \\\n  --b\noutput\n```\n`envoy-sds c --d`\n```yaml\nenvoy-sds: e\n```\n";
    assert_eq!(shell_lines(text), ["envoy-sds a    --b", "envoy-sds c --d"]);
    let session = |command: &str, output: &str| (command.to_owned(), output.to_owned());
    let text = "```console\n$ a \\\n  b\nX  Y Z   W\n\n1\n  $ c\n```\n```sh\nd\n```\n```console\n$ e\nf\n```\n";
    assert_eq!(sessions(text), [session("a   b", "X  Y Z   W\n\n1\n"), session("c", ""), session("e", "f\n")]);
    assert_eq!(columns("X  Y Z   W"), ["X", "Y Z", "W"]);
    let called = |line| calls(line).into_iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(called("envoy-sds crds | kubectl apply -f - && envoy-sds x >y 2>&1 &"), ["crds", "x"]);
    assert_eq!(called("cargo run --release -- demo --for 5s # --no"), ["demo --for 5s"]);
    assert_eq!(called("envoy-sds a --b 'envoy-sds c --d' --e"), ["a --b envoy-sds c --d --e", "c --d"]);
    assert_eq!(called("pgrep -f 'envoy-sds serve'; echo envoy-sds"), ["serve"]);
    assert_eq!(hosts("see https://a.example.com:80/x and (http://b)."), ["a.example.com", "b"]);
}

/// The commands and flags that the program's own help has.
#[derive(Default)]
struct Help {
    seen: BTreeMap<Vec<String>, String>,
}

impl Help {
    /// Whether the program would know this: which command, and which flags.
    fn check(&mut self, arguments: &[String]) -> Result<(), String> {
        let mut command = Vec::new();
        let mut rest = arguments.iter();
        loop {
            let known = section(self.of(&command), "Commands:");
            if known.is_empty() {
                break;
            }
            match rest.clone().next() {
                Some(word) if known.contains(word) => command.push(word.clone()),
                Some(word) if !word.starts_with('-') => return Err(format!("there is no command {word}")),
                _ => break,
            }
            rest.next();
        }
        let flags: BTreeSet<String> = words(self.of(&command)).filter(|word| word.starts_with('-')).collect();
        for word in rest.filter(|word| word.starts_with('-') && word.len() > 1 && !word.contains(' ')) {
            let flag = word.split('=').next().unwrap_or(word);
            if flag != "--" && !flags.contains(flag) {
                return Err(format!("{} has no {flag}", command.join(" ")));
            }
        }
        Ok(())
    }

    fn of(&mut self, command: &[String]) -> &str {
        self.seen.entry(command.to_vec()).or_insert_with(|| {
            let output = Command::new(PROGRAM).args(command).arg("--help").output().expect("the program runs");
            assert!(output.status.success(), "{command:?}");
            String::from_utf8(output.stdout).expect("help is text")
        })
    }
}

/// The first words of the lines below a heading of the help.
fn section(help: &str, heading: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.is_empty());
    lines.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

/// What is between blanks and punctuation.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let is_between = |c: char| c.is_whitespace() || ",;:|()[]<>`.".contains(c);
    text.split(is_between).filter(|word| !word.is_empty()).map(str::to_owned)
}

/// The arguments of each call of the program in a line of shell.
fn calls(line: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut part: Vec<String> = Vec::new();
    for word in tokens(line).into_iter().chain([";".to_owned()]) {
        if !["|", "&&", "||", ";", "&"].contains(&word.as_str()) {
            part.push(word);
            continue;
        }
        let first = part.iter().position(|word| !word.contains('=')).unwrap_or(0);
        match part.get(first).map(String::as_str) {
            Some("envoy-sds") => found.push(part[first + 1..].to_vec()),
            Some("cargo") if part.get(first + 1).is_some_and(|word| word == "run") => {
                found.extend(part.iter().position(|word| word == "--").map(|at| part[at + 1..].to_vec()));
            }
            _ => {}
        }
        // A command in quotes, as an argument of another.
        let quoted = part.iter().filter(|word| word.starts_with("envoy-sds "));
        found.extend(quoted.flat_map(|word| calls(word)).collect::<Vec<_>>());
        part.clear();
    }
    found
}

/// The words of a line of shell, quotes and redirections taken away, up to a comment.
fn tokens(line: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut quote = None;
    let mut token = String::new();
    for c in line.chars().chain([' ']) {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => token.push(c),
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == '#' && token.is_empty() => break,
            None if c == ';' || c.is_whitespace() => {
                if !token.is_empty() {
                    tokens.push(std::mem::take(&mut token));
                }
                if c == ';' {
                    tokens.push(c.to_string());
                }
            }
            None => token.push(c),
        }
    }
    tokens.retain(|token| !token.contains('>') && token != "\\");
    tokens
}

/// The heads of a table's columns, which have two blanks or more between them.
fn columns(head: &str) -> Vec<String> {
    head.split("  ").map(str::trim).filter(|column| !column.is_empty()).map(str::to_owned).collect()
}

/// The fields of an object.
fn fields(object: &Value) -> BTreeSet<&String> {
    object.as_object().into_iter().flat_map(serde_json::Map::keys).collect()
}

/// The hosts of a line's addresses.
fn hosts(line: &str) -> Vec<String> {
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '.');
    let after = ["https://", "http://"].into_iter().flat_map(|scheme| line.split(scheme).skip(1));
    after.map(|rest| rest.split(is_end).next().unwrap_or_default().trim_end_matches('.').to_owned()).collect()
}

fn is_known(host: &str) -> bool {
    let is_example = host == "example.com" || host.ends_with(".example.com");
    let is_local = host.starts_with("127.") || host.is_empty();
    is_example || is_local || HOSTS.contains(&host)
}

/// Every document, by its path from the root.
fn documents() -> BTreeMap<PathBuf, String> {
    let in_docs = fs::read_dir(root().join("docs")).expect("there is a folder docs");
    let in_docs = in_docs.map(|entry| Path::new("docs").join(entry.expect("it can be listed").file_name()));
    let paths = in_docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let paths = ["README.md", "ARCHITECTURE.md"].into_iter().map(PathBuf::from).chain(paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, text)
    };
    paths.map(read).collect()
}

/// Without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path {
        if part == ".." {
            assert!(plain.pop(), "{} leads out of the repository", path.display());
        } else if part != "." {
            plain.push(part);
        }
    }
    plain
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
