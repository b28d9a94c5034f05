//! Loads and stores of whole vectors, for the kernels of x86-64.

/// Defines functions that load a vector from an array of exactly its size, and store one there.
macro_rules! loads {
    ($features:literal, $vector:ty, $loads:ident, $stores:ident; $($load:ident, $store:ident: $array:ty;)*) => {
        $(
            #[inline]
            #[target_feature(enable = $features)]
            fn $load(from: &$array) -> $vector {
                const { assert!(size_of::<$array>() == size_of::<$vector>()) };
                // SAFETY: a vector's bytes are readable, which the assertion says, and need no
                // alignment; the processor has the instruction (`target_feature`).
                unsafe { $loads(from.as_ptr().cast()) }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn $store(to: &mut $array, v: $vector) {
                // SAFETY: as above, and writable.
                unsafe { $stores(to.as_mut_ptr().cast(), v) }
            }
        )*
    };
}
pub(super) use loads;
