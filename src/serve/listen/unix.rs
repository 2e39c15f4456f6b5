//! Unix sockets.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::accept_failed;
use super::connection::Connection;

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "cannot remove the socket file");
        }
    }
}

/// Binds `path` with the permissions `mode`. A socket file that a dead server has left is removed; one that somebody
/// answers on, and anything that is no socket, is an error.
pub(super) async fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path).await?;
    let socket = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok((socket, file))
}

async fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server answers on it")),
    }
}

/// Accepts connections for as long as somebody takes them.
pub(super) async fn accept(socket: UnixListener, _file: SocketFile, accepted: mpsc::Sender<Connection>) {
    while !accepted.is_closed() {
        match socket.accept().await {
            // An error means that the server is gone, which the loop notices.
            Ok((stream, _)) => drop(accepted.send(Connection::Unix(stream)).await),
            Err(error) => accept_failed(&error).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sds.sock");
        // A server that died without cleaning up.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_socket, file) = bind(&path, 0o600).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&path, 0o600).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(file);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, 0o600).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
