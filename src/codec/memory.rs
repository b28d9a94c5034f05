//! Memory accounting.

/// Bytes that the capacity of `vec` occupies.
pub fn vec_bytes<T>(vec: &Vec<T>) -> usize {
    vec.capacity() * size_of::<T>()
}
