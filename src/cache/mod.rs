//! The disk cache: decoded bytes that outlive a mount, shared by all processes of a user.
//!
//! A [`Store`] is a directory. For each file that is presented it holds an [`Entry`]: a sparse plain file of the decoded
//! bytes (`<key>.data`), filled chunk by chunk in any order, and a map (`<key>.map`) that says which chunks are there and what
//! their checksums are. The [`Key`] is the identity of the content, made by the caller; paths and times never are part of it.
//!
//! What holds:
//!
//! - **A chunk is right or a miss.** A record of the map is written after the bytes it speaks of, carries their XXH3, and is
//!   itself checked against key and chunk number. Bytes are compared with it each time they are read. Nothing is trusted
//!   because of its name: files have to be regular, ours, private, with one link; symbolic links are never followed.
//! - **A cache may fail, a read may not.** All that goes wrong after [`Store::open`] is a miss, counted, and logged once.
//! - **Readers never wait for it.** [`Entry::offer`] puts bytes into a bounded queue or drops them; one thread of low priority
//!   writes. Nothing is synchronised to the disk but a seal.
//! - **A descriptor of the plain file** ([`Entry::sealed`]) is given only after the caller's digest of the whole file was
//!   proven on these very bytes ([`Entry::seal`]), as long as the file's identity has not changed since, and only until the
//!   machine ends uncleanly while a store is open.
//! - **Files that are in use stay.** Each entry holds a shared lock on its map; who wants to remove it needs an exclusive one.
//!
//! Files under `<dir>/v1`, which is 0700: `<key>.data` (0600, sealed 0400), `<key>.map` (0600), `epoch` and
//! `running-<boot>-<pid>-<n>` (see `epoch.rs`). Names are made and removed only by who holds the lock of the directory.

mod audit;
mod bits;
mod context;
mod counters;
mod dir;
mod entry;
mod epoch;
mod fill;
mod key;
mod limits;
mod listing;
mod map;
mod opening;
mod populate;
mod quota;
mod seal;
mod store;
mod table;
mod writer;

pub use audit::{Damaged, Verdict};
pub use counters::Counters;
pub use entry::Entry;
pub use key::Key;
pub use listing::{Listed, Usage};
pub use quota::Removed;
pub use seal::{Proof, Sealing};
pub use store::{Config, Store, default_dir};
pub use table::{Description, Literal, MAX_PARTS};
