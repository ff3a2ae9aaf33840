//! One run of a scenario: its number, its folders, and the certainty that
//! nothing stays behind, also after `kill -9`.
//!
//! A run owns `/run/weft-lab/<id>/` and holds a lock on the file `owner` in it
//! for as long as its process lives. A folder whose lock can be taken belongs
//! to a dead run: its processes and namespaces are removed before the next run
//! starts. Only namespaces named `weft-<id>-*` are ever touched.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::disk::unmount_below;
use crate::failure::{During, Failure, Result, status};
use crate::net::namespace::{NAMES, Namespace};
use crate::net::signal;
use crate::ui;

const RUNS: &str = "/run/weft-lab";
const LOGS: &str = "/var/log/weft-lab";
/// Lines of each program that are printed when a story fails.
const LAST_LINES: usize = 15;
/// How long a process gets to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was removed.
#[derive(Default)]
pub(crate) struct Removed {
    pub(crate) namespaces: usize,
    pub(crate) links: usize,
    pub(crate) processes: usize,
}

/// A run that is alive.
pub(crate) struct Run {
    id: String,
    folder: PathBuf,
    logs: PathBuf,
    namespaces: Vec<String>,
    links: usize,
    keep_logs: bool,
    /// Held until the end; the system releases it if we are killed.
    _owner: File,
}

impl Run {
    /// Checks what the laboratory needs, removes what dead runs left, and
    /// takes a new number. Returns sentences about what was removed.
    pub(crate) fn start() -> Result<(Self, Vec<String>)> {
        check_rights()?;
        let _turn = take_turn()?;
        let said = sweep_dead()?;
        loop {
            let id = random_id()?;
            let folder = Path::new(RUNS).join(&id);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.during(&format!("make {}", folder.display()))?,
            }
            let owner = lock_owner(&folder).during("mark the run as ours")?;
            let logs = Path::new(LOGS).join(&id);
            fs::create_dir_all(&logs).during(&format!("make {}", logs.display()))?;
            return Ok((
                Self {
                    id,
                    folder,
                    logs,
                    namespaces: Vec::new(),
                    links: 0,
                    keep_logs: false,
                    _owner: owner,
                },
                said,
            ));
        }
    }

    /// Four hexadecimal digits.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// For state and sockets; removed at the end.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// For logs; kept when the story fails.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// The last lines of every program that ran for long, also of those that the
    /// scenario let go when it failed.
    pub(crate) fn last_lines(&self) -> Result<Vec<(String, Vec<String>)>> {
        let what = format!("read {}", self.logs.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.logs).during(&what)? {
            let path = entry.during(&what)?.path();
            if path.extension().is_some_and(|end| end == "log") {
                let text = fs::read(&path).during(&format!("read {}", path.display()))?;
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                found.push((name, tail(&String::from_utf8_lossy(&text))));
            }
        }
        found.sort();
        Ok(found)
    }

    /// From now on the logs stay.
    pub(crate) fn keep_logs(&mut self) {
        self.keep_logs = true;
    }

    /// Makes a namespace `weft-<id>-<name>`.
    pub(crate) fn namespace(&mut self, name: &str) -> Result<Namespace> {
        let name = format!("weft-{}-{name}", self.id);
        // Noted before it is made: what is half made is removed too.
        self.namespaces.push(name.clone());
        ip(&["netns", "add", &name]).map_err(|error| no_namespaces(&error))?;
        Namespace::open(&name).during(&format!("open the namespace {name}"))
    }

    /// Counts a link for the summary.
    pub(crate) fn count_links(&mut self, links: usize) {
        self.links += links;
    }

    /// Ends the run's processes and removes its namespaces and folders.
    pub(crate) fn end(&mut self) -> Result<Removed> {
        let mut removed = Removed::default();
        // One by one: what could not be removed stays on the list, and its folder
        // stays with it, so that the next run finds both.
        while let Some(name) = self.namespaces.last() {
            remove_namespace(name, &mut removed)?;
            self.namespaces.pop();
        }
        removed.links = std::mem::take(&mut self.links);
        remove_folder(&self.folder)?;
        if !self.keep_logs {
            remove_folder(&self.logs)?;
            // Only goes when no other run's logs are in it.
            let _still_used = fs::remove_dir(LOGS);
        }
        Ok(removed)
    }
}

impl Drop for Run {
    /// For the ways out of a scenario that did not call [`Run::end`].
    fn drop(&mut self) {
        if self.folder.exists()
            && let Err(error) = self.end()
        {
            ui::error(&error);
        }
    }
}

/// Removes everything that dead runs left. One sentence per run.
pub(crate) fn sweep() -> Result<Vec<String>> {
    check_rights()?;
    let _turn = take_turn()?;
    sweep_dead()
}

/// A folder is made and locked in two steps: nobody sweeps between them.
fn take_turn() -> Result<File> {
    fs::create_dir_all(RUNS).during(&format!("make {RUNS}"))?;
    let turn = File::create(Path::new(RUNS).join("turn")).during("mark the start of a run")?;
    turn.lock().during("wait for another run's start")?;
    Ok(turn)
}

fn sweep_dead() -> Result<Vec<String>> {
    let mut said = Vec::new();
    // Runs with a folder: those that live, and those that are swept by it.
    let mut known = Vec::new();
    for entry in fs::read_dir(RUNS).during(&format!("read {RUNS}"))? {
        let folder = entry.during(&format!("read {RUNS}"))?.path();
        if !folder.is_dir() {
            continue;
        }
        let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(_owner) = lock_owner(&folder) else {
            known.push(id);
            continue;
        };
        let age = last_change(&folder);
        let removed = remove_namespaces(&namespaces_of(&id)?)?;
        remove_folder(&folder)?;
        known.push(id.clone());
        let age = age.map_or_else(String::new, |age| format!(", killed {}", ui::age(age)));
        said.push(format!(
            "cleaned up after run {id}{age}: {}, {}",
            ui::count(removed.namespaces, "namespace"),
            ui::count(removed.processes, "process"),
        ));
    }
    for id in orphans(&names()?, &known) {
        let removed = remove_namespaces(&namespaces_of(&id)?)?;
        said.push(format!(
            "cleaned up after run {id}, whose folder is gone: {}, {}",
            ui::count(removed.namespaces, "namespace"),
            ui::count(removed.processes, "process"),
        ));
    }
    Ok(said)
}

/// Numbers of runs that have namespaces `weft-<id>-<name>` and no folder.
fn orphans(names: &[String], known: &[String]) -> BTreeSet<String> {
    let number = |name: &String| -> Option<String> {
        let (id, _) = name.strip_prefix("weft-")?.split_once('-')?;
        let ours = id.len() == 4 && id.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        (ours && !known.iter().any(|known| known == id)).then(|| id.to_owned())
    };
    names.iter().filter_map(number).collect()
}

/// Removes the logs of runs that are over; how many there were.
pub(crate) fn remove_logs() -> Result<usize> {
    let Ok(entries) = fs::read_dir(LOGS) else {
        return Ok(0);
    };
    let mut removed = 0;
    for folder in entries.filter_map(io::Result::ok).map(|entry| entry.path()) {
        let id = folder.file_name().unwrap_or_default();
        if !Path::new(RUNS).join(id).exists() {
            remove_folder(&folder)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Runs `ip`, and gives its words if it fails.
pub(crate) fn ip(arguments: &[&str]) -> io::Result<()> {
    said_by_ip(arguments).map(drop)
}

/// What `ip` says about a namespace.
pub(crate) fn ip_output(namespace: &Namespace, arguments: &[&str]) -> io::Result<String> {
    let mut all = vec!["-n", namespace.name()];
    all.extend(arguments);
    said_by_ip(&all)
}

fn said_by_ip(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip {}: {words}", arguments.join(" "))))
}

/// Runs many commands of `ip` in one process.
pub(crate) fn ip_batch(namespace: Option<&Namespace>, commands: &[String]) -> io::Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace.name()]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(commands.join("\n").as_bytes())?;
        input.write_all(b"\n")?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip -batch: {words}")))
}

fn check_rights() -> Result<()> {
    let uid = signal::uid();
    if uid != 0 {
        let again: Vec<String> = std::env::args().collect();
        return Err(Failure::new(
            "lab.needs-root",
            format!("the laboratory makes network namespaces and needs root (uid is {uid})"),
        )
        .line("try", format!("sudo {}", again.join(" ")))
        .exit(status::NOT_PERMITTED));
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err(Failure::new(
            "lab.no-tun",
            "/dev/net/tun is missing, and a gateway needs a TUN device",
        )
        .line("in a container", "start it with  --device /dev/net/tun --cap-add NET_ADMIN")
        .line("on a host", "modprobe tun")
        .exit(status::SKIPPED));
    }
    if let Err(error) = Command::new("ip").arg("-V").output() {
        return Err(Failure::skipped("the program ip is missing")
            .line("cause", error.to_string())
            .line("try", "apt-get install iproute2"));
    }
    Ok(())
}

fn no_namespaces(error: &io::Error) -> Failure {
    Failure::new(
        "lab.no-namespaces",
        format!("cannot make a network namespace: {error} (uid is 0)"),
    )
    .line("cause", "the container or sandbox forbids CLONE_NEWNET")
    .line("try", "start it with  --cap-add SYS_ADMIN --cap-add NET_ADMIN")
    .exit(status::NOT_PERMITTED)
}

/// Takes the lock of a run's folder; fails while its process lives.
fn lock_owner(folder: &Path) -> io::Result<File> {
    let mut owner = OpenOptions::new().create(true).append(true).open(folder.join("owner"))?;
    owner.try_lock()?;
    writeln!(owner, "{}", std::process::id())?;
    Ok(owner)
}

/// Time since anything in the folder was written.
fn last_change(folder: &Path) -> Option<Duration> {
    let newest = |folder: &Path| -> Option<SystemTime> {
        fs::read_dir(folder)
            .ok()?
            .filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok())
            .max()
    };
    let logs = Path::new(LOGS).join(folder.file_name()?);
    let newest = newest(&logs).or_else(|| fs::metadata(folder).ok()?.modified().ok())?;
    newest.elapsed().ok()
}

fn namespaces_of(id: &str) -> Result<Vec<String>> {
    let prefix = format!("weft-{id}-");
    Ok(names()?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

fn tail(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(LAST_LINES);
    lines[skip..].iter().map(|line| (*line).to_owned()).collect()
}

/// All named namespaces of this machine.
fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(NAMES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).during(&format!("read {NAMES}")),
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

fn remove_namespaces(names: &[String]) -> Result<Removed> {
    let mut removed = Removed::default();
    names.iter().try_for_each(|name| remove_namespace(name, &mut removed))?;
    Ok(removed)
}

fn remove_namespace(name: &str, removed: &mut Removed) -> Result<()> {
    if !Path::new(NAMES).join(name).exists() {
        return Ok(());
    }
    // A name whose mount is gone holds no processes.
    if let Ok(namespace) = Namespace::open(name) {
        removed.processes += end_processes(&namespace)?;
    }
    ip(&["netns", "del", name]).during(&format!("remove the namespace {name}"))?;
    removed.namespaces += 1;
    Ok(())
}

/// Ends every process in a namespace: asks first, insists after a while.
fn end_processes(namespace: &Namespace) -> Result<usize> {
    let what = format!("end the processes in {}", namespace.name());
    let all = namespace.processes().during(&what)?;
    for pid in &all {
        signal::end(*pid, false).during(&what)?;
    }
    let began = crate::clock::now();
    loop {
        let left = namespace.processes().during(&what)?;
        if left.is_empty() {
            return Ok(all.len());
        }
        if began.elapsed() > 3 * PATIENCE {
            let words = format!("{} survived", ui::count(left.len(), "process"));
            return Err(Failure::new("lab.system", format!("cannot {what}: {words}")));
        }
        if began.elapsed() > PATIENCE {
            for pid in &left {
                signal::end(*pid, true).during(&what)?;
            }
        }
        pause();
    }
}

/// A pause between two looks at something that tells nobody when it changes.
fn pause() {
    std::thread::park_timeout(Duration::from_millis(5));
}

fn remove_folder(folder: &Path) -> Result<()> {
    unmount_below(folder)?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).during(&format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn random_id() -> Result<String> {
    let mut bytes = [0; 2];
    let read =
        File::open("/dev/urandom").and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes));
    read.during("read random numbers")?;
    Ok(format!("{:04x}", u16::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last() {
        let text: String = (1..=20).map(|number| format!("{number}\n")).collect();
        let lines = tail(&text);
        assert_eq!((lines.len(), lines[0].as_str(), lines[14].as_str()), (15, "6", "20"));
        assert_eq!(tail("one"), ["one"]);
    }

    #[test]
    fn namespaces_without_a_run_are_found_and_foreign_ones_are_not() {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let names = own(&[
            "weft-51c0-gw-a",
            "weft-51c0-core",
            "weft-7f3a-core",
            "weft-office-a",
            "weft-51C0-x",
            "weft-51c0",
            "docker-51c0-x",
        ]);
        let orphans: Vec<String> = orphans(&names, &own(&["7f3a"])).into_iter().collect();
        assert_eq!(orphans, ["51c0"]);
    }
}
