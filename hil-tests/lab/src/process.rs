//! Programs inside namespaces: started, listened to, ended.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::net::namespace::Namespace;
use crate::net::signal;

/// How often a wait looks whether somebody pressed Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// What a program said, line by line.
#[derive(Default)]
struct Said {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<String>,
    /// Number of lines so far.
    total: usize,
    closed: bool,
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        let mut lines = self.lock();
        if lines.kept.len() == 1_000 {
            lines.kept.pop_front();
        }
        lines.kept.push_back(line);
        lines.total += 1;
        self.more.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.more.notify_all();
    }
}

/// A program that runs until it is ended.
pub(crate) struct Process {
    name: String,
    child: Child,
    said: Arc<Said>,
    input: Option<ChildStdin>,
}

impl Process {
    /// Starts a program; both its streams go to `<logs>/<name>.log` and into
    /// memory.
    pub(crate) fn start(
        name: &str,
        namespace: &Namespace,
        logs: &Path,
        command: &mut Command,
    ) -> Result<Self> {
        let (reader, writer) = std::io::pipe().during("make a pipe")?;
        let copy = writer.try_clone().during("make a pipe")?;
        command.stdout(writer).stderr(copy).stdin(Stdio::piped());
        let mut child = spawn(namespace, command)?;
        // The command holds our ends of the pipe, which would never close.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let path = logs.join(format!("{name}.log"));
        let mut file = append(&path)?;
        let said = Arc::new(Said::default());
        let for_thread = Arc::clone(&said);
        thread::Builder::new()
            .name(format!("log-{name}"))
            .spawn(move || {
                listen(reader, &for_thread, &mut file);
                for_thread.close();
            })
            .during("start a thread")?;
        Ok(Self { name: name.to_owned(), input: child.stdin.take(), child, said })
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        let what = format!("write to {}", self.name);
        let input = self
            .input
            .as_mut()
            .ok_or_else(|| Failure::new("lab.process", format!("{} takes no input", self.name)))?;
        input.write_all(text.as_bytes()).during(&what)?;
        input.flush().during(&what)
    }

    /// How many lines it has said; a start for [`Process::wait_for`].
    pub(crate) fn lines_so_far(&self) -> usize {
        self.said.lock().total
    }

    /// Waits for a line after the first `from` that `find` accepts.
    pub(crate) fn wait_for<T>(
        &self,
        from: usize,
        limit: Duration,
        what: &str,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let until = clock::now() + limit;
        let mut next = from;
        let mut lines = self.said.lock();
        loop {
            let first = lines.total - lines.kept.len();
            for line in lines.kept.iter().skip(next.saturating_sub(first)) {
                if let Some(found) = find(line) {
                    return Ok(found);
                }
            }
            next = lines.total;
            if lines.closed {
                return Err(self.expected(what, "it ended"));
            }
            if signal::asked_to_stop() {
                return Err(Failure::stopped());
            }
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(self.expected(what, &format!("nothing in {limit:?}")));
            }
            (lines, _) = self
                .said
                .more
                .wait_timeout(lines, left.min(LOOK))
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn expected(&self, what: &str, instead: &str) -> Failure {
        Failure::expectation(format!("{} did not say {what}: {instead}", self.name))
    }

    /// What `find` makes of the last line that it accepts, of those kept.
    pub(crate) fn last<T>(&self, find: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let mut find = find;
        self.said.lock().kept.iter().rev().find_map(|line| find(line))
    }

    /// Whether a line with that text is among those kept.
    pub(crate) fn has_said(&self, text: &str) -> bool {
        self.said.lock().kept.iter().any(|line| line.contains(text))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a chance to say anything, and waits for that.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let what = format!("kill {}", self.name);
        self.child.kill().during(&what)?;
        self.child.wait().during(&what).map(drop)
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = clock::now() + limit;
        let mut lines = self.said.lock();
        while !lines.closed && clock::now() < until {
            (lines, _) =
                self.said.more.wait_timeout(lines, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        let closed = lines.closed;
        drop(lines);
        if !closed {
            return Err(self.expected("goodbye", &format!("it still runs after {limit:?}")));
        }
        self.child.wait().during(&format!("wait for {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended here if the scenario did not; the namespace's removal finds
        // what this process started.
        let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
        if !ended && self.child.kill().is_ok() {
            let _status = self.child.wait();
        }
    }
}

/// Where a program lies. Debian keeps those of root where other users do not look.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// What a program that ends by itself left.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn success(&self) -> bool {
        self.status.success()
    }
}

/// Runs a program to its end. Its streams go through files: a daemon that it
/// leaves behind keeps the streams open, and a pipe would never end.
pub(crate) fn finish(
    name: &str,
    namespace: &Namespace,
    logs: &Path,
    command: &mut Command,
    limit: Duration,
) -> Result<Finished> {
    let paths = ["out", "err"].map(|stream| logs.join(format!("{name}.{stream}")));
    let [out, err] = paths.each_ref().map(File::create);
    let what = format!("make {}", paths[0].display());
    command.stdin(Stdio::null()).stdout(out.during(&what)?).stderr(err.during(&what)?);
    let began = clock::now();
    let child = spawn(namespace, command)?;
    let status = wait(name, child, began, limit)?;
    let [stdout, stderr] = paths.each_ref().map(read);
    Ok(Finished { status, stdout: stdout?, stderr: stderr? })
}

fn read(path: &PathBuf) -> Result<String> {
    let bytes = fs::read(path).during(&format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn wait(name: &str, mut child: Child, began: Instant, limit: Duration) -> Result<ExitStatus> {
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    let waiter = thread::Builder::new()
        .name(format!("wait-{name}"))
        // The receiver is gone when we gave up on the program.
        .spawn(move || sender.send(child.wait()).is_ok())
        .during("start a thread")?;
    let failure = loop {
        match receiver.recv_timeout(LOOK) {
            Ok(status) => break status.during(&format!("wait for {name}")),
            Err(RecvTimeoutError::Disconnected) => {
                break Err(Failure::new("lab.process", format!("lost sight of {name}")));
            }
            Err(RecvTimeoutError::Timeout) if signal::asked_to_stop() => {
                break Err(Failure::stopped());
            }
            Err(RecvTimeoutError::Timeout) if began.elapsed() > limit => {
                break Err(Failure::expectation(format!("{name} did not end in {limit:?}")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    if failure.is_err() {
        signal::end(pid, true).during(&format!("end {name}"))?;
    }
    // Ends now: the program did.
    let _sent = waiter.join();
    failure
}

fn spawn(namespace: &Namespace, command: &mut Command) -> Result<Child> {
    use std::os::unix::process::CommandExt;

    let program = command.get_program().to_string_lossy().into_owned();
    // A group of its own: Ctrl-C on the terminal is for the laboratory, which
    // ends its programs in order.
    command.process_group(0);
    let child =
        namespace.within(|| command.spawn()).during(&format!("enter {}", namespace.name()))?;
    child.during(&format!("start {program}"))
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .during(&format!("open {}", path.display()))
}

fn listen(reader: impl Read, said: &Said, file: &mut File) {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match reader.read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // A full disk must not stop the program that writes.
        let _written = file.write_all(&bytes);
        let line = String::from_utf8_lossy(&bytes);
        said.push(line.trim_end_matches(['\r', '\n']).to_owned());
    }
}
