//! A folder for what is needed only now; it goes with its owner, also when that panics.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder, until it is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one among the system's temporary folders.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> io::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("lvscope-lab-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| io::Error::new(e.kind(), format!("cannot make the folder {}: {e}", path.display())))?;
        Ok(Scratch(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        vanish(&self.0);
    }
}

/// Removes such a folder for good, also while threads are at work in it. There is nobody to tell where that fails.
pub fn vanish(folder: &Path) {
    bar(folder);
    let _ = fs::remove_file(folder);
}

/// Puts a file in the folder's place, so that nobody can make it anew, and removes what it held.
fn bar(folder: &Path) {
    let mut gone = Vec::new();
    for nth in 0..TRIES {
        let aside = folder.with_extension(format!("gone{nth}"));
        if fs::rename(folder, &aside).is_ok() {
            gone.push(aside);
        }
        // At once: whoever makes a folder in it would make it anew.
        if fs::write(folder, "").is_ok() {
            break;
        }
    }
    for aside in gone {
        // What was being opened in it may come into being while it is emptied.
        for _ in 0..TRIES {
            if fs::remove_dir_all(&aside).is_ok() || !aside.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const TRIES: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_fills_it_again() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("scratch");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (folder, done) = (&folder, &done);
                scope.spawn(move || {
                    for nth in 0.. {
                        let inside = folder.join(format!("{worker}/{nth}"));
                        let _ = fs::create_dir_all(&inside).and_then(|()| fs::write(inside.join("file"), "x"));
                        if done.load(std::sync::atomic::Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(50));
            bar(&folder);
            std::thread::sleep(Duration::from_millis(50));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let left: Vec<PathBuf> = fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left == [folder.clone()] && folder.is_file(), "{left:?}");
        vanish(&folder);
        assert!(!folder.exists());
    }

    #[test]
    fn it_goes_also_in_a_panic() {
        let panicked = std::panic::catch_unwind(|| {
            let scratch = Scratch::new().unwrap();
            fs::write(scratch.path().join("file"), "x").unwrap();
            std::panic::panic_any(scratch.path().to_path_buf());
        });
        let path = panicked.expect_err("a panic").downcast::<PathBuf>().expect("a path");
        assert!(!path.exists());
    }
}
