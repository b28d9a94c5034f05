//! Promises that need no privilege and no FUSE.

#[path = "../common/mod.rs"]
mod common;

mod bigsmall_cli;
mod bigsmall_engine;
mod cache;
mod cli;
mod delta_engine;
mod engine;
mod escapes;
mod golden;
mod hub_pull;
mod hub_push;
mod hub_server;
mod mirror;
mod oracle;
mod outputs;
mod remote;
mod rooms;
mod roundtrip;
mod told;
mod vfs;
