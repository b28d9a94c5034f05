//! Promises that need no privilege and no FUSE.

#[path = "../common/mod.rs"]
mod common;

mod bigsmall_cli;
mod bigsmall_engine;
mod cache;
mod circles;
mod cli;
mod delta_engine;
mod engine;
mod escapes;
mod golden;
mod hub_pull;
mod hub_push;
mod hub_server;
mod layers;
mod mirror;
mod oracle;
mod outputs;
mod remote;
mod roundtrip;
mod told;
mod vfs;
