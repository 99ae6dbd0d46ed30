//! `key export` and `key import`: the backup of what cannot be had again.

use std::fs::OpenOptions;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::args::KeyFileArgs;
use super::failure::{Failure, file_error};
use super::launch::{Launch, LaunchOptions};
use super::output::Output;
use super::session::{Session, load_config};
use super::signals::Interrupt;
use crate::admin::types::KeyExportRequest;
use crate::admin::{AdminError, Client, ConnectError, DirLock};
use crate::config::Paths;

/// Largest backup that is read.
const BACKUP_MAX_BYTES: u64 = 1 << 30;
const PASSPHRASE_MIN_CHARS: usize = 8;

pub(super) async fn export(
    session: &Session,
    output: &Output,
    args: &KeyFileArgs,
) -> Result<(), Failure> {
    let exists = args.file.symlink_metadata().is_ok();
    if exists {
        return Err(exists_already(&args.file).into());
    }
    let passphrase = passphrase(args, true).await?;
    let exported = session
        .backend()
        .key_export(KeyExportRequest { passphrase })
        .await?;
    write_new(&args.file, exported.sealed.as_bytes())?;
    if output.json {
        output.document(&serde_json::json!({
            "file": args.file.to_string_lossy(),
            "peer": exported.peer,
        }))?;
    }
    output.say(&format!(
        "The backup of peer {} is in {}. Keep it off this machine, and remember the passphrase.",
        exported.peer,
        args.file.display()
    ));
    Ok(())
}

fn exists_already(file: &Path) -> AdminError {
    AdminError::failed(format!("{} exists already", file.display()))
        .hint("choose another name, or move it away")
}

/// Writes a file that must not exist, durably, readable by its owner only.
fn write_new(file: &Path, bytes: &[u8]) -> Result<(), AdminError> {
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists_already(file),
            _ => file_error("make", file, &error),
        })?;
    let written = out
        .write_all(bytes)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.sync_all());
    written.map_err(|error| {
        // Half a backup is none; the first error is the one to tell.
        let _ = std::fs::remove_file(file);
        file_error("write", file, &error)
    })
}

pub(super) async fn import(
    paths: &Paths,
    launcher: &dyn Launch,
    output: &Output,
    args: &KeyFileArgs,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    match Client::connect(&paths.data_dir).await {
        Err(ConnectError::NoPeer) => {}
        Err(ConnectError::Io(error)) => return Err(AdminError::failed(error.to_string()).into()),
        Ok(_) | Err(ConnectError::Silent(_)) => {
            return Err(AdminError::refused(format!(
                "a peer with an identity of its own is running on {}",
                paths.data_dir.display()
            ))
            .hint("choose an empty directory with --data-dir")
            .into());
        }
    }
    let sealed = read_backup(&args.file)?;
    let passphrase = tokio::select! {
        biased;
        () = interrupt.wait() => return Err(Failure::Interrupted),
        passphrase = passphrase(args, false) => passphrase?,
    };
    let lock = DirLock::acquire(&paths.data_dir).map_err(|error| AdminError::of(&error))?;
    let options = LaunchOptions {
        paths: paths.clone(),
        config: load_config(paths)?,
        is_embedded: true,
    };
    let imported = launcher.import_key(options, sealed, passphrase).await?;
    drop(lock);
    if output.json {
        output.document(&imported)?;
    }
    let count = |count: u64, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let links = count(imported.links, "link");
    let volumes = count(imported.volumes, "volume");
    output.say(&format!(
        "Restored peer {} with {links} and the keys of {volumes}. Start it with `cairn node`; never run the same identity \
         on two machines at once.",
        imported.peer
    ));
    Ok(())
}

fn read_backup(file: &Path) -> Result<String, AdminError> {
    let size = std::fs::metadata(file)
        .map_err(|error| file_error("read", file, &error))?
        .len();
    if size > BACKUP_MAX_BYTES {
        return Err(AdminError::usage(format!(
            "{} is too large for a backup of a key",
            file.display()
        )));
    }
    let bytes = std::fs::read(file).map_err(|error| file_error("read", file, &error))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| AdminError::usage(format!("{} is not a backup of a key", file.display())))?;
    Ok(text.trim().to_owned())
}

/// Asks for the passphrase, or reads it from where the user said. When this is dropped, the
/// terminal is as it was.
async fn passphrase(args: &KeyFileArgs, is_new: bool) -> Result<String, AdminError> {
    let silent = match &args.passphrase_file {
        Some(_) => None,
        None if io::stdin().is_terminal() => Some(SilentTerminal::new()?),
        None => {
            return Err(AdminError::usage("no terminal to ask for the passphrase")
                .hint("give it with --passphrase-file FILE, or `-` for the standard input"));
        }
    };
    let file = args.passphrase_file.clone();
    // On a thread of its own: Ctrl-C must be heard meanwhile.
    let read = tokio::task::spawn_blocking(move || match file {
        Some(file) => passphrase_of(&file),
        None => asked(is_new),
    });
    let read = read
        .await
        .map_err(|panic| AdminError::failed(panic.to_string()));
    drop(silent);
    let read = read??;
    if is_new && read.chars().count() < PASSPHRASE_MIN_CHARS {
        return Err(AdminError::usage(format!(
            "the passphrase needs at least {PASSPHRASE_MIN_CHARS} characters"
        )));
    }
    Ok(read)
}

fn passphrase_of(file: &PathBuf) -> Result<String, AdminError> {
    if file.as_os_str() == "-" {
        return first_line(io::stdin().lock(), file);
    }
    let open = std::fs::File::open(file).map_err(|error| file_error("read", file, &error))?;
    first_line(io::BufReader::new(open), file)
}

fn asked(is_new: bool) -> Result<String, AdminError> {
    let first = ask("Passphrase: ")?;
    if is_new && ask("Again: ")? != first {
        return Err(AdminError::usage("the two passphrases differ"));
    }
    Ok(first)
}

fn first_line(mut from: impl BufRead, file: &Path) -> Result<String, AdminError> {
    let mut line = String::new();
    from.read_line(&mut line)
        .map_err(|error| file_error("read the passphrase from", file, &error))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks on the terminal.
fn ask(prompt: &str) -> Result<String, AdminError> {
    let failed = |error: io::Error| AdminError::failed(format!("cannot ask: {error}"));
    // Whoever closed the standard error may still know what to type.
    let _ = write!(io::stderr(), "{prompt}");
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line).map_err(failed)? == 0 {
        return Err(AdminError::usage("no passphrase was given"));
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// The terminal shows nothing of what is typed while this lives, but the ends of lines.
struct SilentTerminal(Termios);

impl SilentTerminal {
    fn new() -> Result<Self, AdminError> {
        let failed = |error: rustix::io::Errno| {
            AdminError::failed(format!(
                "cannot ask for the passphrase: {}",
                io::Error::from(error)
            ))
        };
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        // What was typed before was not meant as a passphrase.
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(SilentTerminal(before))
    }
}

impl Drop for SilentTerminal {
    fn drop(&mut self) {
        // Without it the terminal stays silent; there is nothing better to do if this fails.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
