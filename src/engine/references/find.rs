//! Makes images of containers that refer to others.

use std::sync::Arc;

use super::finder::Finder;
use super::search::{Lacking, resolve};
use super::{Later, References};
use crate::engine::{Engine, Image};
use crate::format::Container;
use crate::source::{Identity, ReadAt, Tree};

/// Bytes of a file without digests that are compared before it is taken for a mount, the shortest tensors first.
const LOOK: u64 = 8 << 20;

impl Finder {
    /// A container of ours, read from `source`, a file of `tree`, as the original's bytes. Its bases are looked for when something
    /// is read that needs one, so that opening it never takes long; reading what needs one that is not found is an error.
    #[must_use]
    pub fn image(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        container: Arc<Container>,
        (tree, source): (&Arc<dyn Tree>, Arc<dyn ReadAt>),
    ) -> Image {
        let version = source.identity().filter(|_| container.bases().needs_others());
        let later = version.map(|version| {
            let (finder, container, tree) = (Arc::clone(self), Arc::clone(&container), Arc::clone(tree));
            let engine = Arc::clone(engine);
            Later::new(move || {
                let looked = (&[][..], &Lacking::default(), LOOK);
                let references = resolve(&finder, &engine, &container, (&tree, version), looked)?;
                let lacking = references.complete(&container).err();
                engine.troubles().base(container.path(), lacking.map(|error| error.to_string()));
                Some(references)
            })
        });
        engine.image_of(container, source, later)
    }

    /// What `container`, read from this version of a file of this machine, refers to; `None` when it needs no other file.
    #[must_use]
    pub fn references(
        &self,
        engine: &Arc<Engine>,
        container: &Container,
        version: Identity,
    ) -> Option<Arc<References>> {
        // Who asks reads all of it: a digest that is not right shows now.
        resolve(self, engine, container, (&self.local, version), (&[], &Lacking::default(), u64::MAX))
    }
}
