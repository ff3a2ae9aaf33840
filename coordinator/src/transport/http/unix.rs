//! The Unix socket: commands of this machine.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::net::UnixListener;

use super::auth::SocketPeer;

/// The socket's file, removed with the value.
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket, readable and writable by its owner alone. One that
    /// nobody answers on is replaced.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when somebody answers on it or another kind of file is
    /// there; else what the system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let message = "another kind of file is there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers on it"));
            }
            Ok(_) => std::fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Nobody may connect between bind and chmod: the name is new, and moves
        // into place when its mode is right.
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", std::process::id()));
        let hidden = PathBuf::from(hidden);
        let listener = UnixListener::bind(&hidden)?;
        let placed = std::fs::set_permissions(&hidden, Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&hidden, path));
        if let Err(error) = placed {
            let _ = std::fs::remove_file(&hidden);
            return Err(error);
        }
        Ok(Self { listener: Some(listener), path: path.to_owned() })
    }

    /// Serves the routes until `stop` is done, then lets open requests end.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn serve(
        mut self,
        routes: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let service = routes.into_make_service_with_connect_info::<SocketPeer>();
        axum::serve(listener, service).with_graceful_shutdown(stop).await
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to remove.
        let _ = std::fs::remove_file(&self.path);
    }
}
