//! A first look at what is shown, so that what is wrong is known before a reader meets it.

use super::fs::Vfs;
use super::ids::Inode;
use super::packed::Packed;
use super::tree::{Body, Contents};
use crate::error::Result;

impl Vfs {
    /// Lists the root, and looks for the bases of the containers in it until `stop` says so. What is wrong is among the engine's
    /// [troubles](crate::engine::Engine::troubles) then, and in the log.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the source cannot be listed.
    pub fn look(&self, stop: &dyn Fn() -> bool) -> Result<()> {
        let (node, directory) = self.directory("list", Inode::ROOT)?;
        let listing = self.current(&node, &directory, None)?;
        for entry in (0..).map_while(|position| listing.entry(position)) {
            if stop() {
                break;
            }
            let Body::File(file) = &entry.node.body else { continue };
            let Contents::Original(opened) = &file.contents else { continue };
            let refers = match &opened.packed {
                Packed::Native(container) => container.bases().needs_others(),
                Packed::Foreign { shown, .. } => shown.needs().is_some(),
            };
            // A file that cannot be opened says so to its readers.
            if let Some(handle) = refers.then(|| self.open(entry.node.inode).ok()).flatten() {
                if let Some(image) = self.file(handle).ok().as_ref().and_then(|reading| reading.file.image()) {
                    image.look_for_references();
                }
                self.release(handle);
            }
        }
        Ok(())
    }
}
