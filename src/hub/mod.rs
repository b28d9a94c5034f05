//! The Hugging Face Hub: a repository and a revision as files.

pub mod lazy;
pub mod lazy_client;
