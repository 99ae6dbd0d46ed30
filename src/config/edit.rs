//! Changing a config file in place: comments stay, and a crash leaves the old text or the new one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::schema::{Style, render};
use super::value::Quota;
use super::{Config, ConfigError};
use crate::base::{Class, Classify};

/// Why a config file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// Its present text is not valid, and is left alone.
    #[error("the config file was not changed, because it has mistakes:\n{0}")]
    Invalid(#[from] ConfigError),
    /// It cannot be written.
    #[error("cannot write the config file {}: {source}", file.display())]
    Unwritable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Classify for EditError {
    fn class(&self) -> Class {
        match self {
            EditError::Invalid(error) => error.class(),
            EditError::Unwritable { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::Full,
                _ => Class::Denied,
            },
        }
    }
}

/// Writes a config file in which every key is mentioned and none is set, if there is no file yet.
///
/// Makes the directory too, readable by its owner only. Answers whether it made the file.
///
/// # Errors
/// If the directory or the file cannot be made.
pub fn create_if_absent(file: &Path) -> Result<bool, EditError> {
    let unwritable = |source| EditError::Unwritable {
        file: file.to_owned(),
        source,
    };
    if file.try_exists().map_err(unwritable)? {
        return Ok(false);
    }
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(unwritable)?;
    }
    let text = render(&Config::default(), Style::Commented);
    replace(file, &text).map_err(unwritable)?;
    Ok(true)
}

/// Sets `storage.quota` in `file`, which is made if there is none.
///
/// # Errors
/// If the present text has mistakes, or the new one cannot be written; the file is then as it was.
pub fn set_quota(file: &Path, quota: Quota) -> Result<(), EditError> {
    set(file, "storage", "quota", |item| {
        let value = match quota {
            Quota::Auto => toml_edit::Value::from("auto"),
            Quota::Bytes(size) if size.to_string().parse() == Ok(size) => {
                toml_edit::Value::from(size.to_string())
            }
            // A number that no short form gives back exactly.
            Quota::Bytes(size) => match i64::try_from(size.0) {
                Ok(bytes) => toml_edit::Value::from(bytes),
                Err(_) => toml_edit::Value::from(size.0.to_string()),
            },
        };
        keep_decor(item, value);
    })
}

/// Replaces a value and keeps the comment behind it.
fn keep_decor(item: &mut toml_edit::Item, mut value: toml_edit::Value) {
    if let Some(old) = item.as_value() {
        *value.decor_mut() = old.decor().clone();
    }
    *item = toml_edit::Item::Value(value);
}

fn set(
    file: &Path,
    table: &str,
    key: &str,
    change: impl FnOnce(&mut toml_edit::Item),
) -> Result<(), EditError> {
    let unwritable = |source| EditError::Unwritable {
        file: file.to_owned(),
        source,
    };
    create_if_absent(file)?;
    Config::load(file)?;
    let text = std::fs::read_to_string(file).map_err(unwritable)?;
    let mut document: toml_edit::DocumentMut = text
        .parse()
        .map_err(|error| unwritable(io::Error::other(error)))?;
    let table = document
        .entry(table)
        .or_insert_with(|| toml_edit::Item::Table(toml_edit::Table::new()));
    let Some(table) = table.as_table_like_mut() else {
        // `Config::load` accepted the text, so the entry is a table of one kind or the other.
        return Err(unwritable(io::Error::other("not a table")));
    };
    change(table.entry(key).or_insert(toml_edit::Item::None));
    let text = document.to_string();
    Config::parse(&text).map_err(|problems| ConfigError::Invalid {
        file: file.to_owned(),
        problems,
    })?;
    replace(file, &text).map_err(unwritable)
}

/// Replaces the text of `file`: temporary sibling, fsync, rename, fsync of the directory.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // A link to a config file kept elsewhere stays a link.
    let file = match std::fs::canonicalize(file) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => file.to_owned(),
        Err(error) => return Err(error),
    };
    let dir = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = dir.join(name);
    let permissions = std::fs::metadata(&file).map(|meta| meta.permissions()).ok();
    let written = (|| {
        let mut out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        out.write_all(text.as_bytes())?;
        if let Some(permissions) = permissions {
            out.set_permissions(permissions)?;
        }
        out.sync_all()?;
        std::fs::rename(&temporary, &file)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        // The first error is the one to tell; a leftover is harmless.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
