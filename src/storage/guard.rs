//! Reads of files that may be damaged: sled panics on some, and might hang on others.

use super::StorageError;
use super::files::failed;
use std::path::Path;
use std::time::Duration;

/// A store that does not open in this time is treated as one that never will. sled opens 3 GB in
/// 1–2 s.
const OPEN_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs what reads a file that may be damaged, on a thread of its own: a panic or a hang in sled
/// becomes [`StorageError::Damaged`]. A thread that hangs is left behind.
pub(super) fn guarded<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let (done, outcome) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("store-open".into())
        .spawn(move || drop(done.send(read())))
        .map_err(failed("cannot start a thread for", Path::new("the store")))?;
    match outcome.recv_timeout(OPEN_TIMEOUT) {
        Ok(result) => {
            drop(thread.join());
            result
        }
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(StorageError::Damaged(format!(
            "it did not open within {} s",
            OPEN_TIMEOUT.as_secs()
        ))),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(thread
            .join()
            .map_or_else(panicked, |()| panicked(Box::new(())))),
    }
}

/// The same for one read of a store that is open, without a thread: a hang stays one.
pub(super) fn caught<T, E: From<StorageError>>(
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let read = std::panic::AssertUnwindSafe(read);
    std::panic::catch_unwind(read).unwrap_or_else(|panic| Err(panicked(panic).into()))
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> StorageError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("sled panicked");
    StorageError::Damaged(format!("reading it failed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_damage_with_its_message() {
        let result: Result<(), _> = guarded(|| panic!("page 7 is missing"));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("page 7 is missing"), "{error}");
        assert_eq!(guarded(|| Ok(5)).unwrap(), 5);
        let result: Result<(), StorageError> = caught(|| panic!("page {} is missing", 8));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("page 8 is missing"), "{error}");
    }
}
