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
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err();
            let text = panic.as_ref().and_then(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                text.or_else(|| panic.downcast_ref::<&str>().copied())
            });
            Err(StorageError::Damaged(format!(
                "reading it failed: {}",
                text.unwrap_or("sled panicked")
            )))
        }
    }
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
    }
}
