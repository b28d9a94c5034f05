//! Models on the Hugging Face Hub: repository and revision to local paths.
//!
//! The room is kept for that and is empty in this release; nothing else may import it.
