//! `cargo xtask firmware FOLDER`: a firmware crate outside of this folder, made from the
//! template. The crates of ours that it links come along as Cargo packages them, so that it
//! builds without this folder.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::out;
use crate::source::target;

/// What a developer begins with.
const TEMPLATE: &str = "agent-esp32/template";
/// Where a firmware has the packages.
const PACKAGES: &str = "weft";
/// The workspaces that packages come from, and which.
const SOURCES: [(&str, &[&str]); 2] = [
    ("", &["weft-wire", "weft-aead", "weft-noise", "weft-agent-core", "weft-agent-esp32"]),
    ("agent-esp32/boards/qemu", &["weft-qemu-virt"]),
];
/// Of the template's folder, what builds and runs leave there.
const LEFT: [&str; 2] = ["target", "flash.bin"];

/// Makes one and says what is next.
pub(crate) fn run(root: &Path, folder: &Path) -> ExitCode {
    match make(root, folder) {
        Ok(packages) => {
            let folder = folder.display();
            out::line(&format!("made {folder} with {}", packages.join(", ")));
            out::line(&format!("next: cd {folder} && WEFT_JOIN=WEFT1… cargo run --release"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            out::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Makes one in a folder that is not there yet, or is empty; the packages' names.
///
/// # Errors
///
/// What could not be done.
pub(crate) fn make(root: &Path, folder: &Path) -> Result<Vec<String>, String> {
    let said = |error| format!("{}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(said)?;
    if fs::read_dir(folder).map_err(said)?.next().is_some() {
        return Err(format!("{}: the folder is not empty", folder.display()));
    }
    copy(&root.join(TEMPLATE), folder)?;
    let inside = folder.join(PACKAGES);
    fs::create_dir(&inside).map_err(said)?;
    let mut packages = Vec::new();
    for (workspace, names) in SOURCES {
        let manifest = root.join(workspace).join("Cargo.toml");
        package(root, &manifest, names)?;
        let version = version(&fs::read_to_string(&manifest).map_err(said)?)
            .ok_or_else(|| format!("{}: no version", manifest.display()))?;
        for name in names {
            let package = format!("{name}-{version}");
            unpack(&target(root).join("package").join(format!("{package}.crate")), &inside)?;
            packages.push(package);
        }
    }
    let manifest = folder.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(said)?;
    fs::write(&manifest, patched(&text, &packages)?).map_err(said)?;
    Ok(packages)
}

/// Copies what is in a folder, and in those in it.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let said = |error| format!("{}: {error}", from.display());
    for entry in fs::read_dir(from).map_err(said)? {
        let entry = entry.map_err(said)?;
        let name = entry.file_name();
        if LEFT.iter().any(|left| name == *left) {
            continue;
        }
        let (from, to) = (entry.path(), to.join(&name));
        if from.is_dir() {
            fs::create_dir(&to).map_err(said)?;
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(said)?;
        }
    }
    Ok(())
}

/// Packages of one workspace, as they would be uploaded. They are not built here: the
/// firmware builds them.
fn package(root: &Path, manifest: &Path, names: &[&str]) -> Result<(), String> {
    let mut command = Command::new("cargo");
    // One that lies in a workspace without the others cannot be resolved yet, since no
    // registry has them: it gets no lock file, which a library has no use for anyway.
    command.args(["package", "--quiet", "--no-verify", "--allow-dirty", "--exclude-lockfile"]);
    for name in names {
        command.args(["--package", name]);
    }
    command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target(root));
    succeed(&mut command, "cargo package")
}

fn unpack(archive: &Path, folder: &Path) -> Result<(), String> {
    let mut command = Command::new("tar");
    // Packaged files are all of one time long ago, by which Cargo would take a package for
    // the one that it built in the same place before: they are of now.
    command.arg("-xzmf").arg(archive).arg("-C").arg(folder);
    succeed(&mut command, "tar")
}

fn succeed(command: &mut Command, name: &str) -> Result<(), String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{name}: {}", said.trim_end()))
}

/// The first version in a manifest: the package's, or the workspace's.
fn version(manifest: &str) -> Option<String> {
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \""))?;
    Some(line.strip_suffix('"')?.to_owned())
}

/// The template's manifest with the packages in the places of its patches, all of which
/// must be there.
fn patched(manifest: &str, packages: &[String]) -> Result<String, String> {
    let (before, after) = manifest
        .split_once("[patch.crates-io]\n")
        .ok_or("the template has no section [patch.crates-io]")?;
    let (patches, after) = after.split_once("\n\n").unwrap_or((after, ""));
    let mut lines = Vec::new();
    for line in patches.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let is_it = |package: &&String| {
            package.rsplit_once('-').is_some_and(|(package, _)| package == name)
        };
        let package = packages.iter().find(is_it);
        let package = package.ok_or_else(|| format!("{name} is not packaged"))?;
        lines.push(format!("{name} = {{ path = \"{PACKAGES}/{package}\" }}"));
    }
    if lines.len() != packages.len() {
        return Err(format!("the template patches {} of {} crates", lines.len(), packages.len()));
    }
    Ok(format!("{before}[patch.crates-io]\n{}\n\n{after}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nversion = \"0.3.0\"\n\n[patch.crates-io]\n\
        weft-wire = { path = \"../x\" }\n\n[profile.release]\n";

    #[test]
    fn patches_lead_to_packages() {
        let packages = ["weft-wire-0.3.0".to_owned()];
        let text = patched(MANIFEST, &packages).unwrap();
        assert!(text.contains("\nweft-wire = { path = \"weft/weft-wire-0.3.0\" }\n\n[profile"));
        assert_eq!(version(&text).as_deref(), Some("0.3.0"));
    }

    #[test]
    fn a_crate_that_is_missing_on_either_side_is_found() {
        let other = ["weft-noise-0.3.0".to_owned()];
        assert_eq!(patched(MANIFEST, &other).unwrap_err(), "weft-wire is not packaged");
        let more = ["weft-wire-0.3.0".to_owned(), "weft-noise-0.3.0".to_owned()];
        assert!(patched(MANIFEST, &more).unwrap_err().contains("1 of 2"));
    }
}
