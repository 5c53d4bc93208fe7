//! Reads of files that may be damaged: sled panics on some, and might hang on others.

use super::StorageError;
use super::files::failed;
use std::path::Path;
use std::time::Duration;

/// A store that does not open in this time is treated as one that never will. sled opens 3 GB in
/// 1–2 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Runs what reads a file that may be damaged, on a thread of its own: a panic or a hang in sled
/// becomes [`StorageError::Damaged`]. A thread that hangs is left behind.
pub(crate) fn guarded<T: Send + 'static>(
    patience: Duration,
    read: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    on_a_thread(patience, read)?.unwrap_or_else(|| {
        Err(StorageError::Damaged(format!(
            "it did not open within {} s",
            patience.as_secs()
        )))
    })
}

/// Asks the operating system for something that a disk may never answer. That is a failure of the
/// disk, and says nothing about what is on it.
pub(super) fn answered<T: Send + 'static>(
    patience: Duration,
    (what, path): (&'static str, &Path),
    ask: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    on_a_thread(patience, ask)?.unwrap_or_else(|| {
        let seconds = patience.as_secs();
        let silent = format!("no answer from the disk within {seconds} s");
        Err(failed(what, path)(std::io::Error::other(silent)))
    })
}

/// Closes a store that may be damaged: sled flushes when it is dropped, and waits for its threads.
/// False: that hangs, and a thread is left behind with it.
pub(super) fn closed<T: Send + 'static>(patience: Duration, store: T) -> bool {
    let dropped = on_a_thread(patience, move || {
        drop(store);
        Ok(())
    });
    matches!(dropped, Ok(Some(_)))
}

/// `None`: it took too long. A panic is damage.
fn on_a_thread<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<Option<Result<T, StorageError>>, StorageError> {
    use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
    let (done, outcome) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("store-open".into())
        .spawn(move || drop(done.send(work())))
        .map_err(failed("cannot start a thread for", Path::new("the store")))?;
    Ok(match outcome.recv_timeout(patience) {
        Ok(result) => {
            drop(thread.join());
            Some(result)
        }
        Err(Timeout) => None,
        Err(Disconnected) => Some(Err(thread.join().map_or_else(panicked, |()| {
            StorageError::Damaged("reading it ended without a word".into())
        }))),
    })
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
        let result: Result<(), _> = guarded(PATIENCE, || panic!("page 7 is missing"));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("page 7 is missing"), "{error}");
        assert_eq!(guarded(PATIENCE, || Ok(5)).unwrap(), 5);
        assert!(closed(PATIENCE, 5));
        let result: Result<(), StorageError> = caught(|| panic!("page {} is missing", 8));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("page 8 is missing"), "{error}");
    }

    #[test]
    fn a_hang_of_the_store_is_damage_and_one_of_the_disk_is_a_failure() {
        let short = Duration::from_millis(1);
        // Ends with the test: the other end of the channel goes.
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let hangs = || {
            let held = std::sync::Arc::clone(&held);
            move || {
                drop(held.lock().map(|held| held.recv()));
                Ok(())
            }
        };
        let error = guarded(short, hangs()).unwrap_err();
        assert!(matches!(error, StorageError::Damaged(_)), "{error}");
        let at = ("cannot fsync", Path::new("db"));
        let error = answered(short, at, hangs()).unwrap_err();
        assert!(matches!(error, StorageError::Io { .. }), "{error:?}");
        struct Hangs<F: FnMut()>(F);
        impl<F: FnMut()> Drop for Hangs<F> {
            fn drop(&mut self) {
                (self.0)();
            }
        }
        let mut hang = Some(hangs());
        let drops = Hangs(move || drop(hang.take().map(|hang| hang())));
        assert!(!closed(short, drops));
        drop(hold);
    }
}
