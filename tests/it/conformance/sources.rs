//! Reads from the sources of a crate which tests there are: functions that `cargo test` runs, in modules that are compiled.
//! The files are rustfmt's work, which is what makes lines enough to go by.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The condition under which modules and functions are compiled that count. Those under any other do not.
const COMPILED: [&str; 2] = ["#[cfg(test)]", "#[cfg(any(test, feature = \"fuzzing\"))]"];

/// What a file has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// The paths of tests, from this file on.
    tests: Vec<Vec<String>>,
    files: Vec<Module>,
}

/// A module in a file of its own.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    /// The modules around it that are in the file itself.
    inside: Vec<String>,
    name: String,
    /// What `#[path]` says.
    at: Option<String>,
}

/// The paths of the crate's tests, as cargo prints them.
pub(super) fn tests(crate_root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    read_file(crate_root, &[], true, &mut found);
    found
}

/// Adds the tests of a module's file and of the modules below it.
fn read_file(file: &Path, path: &[String], has_own_folder: bool, found: &mut BTreeSet<String>) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let contents = read(&text);
    found.extend(contents.tests.into_iter().map(|test| [path, &test].concat().join("::")));
    let folder = file.parent().expect("a file is in a folder");
    let name = file.file_stem().and_then(|name| name.to_str()).expect("a module's name");
    let below = if has_own_folder || name == "mod" { folder.to_owned() } else { folder.join(name) };
    for Module { inside, name, at } in contents.files {
        let nested = inside.iter().fold(below.clone(), |folder, name| folder.join(name));
        let (file, has_own_folder) = match at {
            Some(at) => (folder.join(at), true),
            None if nested.join(format!("{name}.rs")).exists() => (nested.join(format!("{name}.rs")), false),
            None => (nested.join(&name).join("mod.rs"), true),
        };
        read_file(&file, &[path, &inside, &[name]].concat(), has_own_folder, found);
    }
}

/// A block of lines that items may be in.
#[derive(Debug)]
struct Block {
    indentation: usize,
    /// Of a module; `proptest!` has none.
    name: Option<String>,
    is_compiled: bool,
}

fn read(text: &str) -> Contents {
    let mut contents = Contents::default();
    let mut blocks: Vec<Block> = Vec::new();
    let mut attributes: Vec<&str> = Vec::new();
    // What ends a text of several lines that is no code.
    let mut until: Option<&str> = None;
    for line in text.lines() {
        if let Some(end) = until {
            until = Some(end).filter(|end| !line.contains(*end));
            continue;
        }
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        if code.is_empty() || code.starts_with("//") {
            continue;
        }
        until = if code.starts_with("/*") && !code.contains("*/") {
            Some("*/")
        } else {
            code.split_once("r#\"").filter(|(_, rest)| !rest.contains("\"#")).map(|_| "\"#")
        };
        // An item of a block is one step further in than the block; what is deeper is inside of a function.
        let of_block = blocks.last().map_or(0, |block| block.indentation + 4) == indentation;
        if code == "}" && blocks.last().is_some_and(|block| block.indentation == indentation) {
            blocks.pop();
        } else if of_block && code.starts_with("#[") {
            attributes.push(code);
            continue;
        } else if of_block {
            let is_compiled = blocks.last().is_none_or(|block| block.is_compiled)
                && attributes.iter().all(|attribute| !attribute.starts_with("#[cfg(") || COMPILED.contains(attribute));
            let inside = || blocks.iter().filter_map(|block| block.name.clone()).collect::<Vec<_>>();
            if let Some(name) = module_in(code, " {") {
                blocks.push(Block { indentation, name: Some(name.to_owned()), is_compiled });
            } else if matches!(code, "proptest! {" | "proptest::proptest! {") {
                blocks.push(Block { indentation, name: None, is_compiled });
            } else if let Some(name) = module_in(code, ";").filter(|_| is_compiled) {
                let path =
                    |attribute: &&str| attribute.strip_prefix("#[path = \"")?.strip_suffix("\"]").map(str::to_owned);
                let at = attributes.iter().find_map(path);
                contents.files.push(Module { inside: inside(), name: name.to_owned(), at });
            } else if let Some(name) = function_in(code).filter(|_| is_compiled && is_run(&attributes)) {
                contents.tests.push([inside(), vec![name.to_owned()]].concat());
            }
        }
        attributes.clear();
    }
    contents
}

/// Whether these are the attributes of a test that `cargo test` runs.
fn is_run(attributes: &[&str]) -> bool {
    let is_test = |attribute: &&str| {
        *attribute == "#[test]" || *attribute == "#[tokio::test]" || attribute.starts_with("#[tokio::test(")
    };
    attributes.iter().any(is_test) && !attributes.iter().any(|attribute| attribute.starts_with("#[ignore"))
}

/// The name in a line that declares a module and ends with `end`.
fn module_in<'c>(code: &'c str, end: &str) -> Option<&'c str> {
    let public = code.strip_prefix("pub ").or_else(|| Some(code.strip_prefix("pub(")?.split_once(") ")?.1));
    public.unwrap_or(code).strip_prefix("mod ")?.strip_suffix(end)
}

/// The name of the function that a line begins.
fn function_in(code: &str) -> Option<&str> {
    let code = code.strip_prefix("async ").unwrap_or(code);
    code.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// The paths of the tests in `text`, whose lines begin with a bar, so that this file has no such lines itself.
#[cfg(test)]
fn tests_in(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().filter_map(|line| line.trim_start().strip_prefix('|')).collect();
    read(&lines.join("\n")).tests.iter().map(|test| test.join("::")).collect()
}

#[test]
fn tests_are_found_where_they_are() {
    let text = "
        |#[test]
        |fn plain() {
        |    let not_a_comment = \"a/*\";
        |}
        |
        |#[cfg(test)]
        |pub(crate) mod tests {
        |    /// Comments may stand in between.
        |    #[tokio::test(start_paused = true)]
        |    // And these.
        |    async fn of_tokio() {
        |    }
        |    mod deeper {
        |        #[tokio::test]
        |        async fn deep() {}
        |    }
        |    proptest! {
        |        #[test]
        |        fn of_proptest(x in 0..1) {
        |        }
        |    }
        |}
        |#[test]
        |fn after() {}
    ";
    assert_eq!(tests_in(text), ["plain", "tests::of_tokio", "tests::deeper::deep", "tests::of_proptest", "after"]);
}

#[test]
fn what_is_not_run_is_not_found() {
    let text = "
        |fn no_test() {}
        |#[test]
        |const NOTHING: u8 = 0;
        |fn after_something_else() {}
        |#[test]
        |#[ignore = \"it is slow\"]
        |fn ignored() {}
        |#[ignore]
        |#[test]
        |fn ignored_too() {}
        |#[test]
        |#[cfg(windows)]
        |fn elsewhere() {}
        |#[cfg(feature = \"none\")]
        |mod off {
        |    #[test]
        |    fn in_a_module_that_is_off() {}
        |}
        |#[tokio::testing]
        |fn nearly() {}
        |// #[test]
        |fn commented() {}
        |/*
        |#[test]
        |fn in_a_comment() {}
        |*/
        |const TEXT: &str = r#\"
        |#[test]
        |fn in_a_text() {}
        |\"#;
        |fn outer() {
        |    #[test]
        |    fn inner() {}
        |}
        |macro_rules! made {
        |    () => {
        |        #[test]
        |        fn in_a_macro() {}
        |    };
        |}
    ";
    assert_eq!(tests_in(text), [""; 0]);
}

#[test]
fn modules_in_other_files_are_found_if_they_are_compiled() {
    let text = "mod here;\n#[cfg(windows)]\nmod elsewhere;\n#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod tests;\n";
    let module =
        |name: &str, at: Option<&str>| Module { inside: Vec::new(), name: name.to_owned(), at: at.map(str::to_owned) };
    assert_eq!(read(text).files, [module("here", None), module("tests", Some("x_tests.rs"))]);
}
