//! A folder for what is needed only now; it goes with its owner, also when that panics.

use std::io;
use std::path::{Path, PathBuf};

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
        std::fs::create_dir_all(&path).map_err(|e| io::Error::new(e.kind(), format!("cannot make the folder {}: {e}", path.display())))?;
        Ok(Scratch(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_also_in_a_panic() {
        let panicked = std::panic::catch_unwind(|| {
            let scratch = Scratch::new().unwrap();
            std::fs::write(scratch.path().join("file"), "x").unwrap();
            std::panic::panic_any(scratch.path().to_path_buf());
        });
        let path = panicked.expect_err("a panic").downcast::<PathBuf>().expect("a path");
        assert!(!path.exists());
    }
}
