//! The admin socket: `admin.sock` in the data directory, for its owner only.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in the data directory.
pub const NAME: &str = "admin.sock";
/// The kernel's limit for the path of a socket, its end included.
const PATH_BYTES_MAX: usize = 108;

/// A path that the kernel takes: one through a handle of the directory if the real one is too
/// long. Keep it until the call is done.
struct SocketPath {
    path: PathBuf,
    _directory: Option<File>,
}

impl SocketPath {
    fn new(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(NAME);
        if path.as_os_str().len() < PATH_BYTES_MAX {
            return Ok(Self {
                path,
                _directory: None,
            });
        }
        let directory = File::open(data_dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()));
        Ok(Self {
            path,
            _directory: Some(directory),
        })
    }
}

/// Binds the socket with mode 0600. The caller holds the lock of the data directory, so a socket
/// that is there already is a dead process's. Within a tokio runtime.
pub fn bind(data_dir: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(data_dir.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = SocketPath::new(data_dir)?;
    // The directory is 0700: nobody else gets in between these two calls.
    let listener = UnixListener::bind(&socket.path)?;
    std::fs::set_permissions(&socket.path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the replica that runs on this data directory; `None` if none does.
pub async fn connect(data_dir: &Path) -> io::Result<Option<UnixStream>> {
    let socket = SocketPath::new(data_dir)?;
    match UnixStream::connect(&socket.path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
