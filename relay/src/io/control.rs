//! The local socket: a line in, a document out. Its owner and root may speak.

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a question and an answer may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// The longest question, in bytes.
const MAX_QUESTION: u64 = 64;
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1_024;

/// What somebody at this machine wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// How the relay is.
    Status,
    /// Take no new clients.
    Drain,
    /// Take them again.
    Undrain,
}

impl Ask {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Status, "status"), (Self::Drain, "drain"), (Self::Undrain, "undrain")];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(ask, _)| *ask == self).map_or("", |(_, word)| word)
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(ask, _)| *ask)
    }
}

/// The listener; dropping it ends its thread and removes its file.
pub struct Control {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Answers with what `answer` gives. A socket that nobody answers on is
    /// replaced.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when a relay answers there, or another kind of file is there;
    /// else what the system says.
    pub fn start(path: &Path, answer: impl Fn(Ask) -> String + Send + 'static) -> io::Result<Self> {
        let listener = bind(path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let for_thread = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("weft-control".to_owned());
        let thread = thread.spawn(move || {
            for stream in listener.incoming() {
                if for_thread.load(Ordering::Acquire) {
                    return;
                }
                // Who asks badly gets nothing, and asks again.
                let _ = stream.and_then(|stream| serve(&stream, &answer));
            }
        })?;
        Ok(Self { path: path.to_owned(), stop, thread: Some(thread) })
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let taken = |words: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, words.to_owned()));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return taken("another kind of file is there");
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return taken("a relay answers on it"),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Nobody may connect between bind and chmod: the name is new, and moves into
    // place when its mode is right.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let listener = UnixListener::bind(&hidden)?;
    let placed = fs::set_permissions(&hidden, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&hidden, path));
    if let Err(error) = placed {
        // What went wrong is said; the file is of no use.
        let _ = fs::remove_file(&hidden);
        return Err(error);
    }
    Ok(listener)
}

fn serve(stream: &UnixStream, answer: &impl Fn(Ask) -> String) -> io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_QUESTION)).read_line(&mut line)?;
    let Some(ask) = Ask::from_word(line.trim_end()) else { return Ok(()) };
    let mut stream = stream;
    stream.write_all(answer(ask).as_bytes())
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Any connection wakes it, and it then sees the flag.
        if UnixStream::connect(&self.path).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic of the thread was printed by the panic hook.
            let _ended = thread.join();
        }
        // It may be gone already; then there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}

/// Asks the relay that runs on this machine.
///
/// # Errors
///
/// What the system says; `UnexpectedEof` when it says nothing.
pub fn ask(path: &Path, ask: Ask) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(format!("{}\n", ask.word()).as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    if answer.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_and_nonsense_is_not() {
        let path = std::env::temp_dir().join(format!("weft-relay-{}.sock", std::process::id()));
        let control = Control::start(&path, |ask| format!("{ask:?}")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ask(&path, Ask::Drain).unwrap(), "Drain");
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"shutdown\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "");
        let taken = Control::start(&path, |_| String::new()).err().unwrap();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(control);
        assert!(!path.exists());
        // One that a crash left behind.
        drop(UnixListener::bind(&path).unwrap());
        drop(Control::start(&path, |_| String::new()).unwrap());
        fs::write(&path, "mine").unwrap();
        assert!(Control::start(&path, |_| String::new()).is_err(), "no socket");
        fs::remove_file(&path).unwrap();
    }
}
