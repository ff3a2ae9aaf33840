//! The program as people run it: an installation of its own, and a running
//! server.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-coordinator");
pub(crate) const PUBLIC: &str = "mesh.example.net";

/// An installation in a folder of its own.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(TempDir::new())
    }

    /// A home with a coordinator in it.
    pub(crate) fn initialised() -> Self {
        let home = Self::new();
        home.done(&["init", "--public", PUBLIC]);
        home
    }

    /// The folder that all of it is in.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command_of(PROGRAM, &[]);
        command.args(arguments);
        command
    }

    /// What begins with these words and goes on with where everything is.
    pub(crate) fn command_of(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        words: &[&str],
    ) -> Command {
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::null()).args(words);
        command.arg("--data").arg(self.data()).arg("--socket").arg(self.0.path().join("socket"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command says that must succeed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(status(&output), 0, "{arguments:?}: {}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that must end with this status and code.
    pub(crate) fn refused(&self, arguments: &[&str], exit: i32, code: &str) -> String {
        let output = self.run(arguments);
        let text = errors(&output);
        assert_eq!(status(&output), exit, "{arguments:?}: {text}");
        assert!(text.starts_with(&format!("error[{code}]: ")), "{arguments:?}: {text}");
        text
    }

    pub(crate) fn serve(&self) -> Server {
        Server::start(self.command(&["serve", "--listen", "127.0.0.1:0"]))
    }

    /// Names in the data folder that say of an installation.
    pub(crate) fn left(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.data()) else { return Vec::new() };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "weft.lock")
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A running coordinator, ended with the value.
pub(crate) struct Server {
    pub(crate) child: Child,
    stderr: BufReader<ChildStderr>,
    pub(crate) said: String,
}

impl Server {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.lines().any(|line| line.starts_with("ready in ")) {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended: {said}");
        }
        Self { child, stderr, said }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal; gives the exit status and what was said after it.
    pub(crate) fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(self.pid(), signal).unwrap();
        let status = self.child.wait().unwrap();
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
