//! Sizes of memory that is kept.

/// Bytes of memory that the elements of a vector take.
pub fn vec_bytes<T>(vec: &Vec<T>) -> usize {
    vec.capacity() * size_of::<T>()
}
