//! Why a part of the index cannot be read.

/// Why an index is refused, without the file's name.
pub(super) struct Broken(pub(super) String);

impl From<String> for Broken {
    fn from(detail: String) -> Self {
        Self(detail)
    }
}

/// The bytes of a section ran out.
pub(super) fn short() -> Broken {
    Broken("it ends too early".into())
}
