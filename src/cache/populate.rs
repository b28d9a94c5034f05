//! Writing chunks into an entry's files, by the writer's thread: the bytes first, then the record that says so.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::counters::count;
use super::entry::Entry;
use super::fill::{Fill, Locked};
use super::map::{SEAL, checksum};
use super::writer::{Kept, Target};

impl Target for Entry {
    fn write(&self, chunk: Option<(u32, &[u8])>) -> io::Result<Kept> {
        self.write_missing(chunk)
    }

    fn literal_bytes(&self) -> u64 {
        self.literal_bytes.load(Ordering::Relaxed)
    }

    fn unqueue(&self, chunk: u32) {
        self.queued.clear(chunk);
    }
}

impl Entry {
    fn write_missing(&self, chunk: Option<(u32, &[u8])>) -> io::Result<Kept> {
        // A panic leaves the file to be opened again, and literals that are there already.
        let Some(mut fill) = self.fill.try_lock() else { return Ok(Kept::Dropped) };
        if self.settled.load(Ordering::Relaxed) {
            return Ok(Kept::Already);
        }
        let mut written = 0;
        while let Some((at, bytes)) = fill.literals.last().cloned() {
            match self.write_part(&mut fill, at, &bytes)? {
                Kept::Dropped => return Ok(Kept::Dropped),
                Kept::Already => {}
                Kept::Written(bytes) => written += bytes,
            }
            fill.literals.pop();
            self.literal_bytes.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
        if let Some((at, bytes)) = chunk {
            match self.write_part(&mut fill, at, bytes)? {
                Kept::Written(bytes) => {
                    written += bytes;
                    count(&self.context.counts.written_chunks);
                }
                other if written == 0 => return Ok(other),
                _ => {}
            }
        }
        self.context.counts.written_bytes.fetch_add(written, Ordering::Relaxed);
        Ok(Kept::Written(written))
    }

    fn write_part(&self, fill: &mut Fill, at: u32, bytes: &[u8]) -> io::Result<Kept> {
        let Some(part) = self.map.part(at).filter(|part| part.len as usize == bytes.len()) else {
            return Ok(Kept::Dropped);
        };
        let file = match self.writable(fill) {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                // Its file was removed or replaced. That says nothing about other entries.
                self.warn(&format!("it is not filled: {e}"));
                return Ok(Kept::Dropped);
            }
            Err(e) => return Err(e),
        };
        // Shared among those who write; who proves the file has it alone.
        let Ok(_lock) = Locked::now(file, FlockOperation::NonBlockingLockShared) else { return Ok(Kept::Dropped) };
        if self.map.record(at)?.is_some() {
            // Another process was faster.
            self.present.set(at);
            return Ok(Kept::Already);
        }
        let meta = file.metadata()?;
        if meta.nlink() == 0 {
            // Somebody removed the directory; the space of a file without a name would be nobody's to free.
            return Ok(Kept::Dropped);
        }
        if meta.len() != self.map.len() {
            file.set_len(self.map.len())?;
        }
        if self.map.seal()? != [0; SEAL] {
            self.map.set_seal(&[0; SEAL])?;
        }
        file.write_all_at(bytes, part.offset)?;
        self.map.set_record(at, checksum(bytes))?;
        self.present.set(at);
        Ok(Kept::Written(bytes.len() as u64))
    }

    /// The data file for writing, which is the very file that is read.
    pub(super) fn writable<'a>(&self, fill: &'a mut Fill) -> io::Result<&'a File> {
        let file = match fill.file.take() {
            Some(file) => file,
            None => {
                let name = self.key().data();
                let opened = match self.context.dir.file(&name, OFlags::RDWR) {
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                        // It was proven once, and is not any more.
                        rustix::fs::fchmod(&self.data, Mode::RUSR | Mode::WUSR)?;
                        self.context.dir.file(&name, OFlags::RDWR)
                    }
                    opened => opened,
                }?;
                let (ours, found) = (self.data.metadata()?, opened.metadata()?);
                if (ours.dev(), ours.ino()) != (found.dev(), found.ino()) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "another file has its name"));
                }
                opened
            }
        };
        Ok(fill.file.insert(file))
    }
}
