//! Reading of files that users name.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A file that is longer is not what it is taken for: of all that is read here, revocation lists are the longest.
pub const LONGEST: u64 = 16 << 20;

/// Reads a file, but neither a pipe, which would wait for a writer, nor a disk full of something else.
///
/// # Errors
/// That it is none, has more than [`LONGEST`] bytes, or cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    let wrong = || io::Error::other("is not a regular file of at most 16 MiB");
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(wrong());
    }
    // At once as large as it has to be, since what may be a key is not to be left behind in a smaller one.
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default() + 1);
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LONGEST { Err(wrong()) } else { Ok(content) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_or_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "content").unwrap();
        assert_eq!(read(&file).unwrap(), b"content");
        File::options().write(true).open(&file).unwrap().set_len(LONGEST + 1).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("16 MiB"));
        assert!(read(folder.path()).is_err());
        assert_eq!(read(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(read(&pipe).unwrap_err().to_string().contains("regular file"));
        // The kernel says that such files are empty.
        assert!(!read(Path::new("/proc/self/status")).unwrap().is_empty());
    }
}
