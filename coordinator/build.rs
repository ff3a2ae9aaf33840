//! Tells the program where it comes from, for `weft-coordinator --version`: the commit and
//! its day where there is a repository, and the target always. And tells its tests whether
//! there is a Mosquitto to run against, so that those which need it are counted as skipped.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn main() {
    // The log of HEAD changes with every commit; HEAD itself only with branches.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let commit = git(&["log", "-1", "--format=%h %cs", "--abbrev=7"]);
    let commit = commit.map_or_else(String::new, |commit| format!("{commit}, "));
    let part = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let (os, arch, libc) = (part("OS"), part("ARCH"), part("ENV"));
    println!("cargo::rustc-env=WEFT_BUILD={commit}{os}-{arch}-{libc}");
    println!("cargo::rustc-check-cfg=cfg(mosquitto)");
    let known = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"];
    if let Some(path) = known.into_iter().find(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
        println!("cargo::rustc-cfg=mosquitto");
    }
}
