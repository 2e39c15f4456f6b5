//! Reading of files that users name.

use std::io;
use std::path::Path;

/// Reads a file, but not a pipe: that would wait for a writer.
///
/// # Errors
/// That it is none, or cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    std::fs::read(path)
}
