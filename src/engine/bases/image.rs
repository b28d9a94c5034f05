//! Makes images of containers that refer to others.

use std::sync::Arc;

use log::warn;

use super::finder::Finder;
use super::lazy::LazyReferences;
use super::references::References;
use super::search::{Unresolved, resolve};
use crate::engine::{Engine, ForeignFile, Image};
use crate::format::Container;
use crate::source::{Identity, ReadAt, Tree};

/// Bytes of a file without digests that a mount compares before it binds the file, shortest tensors
/// first.
const CHECKED_BYTES: u64 = 8 << 20;

impl Finder {
    /// A container of ours, read from `source`, a file of `tree`, as the original's bytes. The first
    /// read that needs a base starts the search, so that opening is quick. A read that needs a missing
    /// base is an error.
    #[must_use]
    pub fn image(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        container: Arc<Container>,
        (tree, source): (&Arc<dyn Tree>, Arc<dyn ReadAt>),
    ) -> Image {
        let version = source.identity().filter(|_| container.bases().needs_others());
        let references = version.map(|version| {
            let (finder, container, tree) = (Arc::clone(self), Arc::clone(&container), Arc::clone(tree));
            let engine = Arc::clone(engine);
            LazyReferences::new(move || {
                let limits = (&[][..], &Unresolved::default(), CHECKED_BYTES);
                let references = resolve(&finder, &engine, &container, (&tree, version), limits)?;
                let missing = references.complete(&container).err();
                engine.troubles().base(container.path(), missing.map(|error| error.to_string()));
                Some(references)
            })
        });
        engine.image_of(container, source, references)
    }

    /// A container of another packer, read from `source`, a file of `tree`, as the file that it is shown
    /// as. Its base is looked for now; reading what needs a missing base is an error.
    #[must_use]
    pub fn foreign_image(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        file: Arc<dyn ForeignFile>,
        (tree, source): (&Arc<dyn Tree>, Arc<dyn ReadAt>),
    ) -> Image {
        let version = source.identity().filter(|_| file.needs().is_some());
        let base = version.and_then(|version| {
            let found = self.foreign_base(engine, &*file, (tree, version));
            let missing = match found {
                Ok(Some((_, true))) => None,
                _ => Some("its base was not found; name the file, or a directory that holds it, with --base"),
            };
            let missing = missing.map(|text| format!("{}: {text}", file.path().display()));
            engine.troubles().base(file.path(), missing);
            match found {
                Ok(base) => Some(base?.0),
                Err(error) => {
                    warn!("{error}; not taken as the base of {}", file.path().display());
                    None
                }
            }
        });
        engine.foreign(file, source, base)
    }

    /// What `container`, read from this version of a file of this machine, refers to; `None` when it
    /// needs no other file.
    #[must_use]
    pub fn references(
        &self,
        engine: &Arc<Engine>,
        container: &Container,
        version: Identity,
    ) -> Option<Arc<References>> {
        // The caller reads all of it, so every digest is checked now.
        resolve(self, engine, container, (&self.local, version), (&[], &Unresolved::default(), u64::MAX))
    }
}
