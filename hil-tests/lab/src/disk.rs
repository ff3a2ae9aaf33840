//! Disks of their own for programs: small, to be filled, and to be made
//! read-only under them. They lie in the run's folder and go with it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{During, Failure, Result};
use crate::run::Run;

/// Where file systems are mounted, as this process sees it (proc(5)).
const MOUNTS: &str = "/proc/self/mounts";

/// A small file system in memory.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one of so many KiB in the run's folder.
    pub(crate) fn mount(run: &Run, name: &str, kib: u32) -> Result<Self> {
        let path = run.folder().join(name);
        fs::create_dir_all(&path).during(&format!("make {}", path.display()))?;
        let options = format!("size={kib}k,mode=700");
        mount(&["-t", "tmpfs", "-o", &options, "weft-lab"], &path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it to its last byte.
    pub(crate) fn fill(&self) -> Result<()> {
        let what = format!("fill {}", self.path.display());
        let mut filler = File::create(self.path.join("filler")).during(&what)?;
        for size in [65_536, 4_096, 1] {
            let chunk = vec![0x57; size];
            loop {
                match filler.write(&chunk) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).during(&what),
                }
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub(crate) fn free(&self) -> Result<()> {
        fs::remove_file(self.path.join("filler")).during(&format!("free {}", self.path.display()))
    }

    /// Makes it read-only for whoever opens a file from now on.
    pub(crate) fn cover(&self) -> Result<()> {
        let path = self.path.display().to_string();
        mount(&["--bind", &path], &self.path)?;
        mount(&["-o", "remount,bind,ro"], &self.path)
    }

    /// Takes that back.
    pub(crate) fn uncover(&self) -> Result<()> {
        unmount(&self.path)
    }
}

/// An ext4 file system in a file, which the kernel can be made to give up on.
pub(crate) struct Image {
    file: PathBuf,
    path: PathBuf,
}

impl Image {
    /// Makes one of so many MiB that holds what is at `path` in the run's folder,
    /// and mounts it there.
    pub(crate) fn over(run: &Run, name: &str, mib: u64) -> Result<Self> {
        let path = run.folder().join(name);
        let file = run.folder().join(format!("{name}.ext4"));
        let what = format!("make {}", file.display());
        File::create(&file).and_then(|file| file.set_len(mib << 20)).during(&what)?;
        let mut make = Command::new("mkfs.ext4");
        said(make.arg("-q").arg("-d").arg(&path).arg(&file)).map_err(|error| {
            Failure::skipped("mkfs.ext4 makes no file system").line("cause", error.to_string())
        })?;
        let image = Self { file, path };
        image.mount()?;
        Ok(image)
    }

    pub(crate) fn mount(&self) -> Result<()> {
        mount(&["-o", "loop", &self.file.display().to_string()], &self.path)
    }

    /// What the kernel does when it finds the file system damaged: it is read-only
    /// from now on, also for files that are open (ext4(5), `abort`).
    pub(crate) fn abort(&self) -> Result<()> {
        mount(&["-o", "remount,abort"], &self.path)
    }

    /// What an operator does then.
    pub(crate) fn repair(&self) -> Result<()> {
        let what = format!("unmount {}", self.path.display());
        said(Command::new("umount").arg(&self.path)).during(&what)?;
        let mut check = Command::new("fsck.ext4");
        let output = check.arg("-p").arg(&self.file).output().during("run fsck.ext4")?;
        // 1: there was something to repair (e2fsck(8)).
        if !matches!(output.status.code(), Some(0 | 1)) {
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            return Err(Failure::new("lab.disk", format!("fsck.ext4: {}, {said}", output.status)));
        }
        self.mount()
    }
}

fn mount(arguments: &[&str], path: &Path) -> Result<()> {
    said(Command::new("mount").args(arguments).arg(path)).map_err(|error| {
        Failure::skipped(format!("a file system cannot be mounted at {}", path.display()))
            .line("cause", error.to_string())
    })
}

fn unmount(path: &Path) -> Result<()> {
    // Lazy: a program that is about to end may still stand in it.
    said(Command::new("umount").arg("--lazy").arg(path))
        .during(&format!("unmount {}", path.display()))
}

fn said(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Unmounts everything below a folder, the newest first.
pub(crate) fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string(MOUNTS).during(&format!("read {MOUNTS}"))?;
    below(&mounts, folder).iter().rev().try_for_each(|path| unmount(path))
}

/// Mount points below a folder, in the order in which they were mounted.
fn below(mounts: &str, folder: &Path) -> Vec<PathBuf> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(folder) && point != folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_folder_is_found() {
        let mounts = "\
            tmpfs /run tmpfs rw 0 0\n\
            weft-lab /run/weft-lab/51c0/coord tmpfs rw,size=8192k 0 0\n\
            weft-lab /run/weft-lab/51c0x/coord tmpfs rw 0 0\n\
            weft-lab /run/weft-lab/51c0/coord tmpfs ro 0 0\n";
        let found = below(mounts, Path::new("/run/weft-lab/51c0"));
        assert_eq!(found, [Path::new("/run/weft-lab/51c0/coord"); 2]);
        assert!(below(mounts, Path::new("/var")).is_empty());
    }
}
