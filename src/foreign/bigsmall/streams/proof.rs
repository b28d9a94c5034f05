//! Proving a shown file by what its container knows of it: the header, and the MD5 of each tensor.

use std::sync::Arc;

use md5::{Digest, Md5};

use super::presented::Presented;
use crate::cache::Proof;

/// Compares a file's bytes, which come in order.
pub struct TensorByTensor {
    presented: Arc<Presented>,
    /// The header was right as far as it came.
    header: bool,
    /// The tensor that the next byte belongs to, how many of its bytes have come, and their digest.
    tensor: usize,
    got: u64,
    md5: Md5,
    right: bool,
}

impl TensorByTensor {
    pub fn new(presented: Arc<Presented>) -> Self {
        Self { presented, header: true, tensor: 0, got: 0, md5: Md5::new(), right: true }
    }

    /// Compares the tensors that end where the bytes do so far.
    fn settle(&mut self) {
        while let Some((raw_len, md5)) =
            self.presented.expected(self.tensor).filter(|(raw_len, _)| *raw_len == self.got)
        {
            self.right &= raw_len == 0 || <[u8; 16]>::from(self.md5.finalize_reset()) == md5;
            self.tensor += 1;
            self.got = 0;
        }
    }
}

impl Proof for TensorByTensor {
    fn feed(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let header = self.presented.header();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(header.len());
        let (head, mut rest) = bytes.split_at((header.len() - start).min(bytes.len()));
        self.header &= header.get(start..start + head.len()) == Some(head);
        self.settle();
        while !rest.is_empty() {
            let Some((raw_len, _)) = self.presented.expected(self.tensor) else {
                self.right = false;
                break;
            };
            let (part, behind) = rest.split_at((raw_len - self.got).min(rest.len() as u64) as usize);
            self.md5.update(part);
            self.got += part.len() as u64;
            rest = behind;
            self.settle();
        }
        self.header && self.right
    }

    fn proven(&mut self) -> bool {
        self.settle();
        self.header && self.right && self.presented.expected(self.tensor).is_none()
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::foreign::bigsmall::codec::Coding;
    use crate::foreign::bigsmall::format::{Container, Finished, header};
    use crate::source::MemorySource;
    use crate::tensor::ElemType;
    use std::path::Path;

    #[test]
    fn a_file_is_proven_by_its_header_and_every_tensor() {
        let tensors: Vec<Vec<u8>> = vec![vec![1; 800], vec![], vec![2; 1600]];
        let shapes = [[100], [0], [200]];
        let names = ["a", "b", "c"];
        let list: Vec<Finished<'_>> = (0..3)
            .map(|i| Finished {
                name: names[i],
                elem: ElemType::F64,
                shape: &shapes[i],
                coding: Coding::Raw,
                packed_len: tensors[i].len() as u64,
                md5: Md5::digest(&tensors[i]).into(),
            })
            .collect();
        let mut file = header(Path::new("f.bs"), None, &list).unwrap();
        tensors.iter().for_each(|tensor| file.extend_from_slice(tensor));
        let container = Arc::new(Container::open(&MemorySource::new("f.bs", file)).unwrap());
        let presented = Arc::new(Presented::new(&container, []).unwrap());
        let whole: Vec<u8> = [presented.header(), &tensors.concat()].concat();
        let proven = |bytes: &[u8], step: usize| {
            let mut proof = TensorByTensor::new(Arc::clone(&presented));
            for (i, part) in bytes.chunks(step).enumerate() {
                proof.feed((i * step) as u64, part);
            }
            proof.proven()
        };
        for step in [1, 7, 64, 801, 100_000] {
            assert!(proven(&whole, step), "{step}");
            for at in [0, 20, presented.header().len(), whole.len() - 1] {
                let mut wrong = whole.clone();
                wrong[at] ^= 1;
                assert!(!proven(&wrong, step), "{at}");
            }
            assert!(!proven(&whole[..whole.len() - 1], step));
            assert!(!proven(&[&whole[..], b"x"].concat(), step));
        }
    }
}
