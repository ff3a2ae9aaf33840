//! The initial file system of the emulated machine: a "newc" cpio archive
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// An archive that grows.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<PathBuf>,
}

impl Archive {
    /// Adds a file and the folders above it; `path` has no leading slash.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.folders_above(Path::new(path));
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// Adds a file of this machine.
    ///
    /// # Errors
    ///
    /// What the system says about reading it.
    pub(crate) fn copy(&mut self, from: &Path, to: &str) -> io::Result<()> {
        let content = fs::read(from).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", from.display()))
        })?;
        self.file(to, &content);
        Ok(())
    }

    /// Adds a program with the libraries that it is linked to.
    ///
    /// # Errors
    ///
    /// What the system says about reading them.
    pub(crate) fn program(&mut self, from: &Path) -> io::Result<()> {
        self.copy(from, from.to_string_lossy().trim_start_matches('/'))?;
        let output = Command::new("ldd").arg(from).output()?;
        for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
            self.copy(Path::new(&library), library.trim_start_matches('/'))?;
        }
        Ok(())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.folders_above(Path::new("dev/console"));
        // The kernel opens it before our first program runs.
        self.entry("dev/console", CONSOLE, (5, 1), &[]);
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn folders_above(&mut self, path: &Path) {
        let above: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_path_buf).collect();
        for folder in above.into_iter().rev().filter(|folder| *folder != Path::new("")) {
            if self.folders.insert(folder.clone()) {
                self.entry(&folder.to_string_lossy(), DIRECTORY, (0, 0), &[]);
            }
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let len = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(len, 0);
    }
}

/// The paths in what `ldd` prints.
fn libraries(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let path = match line.split_once("=>") {
                Some((_, path)) => path,
                None => line,
            };
            let path = path.split_whitespace().next()?;
            path.starts_with('/').then(|| path.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        assert_eq!(
            libraries(text),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn an_archive_is_aligned_and_ends() {
        let mut archive = Archive::default();
        archive.file("a/b/init", b"#!/bin/sh\n");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 6, "a, a/b, init, dev, console, trailer");
        assert!(text.contains("TRAILER!!!"));
        // Header 110 and the name with its zero, padded: content starts aligned.
        let at = text.find("#!/bin/sh").unwrap();
        assert_eq!(at % 4, 0);
    }
}
