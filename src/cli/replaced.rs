//! One file in place of another: written beside it, proven to hold the same, and only then is the other removed.
//!
//! At every moment each name is the original, or a successor that was proven, or both. A killed run leaves no half file, as a
//! successor has no name before it was proven; what is left of a finished one is proven again before it is used.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bsfs::compress::{self, Against, Beside, Options, Original, Progress};
use bsfs::engine::{self, Whole};
use bsfs::format::Container;
use bsfs::format::checksum::hex;
use bsfs::longpath;
use bsfs::sink::{AtomicFile, Place, aside};
use bsfs::source::{FileSource, Identity, ReadAt};
use bsfs::{Error, Result};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::exit::Exit;
use super::lease::{Halt, Lease, User, users};
use super::opened::{self, Opened};
use super::out::{with_bs, without_bs};
use super::progress::Bar;
use super::replace_plan::Group;
use super::version::is_version;

/// What it takes.
pub struct Tools<'a> {
    pub pool: rayon::ThreadPool,
    pub halt: &'a Halt,
    pub bar: &'a Bar,
    pub force: bool,
}

/// What became of a file.
pub enum Done {
    /// Its successor has its place.
    Replaced {
        output: PathBuf,
        /// Bytes of it.
        len: u64,
        /// Whether it had been there before.
        found: bool,
        /// Who reads the file that was removed: until they end nothing is freed.
        readers: Vec<User>,
    },
    /// It would become longer, by so many bytes or none.
    Kept(u64),
}

/// Makes a container of a file.
pub fn pack(tools: &Tools<'_>, options: &Options<'_>, group: &Group) -> Result<Done> {
    let (source, name) = original(group)?;
    let _lease = Lease::take(name, source.identity())?;
    let output = home(group, |name| Some(with_bs(name)))?;
    let found = longpath::symlink_metadata(&output).is_ok() && !tools.force;
    let proven = if found {
        let proven = packed_before(tools, &output, &source)?;
        tools.bar.skip(source.len());
        proven
    } else {
        source.advise_sequential();
        let (seconds, nanoseconds) = source.identity().mtime;
        let mtime = (seconds, u32::try_from(nanoseconds).unwrap_or(0));
        let original = Original { source: &source, name, mtime };
        let itself = Against::itself(&tools.pool, name)?;
        let options = &Options { against: Some(&itself), ..options.clone() };
        let (like, mut longer) = (source.attributes()?, 0);
        let mut admit = |written: &dyn ReadAt| {
            if written.len() >= source.len() {
                longer = written.len() - source.len();
                return Ok(false);
            }
            let container = Container::open(written)?;
            let whole = Whole::new(&container, written);
            // The second time from the disk, too: what was misread the first time is in memory as it was read.
            source.wont_need(0, source.len());
            engine::verify(&tools.pool, whole, Some(&source), &tools.halt.any, &mut |_, _| Ok(())).map(|_| true)
        };
        let admit = |written: &dyn ReadAt| admit(written).map_err(|error| unlike(name, error));
        let beside = Beside { like: like.as_ref(), over: None };
        let done = compress::compress_beside(&tools.pool, &original, &output, options, beside, tools.bar, admit)?;
        let Some((_, written)) = done else { return Ok(Done::Kept(longer)) };
        Identity::of(&written)
    };
    finish(tools, group, &source, (&output, proven, found), |name| Some(with_bs(name)), &mut |other| {
        packed_before(tools, other, &source)
    })
}

/// Makes the original of a container.
pub fn unpack(
    tools: &Tools<'_>,
    references: impl FnOnce(&Container, Identity) -> Result<Option<std::sync::Arc<engine::References>>>,
    group: &Group,
) -> Result<Done> {
    let (source, name) = original(group)?;
    let Opened::Native(_, opened) = opened::open(name)? else {
        let text = "is a container of bigsmall, which does not hold the file that was packed; use \"bsfs migrate\"";
        return Err(Error::invalid(format!("{}: {text}", name.display())));
    };
    let _lease = Lease::take(name, source.identity())?;
    let output = home(group, without_bs)?;
    let references = references(&opened, source.identity())?;
    if let Some(references) = &references {
        references.complete(&opened)?;
    }
    let whole = Whole { container: &opened, source: &source, references: references.as_deref() };
    let same = |other: &Path| {
        let plain = FileSource::open(other)?;
        synced(other)?;
        plain.wont_need(0, plain.len());
        match engine::verify(&tools.pool, whole, Some(&plain), &tools.halt.any, &mut |_, _| Ok(())) {
            Ok(_) => Ok(plain.identity()),
            Err(error @ Error::Differs { .. }) => Err(Error::invalid(format!("{error}; both are left"))),
            Err(error) => Err(error),
        }
    };
    let found = longpath::symlink_metadata(&output).is_ok() && !tools.force;
    let proven = if found {
        let proven = same(&output)?;
        tools.bar.skip(group.len);
        proven
    } else {
        source.advise_sequential();
        let mut file = AtomicFile::create(&output, tools.force)?;
        if let Some(attributes) = source.attributes()? {
            file.resemble(&attributes)?;
        }
        engine::verify(&tools.pool, whole, None, &tools.halt.any, &mut |_, raw: &[u8]| {
            file.write_all(raw).map_err(Error::io("write", &output))?;
            tools.bar.advance(raw.len() as u64, 0);
            Ok(())
        })?;
        let (seconds, nanoseconds) = opened.mtime();
        file.set_modified_at(seconds, nanoseconds)?;
        let mut digest = Sha256::new();
        file.read_back(|bytes| {
            digest.update(bytes);
            tools.halt.check()
        })?;
        let got: [u8; 32] = digest.finalize().into();
        if got != opened.file().sha256 {
            let what = "SHA-256 of the file, read back before it was published,".to_owned();
            let error = Error::Differs { path: output, what, expected: hex(&opened.file().sha256), got: hex(&got) };
            return Err(unlike(name, error));
        }
        Identity::of(&file.publish()?)
    };
    finish(tools, group, &source, (&output, proven, found), without_bs, &mut |other| same(other))
}

/// What was made of the file `name` is not what it should be, when it comes from the disk. That is no damage of the input.
fn unlike(name: &Path, error: Error) -> Error {
    match Exit::of(&error) {
        Exit::Damaged => {
            let text = "this is what came back from the disk after it was written; check disk and memory";
            Error::invalid(format!("{error}; {text}; {} is left as it is", name.display()))
        }
        _ => error,
    }
}

/// The file of a group, of which all names are known.
fn original(group: &Group) -> Result<(FileSource, &Path)> {
    let Some(name) = group.names.first() else { return Err(Error::invalid("a file without a name")) };
    let source = FileSource::open(name)?;
    let meta = longpath::symlink_metadata(name).map_err(Error::io("stat", name))?;
    if Identity::of(&meta) != source.identity() || meta.nlink() != group.names.len() as u64 {
        return Err(Error::Changed { path: name.clone() });
    }
    Ok((source, name))
}

/// Where the successor goes: to where it is already, by one of the names.
fn home(group: &Group, successor: impl Fn(&Path) -> Option<PathBuf>) -> Result<PathBuf> {
    let mut homes: Vec<PathBuf> = group.names.iter().filter_map(|name| successor(name)).collect();
    homes.iter().try_for_each(|home| Place::of(home).and_then(|place| place.check(home)))?;
    group.names.iter().try_for_each(|name| aside::check(name))?;
    let there = homes.iter().position(|home| longpath::symlink_metadata(home).is_ok()).unwrap_or(0);
    if homes.is_empty() {
        return Err(Error::invalid("a container without a name before .bs"));
    }
    Ok(homes.swap_remove(there))
}

fn container(path: &Path) -> Result<(FileSource, Container)> {
    let meta = longpath::symlink_metadata(path).map_err(Error::io("stat", path))?;
    let file = FileSource::open(path)?;
    if (meta.dev(), meta.ino()) != (file.identity().dev, file.identity().ino) {
        return Err(Error::invalid(format!("{}: is a link, and no container of its own", path.display())));
    }
    let container = Container::open(&file)?;
    Ok((file, container))
}

/// Proves that the container at `path` holds `original`, by what is on the disk; gives the version that was proven.
fn packed_before(tools: &Tools<'_>, path: &Path, original: &FileSource) -> Result<Identity> {
    let other = |why: &str| {
        let text = "both are left; remove the one that you do not want, or use --force to replace the container";
        Error::invalid(format!("{}: is there already and {why}; {text}", path.display()))
    };
    let (file, container) = container(path).map_err(|error| other(&format!("cannot be used ({error})")))?;
    if container.bases().needs_others() {
        return Err(other("needs other files"));
    }
    synced(path)?;
    file.wont_need(0, file.len());
    original.wont_need(0, original.len());
    let whole = Whole::new(&container, &file);
    let verified = engine::verify(&tools.pool, whole, Some(original), &tools.halt.any, &mut |_, _| Ok(()));
    match verified {
        Ok(_) => Ok(file.identity()),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => Err(other(&format!("does not hold this file ({error})"))),
    }
}

/// Sends a file to the disk that somebody may have written a moment ago.
fn synced(path: &Path) -> Result<()> {
    let open = longpath::open(path, OFlags::RDONLY, Mode::empty());
    open.and_then(|file| file.sync_all()).map_err(Error::io("write to disk", path))
}

fn sync_directory(path: &Path) -> Result<()> {
    let dir = longpath::directory(path);
    longpath::sync_directory(dir).map_err(Error::io("write to disk", dir))
}

/// Gives the successor, in the version that was proven, all names, then removes the original's. `found`: it was there before.
fn finish(
    tools: &Tools<'_>,
    group: &Group,
    source: &FileSource,
    (output, proven, found): (&Path, Identity, bool),
    successor: impl Fn(&Path) -> Option<PathBuf>,
    prove: &mut dyn FnMut(&Path) -> Result<Identity>,
) -> Result<Done> {
    let mut others = Vec::new();
    for other in group.names.iter().filter_map(|name| successor(name)).filter(|other| other != output) {
        let version = match longpath::symlink_metadata(&other) {
            Ok(meta) if is_version(proven, &meta) => proven,
            Ok(_) if tools.force => {
                bsfs::sink::hard_link_over(output, &other)?;
                proven
            }
            Ok(_) => prove(&other)?,
            Err(_) => {
                longpath::hard_link(output, &other).map_err(Error::io("create", &other))?;
                proven
            }
        };
        others.push((other, version));
    }
    if found {
        sync_directory(output)?;
    }
    others.iter().try_for_each(|(other, _)| sync_directory(other))?;
    others.insert(0, (output.into(), proven));
    let readers = remove(tools.halt, source, &group.names, group.names.len() as u64, &others)?;
    Ok(Done::Replaced { output: output.into(), len: proven.len, found, readers })
}

/// Removes names of a file whose successors were proven and synced: these, with the versions that were proven. The file has `links`
/// names in all. Nothing is removed unless each name still leads to the version that was read, and each name of a successor to the
/// one that was proven. Gives the processes that read the file.
pub fn remove(
    halt: &Halt,
    source: &FileSource,
    names: &[PathBuf],
    links: u64,
    successors: &[(PathBuf, Identity)],
) -> Result<Vec<User>> {
    let stat = |path: &Path| longpath::symlink_metadata(path).map_err(Error::io("stat", path));
    halt.check()?;
    // Without a lease (see there) another process may write just now.
    let readers = users(source.identity());
    if readers.iter().any(|user| user.writes) {
        return Err(Error::Changed { path: source.path().into() });
    }
    for (at, proven) in successors {
        if !is_version(*proven, &stat(at)?) {
            return Err(Error::Changed { path: at.clone() });
        }
    }
    let mut version = source.identity();
    for (gone, name) in names.iter().enumerate() {
        let meta = stat(name)?;
        // Removing a name is a change of the inode, and so moves its time.
        if gone > 0 {
            version.ctime = Identity::of(&meta).ctime;
        }
        let left = links - gone as u64;
        if Identity::of(&meta) != version || meta.nlink() != left {
            return Err(Error::Changed { path: name.clone() });
        }
        halt.check()?;
        aside::remove_version(name, &|meta| is_version(version, meta) && meta.nlink() == left)?;
    }
    Ok(readers)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;

    fn version(path: &Path) -> Identity {
        Identity::of(&fs::symlink_metadata(path).unwrap())
    }

    #[test]
    fn a_file_that_gets_the_successors_name_after_the_proof_does_not_stand_for_the_original() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let put = |path: &Path, bytes: &[u8]| {
            fs::write(at("new"), bytes).unwrap();
            fs::rename(at("new"), path).unwrap();
        };
        let halt = Halt::watch(Arc::default()).unwrap();
        let bar = Bar::new(0, true);
        let tools = Tools { pool: bsfs::parallel::pool(1).unwrap(), halt: &halt, bar: &bar, force: false };
        let successor = |name: &Path| Some(with_bs(name));
        // The first successor, a second one that is another file, and the second name of the first.
        for raced in ["", "a.bs", "b.bs"] {
            put(&at("a"), b"original");
            fs::hard_link(at("a"), at("b")).unwrap();
            put(&at("a.bs"), b"packed");
            put(&at("b.bs"), b"packed too");
            let source = FileSource::open(at("a")).unwrap();
            let group = Group { names: vec![at("a"), at("b")], len: 8 };
            let proven = version(&at("a.bs"));
            let mut prove = |other: &Path| {
                let proven = version(other);
                if !raced.is_empty() {
                    put(&at(raced), b"another file");
                }
                Ok(proven)
            };
            let done = finish(&tools, &group, &source, (&at("a.bs"), proven, true), successor, &mut prove);
            assert_eq!(
                (done.is_ok(), at("a").exists(), at("b").exists()),
                (raced.is_empty(), !raced.is_empty(), !raced.is_empty()),
                "{raced}"
            );
            ["a", "b", "a.bs", "b.bs"].iter().for_each(|name| _ = fs::remove_file(at(name)));
        }
    }
}
