//! How an entry is found, or made.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};

use super::context::Context;
use super::dir::{Lockable, Names, lock_within};
use super::entry::Entry;
use super::key::Key;
use super::map::{Map, Wrong};
use super::quota;
use super::table::{Description, Part};
use super::writer::Queue;

/// How often an entry may turn out to be just being removed or made before it is given up.
const ATTEMPTS: u32 = 10;
/// How long to wait for who looks whether an entry is in use.
const PATIENCE: Duration = Duration::from_millis(50);

/// Why there is no entry.
pub enum Unavailable {
    /// It is not in the cache, which cannot be written.
    Absent,
    /// The disk is full.
    Full(io::Error),
    /// Something is wrong, which is worth a line in the log.
    Because(String),
}

impl From<io::Error> for Unavailable {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(e),
            _ => Self::Because(e.to_string()),
        }
    }
}

enum Existing {
    Open(Box<Entry>),
    Absent,
    /// It was removed or made while we looked.
    Moving,
    /// It has to be made anew.
    Useless(&'static str),
}

/// Opens the entry of `key`, and makes it when there is none or it is of no use.
pub fn open(
    (context, queue): (&Arc<Context>, &Arc<Queue>),
    key: Key,
    what: &Description<'_>,
) -> Result<Entry, Unavailable> {
    let parts = what.parts().map_err(|e| Unavailable::Because(e.to_owned()))?;
    for _ in 0..ATTEMPTS {
        match existing((context, queue), key, what, &parts)? {
            Existing::Open(entry) => return Ok(*entry),
            Existing::Moving => std::thread::sleep(Duration::from_millis(2)),
            Existing::Absent if context.read_only => return Err(Unavailable::Absent),
            Existing::Absent => {
                let names = context.dir.lock_names()?;
                create(context, key, what, &parts, &names)?;
            }
            Existing::Useless(why) => {
                log::warn!("disk cache {}: {key} ({:?}) is made anew: {why}", context.dir.path().display(), what.label);
                if context.read_only {
                    return Err(Unavailable::Absent);
                }
                let names = context.dir.lock_names()?;
                if !quota::remove(&context.dir, &key, &names)? {
                    return Err(Unavailable::Because(format!("{why}, and it is in use")));
                }
            }
        }
    }
    Err(Unavailable::Because("others keep removing it".to_owned()))
}

fn existing(
    (context, queue): (&Arc<Context>, &Arc<Queue>),
    key: Key,
    what: &Description<'_>,
    parts: &[Part],
) -> io::Result<Existing> {
    let flags = if context.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let file = match context.dir.file(&key.map(), flags) {
        Ok(file) => Lockable(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Existing::Absent),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            return Ok(Existing::Useless("something else has its name"));
        }
        Err(e) => return Err(e),
    };
    if lock_within(&*file, FlockOperation::NonBlockingLockShared, PATIENCE).is_err() {
        return Ok(Existing::Moving);
    }
    if !quota::is_named(&context.dir, &key.map(), &file)? {
        return Ok(Existing::Moving);
    }
    // From here on nobody removes it.
    let map = match Map::open(file, key) {
        Ok(map) => map,
        Err(Wrong::Damaged(why)) => return Ok(Existing::Useless(why)),
        Err(Wrong::Io(e)) => return Err(e),
    };
    if map.len() != what.len || map.chunks() != what.chunks || map.parts() != parts {
        return Ok(Existing::Useless("it was cut into other chunks"));
    }
    let data = match context.dir.file(&key.data(), OFlags::RDONLY) {
        Ok(data) => data,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Existing::Useless("its bytes are gone")),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            return Ok(Existing::Useless("something else has its name"));
        }
        Err(e) => return Err(e),
    };
    if data.metadata()?.len() != what.len {
        return Ok(Existing::Useless("its bytes have another length"));
    }
    Ok(Existing::Open(Box::new(Entry::new((Arc::clone(context), Arc::clone(queue)), map, data, Some(&what.literals))?)))
}

/// Makes both files. The map gets its name last, and whole.
fn create(context: &Context, key: Key, what: &Description<'_>, parts: &[Part], names: &Names) -> io::Result<()> {
    let dir = &context.dir;
    match dir.stat(&key.map()) {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // Bytes without a map are of a process that was killed here.
    dir.remove(&key.data(), names)?;
    dir.remove(&key.unfinished(), names)?;
    let made = dir.create(&key.data()).and_then(|data| data.set_len(what.len)).and_then(|()| {
        let file = dir.create(&key.unfinished())?;
        Map::create(&file, key, what.label, what.len, what.chunks, parts)?;
        dir.rename(&key.unfinished(), &key.map(), names)
    });
    if made.is_err() {
        for name in [key.unfinished(), key.data()] {
            let _ = dir.remove(&name, names);
        }
    }
    made
}
