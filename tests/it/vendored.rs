//! `vendor/h2` is what was released, with `vendor/h2.patch` and nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::digest;

/// SHA-256 over the released `src/` (see [`digest_of`]).
const RELEASED: &str = "a165ce001fb0bbcc78369897ccd32293b164821271ec65a7c017e6bfd322b486";

#[test]
fn h2_differs_from_its_release_by_the_patch_alone() {
    let vendor = Path::new(env!("CARGO_MANIFEST_DIR")).join("vendor");
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(vendor.join("h2/src")).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    // Not in a repository: git would leave out what is not below its folder.
    let applied = Command::new("git")
        .args(["apply", "--reverse"])
        .arg(vendor.join("h2.patch"))
        .env("GIT_CEILING_DIRECTORIES", folder.path().parent().unwrap())
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    assert_eq!(digest_of(&folder.path().join("src")), RELEASED, "vendor/README.md says how to move to another release");
}

/// Over each file's path and content, in the order of the paths.
fn digest_of(folder: &Path) -> String {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name =
                    path.strip_prefix(folder).expect("it is below").to_str().expect("a name in UTF-8").to_owned();
                files.insert(name, std::fs::read(&path).expect("the file can be read"));
            }
        }
    }
    let mut context = digest::Context::new(&digest::SHA256);
    for (name, content) in &files {
        context.update(format!("{name} {}\n", content.len()).as_bytes());
        context.update(content);
    }
    hex::encode(context.finish())
}
