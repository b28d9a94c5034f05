//! The codecs of this release, and their numbers on disk.

/// How a chunk is packed. The number on disk ([`Codec::id`]) is never used for another bitstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Codec {
    /// The bytes themselves.
    Raw,
    /// A unit of 1, 2, 4 or 8 bytes, repeated.
    Constant,
    /// One zstd frame.
    Zstd,
    /// Byte planes of the numbers, each raw, constant or entropy coded.
    Planes,
    /// Floats, exponent and top bits of the mantissa entropy coded with a table for each class of
    /// tiles.
    Classes,
    /// Floats, the exponents coded with one small table.
    Exponents,
    /// Floats, the top bits entropy coded with a table for each pair of row group and column group.
    Grid,
    /// The bytes of the base.
    Base,
    /// Short numbers as differences from those of the base, entropy coded by the base's exponents.
    Delta,
    /// Differences from the base, packed by one of the other codecs.
    Difference,
}

impl Codec {
    /// Every codec of this release.
    pub const ALL: [Self; 10] = [
        Self::Raw,
        Self::Constant,
        Self::Zstd,
        Self::Planes,
        Self::Classes,
        Self::Exponents,
        Self::Grid,
        Self::Base,
        Self::Delta,
        Self::Difference,
    ];

    /// The codec's number on disk.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Raw => 0,
            Self::Constant => 1,
            Self::Zstd => 2,
            Self::Planes => 3,
            Self::Classes => 4,
            Self::Exponents => 5,
            Self::Grid => 6,
            Self::Base => 7,
            Self::Delta => 8,
            Self::Difference => 9,
        }
    }

    /// The codec with this number; `None` when this release has none.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.id() == id)
    }

    /// The name that `info` shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Constant => "constant",
            Self::Zstd => "zstd",
            Self::Planes => "planes",
            Self::Classes => "classes",
            Self::Exponents => "exponents",
            Self::Grid => "grid",
            Self::Base => "base",
            Self::Delta => "delta",
            Self::Difference => "difference",
        }
    }

    /// Whether decoding needs the base's bytes.
    #[must_use]
    pub const fn needs_base(self) -> bool {
        matches!(self, Self::Base | Self::Delta | Self::Difference)
    }
}
