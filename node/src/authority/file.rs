//! The authority's files: read with a bound, written whole or not at all, and never over another but
//! where that is what was asked for.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::AuthorityError;

/// A PEM file is never longer, in bytes.
const PEM_BYTES_MAX: u64 = 1 << 20;

pub(super) fn read(path: &Path) -> Result<String, AuthorityError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => AuthorityError::Missing(path.to_owned()),
        _ => AuthorityError::File { action: "read", path: path.to_owned(), source },
    };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(PEM_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a file that must not exist yet, with its parents. Its name appears when it is whole.
pub(super) fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => AuthorityError::Exists(path.to_owned()),
        _ => AuthorityError::File { action: "written", path: path.to_owned(), source },
    };
    let directory = path.parent().unwrap_or(Path::new(""));
    if !directory.as_os_str().is_empty() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = Path::new(&temporary);
    let written = write_synced(temporary, text, mode)
        // A link, unlike a rename, fails where the name is taken.
        .and_then(|()| fs::hard_link(temporary, path));
    let removed = fs::remove_file(temporary);
    written.map_err(failed)?;
    removed.map_err(failed)
}

/// Puts a file in the place of the one that is there, if any, in one step.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let failed = |source: io::Error| AuthorityError::File {
        action: "written",
        path: path.to_owned(),
        source,
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = Path::new(&temporary);
    let written = write_synced(temporary, text, mode).and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(temporary);
    }
    written.map_err(failed)
}

fn write_synced(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
