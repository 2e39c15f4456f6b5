//! Files in the state directory: readable by us alone, replaced whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Writes `content` to `path` with mode 0600, making folders with mode 0700 as needed. A crash leaves the old file or the
/// new one, never half of one.
///
/// # Errors
/// The system's, with the path in it.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let folder = folder_of(path);
    make_folder(folder)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        // A left-over of a crashed process with our number must not lend us its mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(at)
}

/// The folder that a file is in; that of a bare name is the current one, whose parent would be a path that cannot be opened.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder with mode 0700, and those above it, unless it is there.
///
/// # Errors
/// The system's, with the path in it.
pub fn make_folder(path: &Path) -> io::Result<()> {
    let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at)
}

/// A file name made of any text, one to one: letters, digits, `-` and `_` stay, everything else becomes `%` and hex.
pub fn name_of(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_else_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/key");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_bare_name_is_in_the_current_folder() {
        assert_eq!(folder_of(Path::new("token")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/token")), Path::new("a"));
        assert_eq!(folder_of(Path::new("/token")), Path::new("/"));
    }

    #[test]
    fn names_leave_their_folder_under_no_circumstances() {
        assert_eq!(name_of("../etc"), "%2e%2e%2fetc");
        assert_eq!(name_of("ca-1_x"), "ca-1_x");
        assert_ne!(name_of("a%2eb"), name_of("a.b"));
    }
}
