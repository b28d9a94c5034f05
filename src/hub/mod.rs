//! Models on the Hugging Face Hub: a repository and a revision become files here, and a directory becomes a commit there.
//!
//! [`Client`] speaks the Hub's HTTP interface, [`pull`](fn@pull) fills the cache that `huggingface_hub` and others share, [`push`](fn@push)
//! sends a directory, [`tree`] shows a repository that is not downloaded. All of it blocks the calling thread; nothing of it may be called from an asynchronous task.
//!
//! What holds everywhere: the token goes to the endpoint's own scheme, host and port and nowhere else; addresses appear in messages
//! without their query, which may be a signature; a file gets its name only when its length and its hash are those of the listing.

mod client;
mod download;
mod hash;
mod http;
mod item;
mod layout;
mod lazy;
mod part;
mod pieces;
mod pull;
mod push;
mod repo;
mod retry;
mod settings;
mod upload;

pub use client::{Client, RepoFile, Resolved};
pub use item::Sent;
pub use lazy::{Listed, Pinned, Repository, tree};
pub use pull::{Pull, Pulled, PulledFile, State, pull};
pub use push::{Push, Pushed, PushedFile, push};
pub use repo::{HubUri, Repo};
pub use retry::Retry;
pub use settings::{Settings, Token, cache_dir};

/// Told how far a pull or a push has come. Called from several threads.
pub trait Progress: Sync {
    /// So many bytes are to be transferred in all.
    fn expect(&self, bytes: u64);
    /// So many bytes more are transferred, or turned out to be there.
    fn advance(&self, bytes: u64);
    /// So many bytes counted before must be transferred again.
    fn retreat(&self, bytes: u64);
    /// What is being worked on.
    fn name(&self, path: &str);
}

/// A progress that nobody watches.
impl Progress for () {
    fn expect(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn retreat(&self, _bytes: u64) {}
    fn name(&self, _path: &str) {}
}
