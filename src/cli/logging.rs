//! Where messages of the layers below go: the standard error, or a file of bounded size, filtered.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tracing_subscriber::EnvFilter;

use super::output::Output;
use crate::admin::AdminError;
use crate::base::limits::{LOG_DIR, LOG_MAX_BYTES, LOGS_KEPT};
use crate::config::LogLevel;

/// Name of the log that is being written.
const LOG_NAME: &str = "cairn.log";

/// Begins to show messages of at least `level`; flags win over it, `CAIRN_LOG` over both.
///
/// # Errors
/// If `CAIRN_LOG` is not a filter.
pub(super) fn start(output: &Output, level: LogLevel) -> Result<(), AdminError> {
    // Fails only if a subscriber is set already, as in tests: that one then stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter(output, level)?)
        .with_writer(io::stderr)
        .with_ansi(output.colour())
        .try_init();
    Ok(())
}

/// As [`start`], but into `log`, and what else goes to the standard error as well.
///
/// # Errors
/// If `CAIRN_LOG` is not a filter.
pub(super) fn start_in(output: &Output, level: LogLevel, log: LogFile) -> Result<(), AdminError> {
    let filter = filter(output, level)?;
    log.take_stderr();
    // As in `start`.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || log.clone())
        .with_ansi(false)
        .try_init();
    Ok(())
}

fn filter(output: &Output, level: LogLevel) -> Result<EnvFilter, AdminError> {
    let level = match (output.quiet, output.verbose) {
        (true, _) => LogLevel::Error,
        (false, 0) => level,
        (false, 1) => level.max(LogLevel::Info),
        (false, 2) => LogLevel::Debug,
        _ => LogLevel::Trace,
    };
    match std::env::var("CAIRN_LOG") {
        Ok(text) if !text.is_empty() => text
            .parse::<EnvFilter>()
            .map_err(|error| AdminError::usage(format!("CAIRN_LOG is not a filter: {error}"))),
        _ => Ok(EnvFilter::new(directives(level))),
    }
}

/// Our own messages at `level`, those of other crates one step less.
fn directives(level: LogLevel) -> String {
    let others = match level {
        LogLevel::Off => LogLevel::Off,
        LogLevel::Error | LogLevel::Warn => LogLevel::Error,
        LogLevel::Info => LogLevel::Warn,
        LogLevel::Debug => LogLevel::Info,
        LogLevel::Trace => LogLevel::Trace,
    };
    let (level, others) = (level.as_str(), others.as_str());
    format!("{others},cairnfs={level},cairn={level}")
}

/// `log/cairn.log` in a data directory, with its predecessors: all together of bounded size, since they
/// count towards the quota. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct LogFile {
    path: PathBuf,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    has_stderr: bool,
}

impl LogFile {
    /// Opens the log of a data directory, which is made if there is none.
    ///
    /// # Errors
    /// If the directory or the file cannot be made.
    pub(super) fn open(data_dir: &Path) -> io::Result<LogFile> {
        let dir = data_dir.join(LOG_DIR);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let path = dir.join(LOG_NAME);
        let file = append(&path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile {
            path,
            open: Arc::new(Mutex::new(Open {
                file,
                bytes,
                has_stderr: false,
            })),
        })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Another descriptor of it.
    pub(super) fn file(&self) -> io::Result<File> {
        self.lock().file.try_clone()
    }

    /// The last of it, at most so many bytes; nothing if it cannot be read.
    pub(super) fn tail(&self, bytes: u64) -> String {
        let read = || {
            let mut file = File::open(&self.path)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(bytes)))?;
            let mut tail = Vec::new();
            file.take(bytes).read_to_end(&mut tail)?;
            Ok::<_, io::Error>(tail)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Makes it the standard error of this process, for messages that come by no subscriber.
    fn take_stderr(&self) {
        let mut open = self.lock();
        open.has_stderr = true;
        // Without it such a message goes where it went before.
        let _ = rustix::stdio::dup2_stderr(&open.file);
    }

    /// Puts the log aside and begins a new one.
    fn rotate(&self, open: &mut Open) -> io::Result<()> {
        let name = |number: u32| self.path.with_file_name(format!("{LOG_NAME}.{number}"));
        for number in (1..LOGS_KEPT).rev() {
            match std::fs::rename(name(number), name(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, name(1))?;
        open.file = append(&self.path)?;
        open.bytes = 0;
        if open.has_stderr {
            rustix::stdio::dup2_stderr(&open.file)?;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut open = self.lock();
        if open.bytes > 0 && open.bytes + bytes.len() as u64 > LOG_MAX_BYTES {
            self.rotate(&mut open)?;
        }
        let written = open.file.write(bytes)?;
        open.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_and_its_predecessors_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(dir.path()).unwrap();
        let line = vec![b'x'; 100 << 10];
        for number in 0..60 {
            log.write_all(&line).unwrap();
            log.write_all(format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let files = std::fs::read_dir(dir.path().join(LOG_DIR)).unwrap();
        let sizes: Vec<u64> = files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 1 + LOGS_KEPT as usize);
        assert!(sizes.iter().all(|size| *size <= LOG_MAX_BYTES), "{sizes:?}");
        assert!(log.tail(8).contains("line 59"), "{}", log.tail(8));
        // It goes on where another process left off.
        drop(log);
        let mut log = LogFile::open(dir.path()).unwrap();
        log.write_all(b"more\n").unwrap();
        assert!(log.tail(100).contains("line 59\nmore\n"));
    }
}
