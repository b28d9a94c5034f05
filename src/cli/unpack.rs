//! The file that a BigSmall container is shown as, written out: several tensors at once, each at its place.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bsfs::compress::Progress;
use bsfs::engine::{BaseFile, Engine};
use bsfs::foreign::bigsmall::format::shown_name;
use bsfs::parallel;
use bsfs::sink::AtomicFile;
use bsfs::tensor::TensorInfo;
use bsfs::{Error, Result};

use super::opened::BigSmall;

/// Bytes written at once: those of a window, which then is not copied.
const STEP: u64 = 512 << 10;

/// `path` under the name that it is shown as; `None` when it has no name of a container.
pub fn shown_path(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".bsr").map_or_else(|| name.to_owned(), |stem| format!("{stem}.bs"));
    shown_name(&name).map(|shown| path.with_file_name(shown))
}

/// Writes the shown file to `file`, and gives it its name. Every tensor's MD5 is compared before the output has its name.
pub fn unpack(
    (pool, engine): (&rayon::ThreadPool, &Arc<Engine>),
    container: &BigSmall,
    base: Option<Arc<BaseFile>>,
    mut file: AtomicFile,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<()> {
    let output = file.path().to_path_buf();
    let tensors = container.tensors()?;
    let header = container.presented.header();
    let image = engine.foreign(container.presented.clone(), container.source.clone(), base);
    let target = &*file.file();
    let write = |bytes: &[u8], at| target.write_all_at(bytes, at).map_err(Error::io("write", &output));
    write(header, 0)?;
    progress.advance(header.len() as u64, 0);
    // To its end even if the last tensor has no bytes.
    target.set_len(image.len()).map_err(Error::io("write", &output))?;
    // A tensor is one serial stream: those that take longest first, and nobody waits for the one before.
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| std::cmp::Reverse(tensor.len));
    let mut next = order.into_iter();
    parallel::ordered(
        pool,
        usize::MAX,
        || Ok(next.next()),
        |tensor: &TensorInfo| {
            let end = tensor.offset + tensor.len;
            let mut at = tensor.offset;
            while at < end {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                let bytes = image.read_at(at, (end - at).min(STEP) as usize)?;
                if bytes.is_empty() {
                    return Err(container.strange("the image ends early"));
                }
                write(&bytes, at)?;
                at += bytes.len() as u64;
                progress.advance(bytes.len() as u64, 0);
            }
            Ok(())
        },
        |()| Ok(()),
    )?;
    if !container.source.unchanged()? {
        return Err(Error::Changed { path: container.presented.container().path().into() });
    }
    file.publish().map(drop)
}
