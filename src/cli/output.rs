//! The only place that writes for people. A reader who has gone away (`envoy-sds check | head`) is no error; a full disk is.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Context;

use super::Failure;

/// A line of what was asked for.
///
/// # Errors
/// If it cannot be written.
pub(super) fn line(text: impl Display) -> Result<(), Failure> {
    write(&mut io::stdout().lock(), format_args!("{text}\n"))
}

/// Whole lines of what was asked for.
///
/// # Errors
/// If they cannot be written.
pub(super) fn text(text: impl Display) -> Result<(), Failure> {
    write(&mut io::stdout().lock(), text)
}

/// A line about what is wrong, or worth knowing.
pub(super) fn error(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn write(to: &mut impl Write, text: impl Display) -> Result<(), Failure> {
    match write!(to, "{text}").and_then(|()| to.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output").map_err(Failure::from)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything, and finds on flushing that it cannot.
    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_who_has_gone_is_no_error_and_a_full_disk_is() {
        write(&mut Broken(io::ErrorKind::BrokenPipe), "x").unwrap();
        let Err(Failure::Runtime(error)) = write(&mut Broken(io::ErrorKind::StorageFull), "x") else { panic!() };
        assert_eq!(error.to_string(), "cannot write the output");
    }
}
