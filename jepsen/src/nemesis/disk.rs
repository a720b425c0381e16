//! What happens to a stopped node's files, and to its disk's free space.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::cluster::{ClusterError, file};

/// Fills the disk.
const FILLER: &str = "filler";
const FILL_BYTES: usize = 1 << 20;
/// Never more, whatever the disk.
const FILL_BYTES_MAX: u64 = 1 << 30;
/// So many places are damaged at a time.
const PLACES_MAX: usize = 3;
const PAGE: usize = 4_096;

/// Writes a file until nothing fits any more.
pub(super) fn fill(data: &Path) -> Result<u64, ClusterError> {
    let path = data.join(FILLER);
    let mut filler = File::create(&path).map_err(file("made", &path))?;
    let (mut written, mut step) = (0, FILL_BYTES);
    let block = vec![0x5a; FILL_BYTES];
    while written < FILL_BYTES_MAX && step > 0 {
        match filler.write(&block[..step]) {
            Ok(count) => written += count as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => step /= 2,
            Err(error) => return Err(file("written", &path)(error)),
        }
    }
    Ok(written)
}

/// Makes the space free again; says whether it had been full.
pub(super) fn free(data: &Path) -> Result<bool, ClusterError> {
    let path = data.join(FILLER);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file("removed", &path)(error)),
    }
}

/// Removes all that is in a directory; it may be absent.
pub(super) fn wipe(data: &Path) -> Result<(), ClusterError> {
    match fs::remove_dir_all(data) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(file("removed", data)(error)),
    }
}

/// Copies a directory with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), ClusterError> {
    let work = || -> io::Result<()> {
        for path in files(from)? {
            let target = to.join(path.strip_prefix(from).unwrap_or(&path));
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::copy(&path, &target)?;
        }
        Ok(())
    };
    work().map_err(file("copied", from))
}

/// All files below a directory, in order.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// Flips bits or zeroes pages in the commit log or the tables, and says where. The small files that say
/// who the node is are kept in two copies each, and are left alone.
pub(super) fn damage(data: &Path, random: &mut Rng) -> Result<String, ClusterError> {
    let is_data = |path: &PathBuf| {
        let text = path.strip_prefix(data).unwrap_or(path).to_string_lossy().into_owned();
        text.starts_with("tables/") || text.contains("log") || text.contains("segment")
    };
    let mut found = files(data).map_err(file("read", data))?;
    found.retain(|path| is_data(path) && path.metadata().is_ok_and(|file| file.len() > 0));
    let mut told = Vec::new();
    for _ in 0..random.usize(1..=PLACES_MAX) {
        if found.is_empty() {
            break;
        }
        let path = &found[random.usize(..found.len())];
        let what = damage_file(path, random).map_err(file("damaged", path))?;
        told.push(format!("{what} in {}", path.strip_prefix(data).unwrap_or(path).display()));
    }
    Ok(told.join(", "))
}

/// Flips a bit in every page of the first half of each table: there its blocks lie, and behind them what
/// leads to them.
pub(super) fn damage_everywhere(data: &Path, random: &mut Rng) -> Result<String, ClusterError> {
    // Beside them lie the files that say which of them count.
    let is_table =
        |path: &PathBuf| path.parent().is_some_and(|parent| parent.ends_with("tables/tables"));
    let mut found = files(data).map_err(file("read", data))?;
    found.retain(is_table);
    let mut pages = 0;
    for path in &found {
        let work = |random: &mut Rng| -> io::Result<usize> {
            let mut bytes = fs::read(path)?;
            let half = bytes.len() / 2;
            for page in bytes[..half].chunks_mut(PAGE) {
                let at = random.usize(..page.len());
                page[at] ^= 1 << random.u8(..8);
            }
            fs::write(path, &bytes)?;
            Ok(half.div_ceil(PAGE))
        };
        pages += work(random).map_err(file("damaged", path))?;
    }
    Ok(format!("a bit flipped in each of {pages} pages of {} tables", found.len()))
}

fn damage_file(path: &Path, random: &mut Rng) -> io::Result<String> {
    let mut opened = OpenOptions::new().read(true).write(true).open(path)?;
    let length = used(&mut opened)?.max(1);
    let at = random.u64(..length);
    opened.seek(SeekFrom::Start(at))?;
    let what = if random.bool() {
        let mut byte = [0];
        opened.read_exact(&mut byte)?;
        opened.seek(SeekFrom::Start(at))?;
        opened.write_all(&[byte[0] ^ (1 << random.u8(..8))])?;
        format!("a bit flipped at {at}")
    } else {
        let page = usize::try_from(length - at).unwrap_or(PAGE).min(PAGE);
        opened.write_all(&vec![0; page])?;
        format!("{page} bytes zeroed at {at}")
    };
    opened.sync_all()?;
    Ok(what)
}

/// Up to where a file has been written: the log's segments are made long beforehand.
fn used(opened: &mut File) -> io::Result<u64> {
    let mut bytes = Vec::new();
    opened.read_to_end(&mut bytes)?;
    let last = bytes.iter().rposition(|byte| *byte != 0);
    Ok(last.map_or(0, |last| last as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_damaged_copied_and_wiped() {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let (data, copied) = (scratch.path().join("data"), scratch.path().join("copy"));
        fs::create_dir_all(data.join("tables")).expect("made");
        let table = data.join("tables").join("1");
        fs::write(&table, vec![7; 10_000]).expect("written");
        fs::write(data.join("identity"), b"me").expect("written");
        copy(&data, &copied).expect("copied");
        let told = damage(&data, &mut Rng::with_seed(5)).expect("damaged");
        assert!(told.contains("in tables/1"), "{told}");
        assert_ne!(fs::read(&table).expect("there"), vec![7; 10_000]);
        assert_eq!(fs::read(data.join("identity")).expect("there"), b"me");
        wipe(&data).expect("wiped");
        wipe(&data).expect("nothing is there");
        copy(&copied, &data).expect("copied");
        assert_eq!(fs::read(&table).expect("there"), vec![7; 10_000]);
        assert!(!free(&data).expect("it was never full"));
    }
}
