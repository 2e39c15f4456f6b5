//! Unix sockets.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::Connection;
use super::places::ConnectionPlaces;
use super::{HELLO, LISTEN_BACKLOG, accept_failed};
use crate::identify::process;

/// Removed when dropped, if it is still this server's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it, and another server may listen there by now.
        let removed = match identity(&self.path) {
            Ok(file) if file != self.file => return,
            Ok(_) => std::fs::remove_file(&self.path),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Binds `path` with the permissions `mode`. A socket file that a dead server has left is removed; one that somebody
/// answers on, and anything that is no socket, is an error.
///
/// Binding gives the file whatever permissions the umask leaves, and only then can they be set. So that nobody connects in
/// between, it is bound where nobody else can go. A link, unlike a rename, puts it in no other server's place.
pub(super) async fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path).await?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Short, because a socket's path may have 107 bytes only.
    let private = tempfile::Builder::new()
        .prefix(".")
        .rand_bytes(5)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(folder)?;
    let hidden = private.path().join("s");
    let socket = UnixSocket::new_stream()?;
    socket.bind(&hidden)?;
    let socket = socket.listen(LISTEN_BACKLOG)?;
    std::fs::set_permissions(&hidden, Permissions::from_mode(mode))?;
    std::fs::hard_link(&hidden, path)?;
    Ok((socket, SocketFile::at(path)?))
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
pub(super) async fn accept(
    socket: UnixListener,
    _file: SocketFile,
    places: ConnectionPlaces,
    accepted: mpsc::Sender<Connection>,
) {
    while !accepted.is_closed() {
        let place = places.take().await;
        match socket.accept().await {
            // An error means that the server is gone, which the loop notices.
            Ok((stream, _)) => {
                let connection = Connection::unix(stream, Instant::now() + HELLO, Path::new(process::PROC)).at(place);
                drop(accepted.send(connection).await);
            }
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

    #[tokio::test]
    async fn nothing_but_the_socket_is_left_and_a_newer_one_is_let_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sds.sock");
        let (_socket, file) = bind(&path, 0o666).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        UnixStream::connect(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let (_newer, newer) = bind(&path, 0o600).await.unwrap();
        drop(file);
        UnixStream::connect(&path).await.unwrap();
        drop(newer);
        assert!(!path.exists());
    }

    /// Looks at the file as fast as it can while sockets are bound and removed.
    #[test]
    fn it_never_has_wider_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sds.sock");
        let done = std::sync::atomic::AtomicBool::new(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut modes = std::collections::BTreeSet::new();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    modes.extend(std::fs::metadata(&path).map(|metadata| metadata.permissions().mode() & 0o777));
                }
                modes
            });
            for _ in 0..300 {
                drop(runtime.block_on(bind(&path, 0o600)).unwrap());
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let modes = watcher.join().unwrap();
            assert!(modes.iter().all(|mode| *mode == 0o600), "{modes:?}");
        });
    }
}
