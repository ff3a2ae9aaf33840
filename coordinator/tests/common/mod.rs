//! Things that several tests need.

#![allow(dead_code, reason = "every test uses a part of it")]

use core::sync::atomic::{AtomicU32, Ordering};
use std::path::{Path, PathBuf};

pub(crate) mod fleet;
pub(crate) mod program;

/// A folder of its own, gone with the value.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weft-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What remains of a failed test does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
