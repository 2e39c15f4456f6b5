//! Holds README.md, ARCHITECTURE.md and `docs/` to what they speak of: links lead to files and headings, files that they name are
//! there, commands have the flags that they are shown with, and nothing of the machine that they were written on is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
            let program = env!("CARGO_BIN_EXE_envoy-sds");
            let output = Command::new(program).args(command).arg("--help").output().expect("the program runs");
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

/// Lines of shell that a document shows, in blocks of it or between backticks, each with what continues it.
fn shell_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = String::new();
    for (line, block) in lines(text) {
        let code = match block {
            Block::None => {
                found.extend(inline_code(line).into_iter().filter(|code| code.starts_with("envoy-sds ")));
                continue;
            }
            Block::Code("sh") => line,
            Block::Code("console") if !rest.is_empty() => line,
            Block::Code("console") => match line.trim_start().strip_prefix("$ ") {
                Some(command) => command,
                None => continue,
            },
            Block::Code(_) => continue,
        };
        rest.push_str(code.trim_end_matches('\\'));
        if code.ends_with('\\') {
            rest.push(' ');
        } else {
            found.push(std::mem::take(&mut rest));
        }
    }
    found
}

/// Where a line is.
#[derive(Clone, Copy, PartialEq)]
enum Block<'t> {
    None,
    /// In a fenced block of this language.
    Code(&'t str),
}

/// The lines of a document but for the fences.
fn lines(text: &str) -> Vec<(&str, Block<'_>)> {
    let mut block = Block::None;
    let mut found = Vec::new();
    for line in text.lines() {
        match line.trim_start().strip_prefix("```") {
            Some(language) if block == Block::None => block = Block::Code(language.trim()),
            Some(_) => block = Block::None,
            None => found.push((line, block)),
        }
    }
    assert!(block == Block::None, "a fenced block has no end");
    found
}

/// What is between backticks, outside of blocks.
fn inline_code(text: &str) -> Vec<String> {
    let lines = lines(text).into_iter().filter(|(_, block)| *block == Block::None);
    lines.flat_map(|(line, _)| line.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The targets of links and pictures.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (line, _) in lines(text).into_iter().filter(|(_, block)| *block == Block::None) {
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let after = prose.split("](").skip(1);
        found.extend(after.filter_map(|after| Some(after.split_once(')')?.0.to_owned())));
    }
    found
}

/// The anchors that a page gives to its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (line, _) in lines(text).into_iter().filter(|(_, block)| *block == Block::None) {
        let title = line.trim_start_matches('#');
        if title == line || !title.starts_with(' ') {
            continue;
        }
        let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
        let slug = title.trim().to_lowercase().chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-");
        let again = (1..).map(|number| format!("{slug}-{number}"));
        let free = [slug.clone()].into_iter().chain(again).find(|slug| !found.contains(slug));
        found.extend(free);
    }
    found
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
