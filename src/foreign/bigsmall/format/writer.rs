//! The header of a container that the package can read, for export.
//!
//! It comes before the data and tells its sizes, so the tensors are packed first: [`header`] makes the file's first bytes
//! of what is known of them then, and the caller appends the packed bytes in the same order.

use std::io::Write;
use std::path::Path;

use super::container::Metadata;
use super::json::put_ascii;
use super::{MAGIC, MAX_HEADER, PREFIX_LEN, dtype, parse};
use crate::error::{Error, Result};
use crate::foreign::bigsmall::codec::Coding;
use crate::tensor::ElemType;

/// Version of the containers written: the one that all releases read.
const VERSION: u16 = 1;

/// A packed tensor.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    /// Name.
    pub name: &'a str,
    /// Type of its numbers.
    pub elem: ElemType,
    /// Dimensions as safetensors counts them, outermost first.
    pub shape: &'a [u64],
    /// How it is packed.
    pub coding: Coding,
    /// Length packed, bytes.
    pub packed_len: u64,
    /// MD5 of the raw bytes.
    pub md5: [u8; 16],
}

/// The bytes of a container up to its data, for messages about `path`.
///
/// # Errors
/// [`Error::Invalid`] for a coding that is not written here, because the package wants to be told more of it, and for
/// tensors that [`Container::open`](super::Container::open) would refuse; [`Error::TooLarge`] when the header is longer than [`MAX_HEADER`].
pub fn header(path: &Path, metadata: Option<&Metadata>, tensors: &[Finished<'_>]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    put(
        &mut out,
        format_args!(
            r#"{{"format":"{}","mode":"balanced","model_type":"llm","base_model":null,"tensor_count":{},"tensors":["#,
            format(tensors),
            tensors.len()
        ),
    );
    let mut offset = 0_u64;
    for (i, tensor) in tensors.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        entry(&mut out, tensor, offset)?;
        offset = offset.saturating_add(tensor.packed_len);
    }
    out.extend_from_slice(b"],\"safetensors_metadata\":");
    match metadata {
        None => out.extend_from_slice(b"null"),
        Some(metadata) => {
            out.push(b'{');
            for (i, (key, value)) in metadata.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                put_ascii(&mut out, key);
                out.push(b':');
                put_ascii(&mut out, value);
            }
            out.push(b'}');
        }
    }
    out.push(b'}');
    let json = out.get(PREFIX_LEN..).unwrap_or_default();
    let len = json.len() as u64;
    if len > MAX_HEADER {
        return Err(Error::TooLarge {
            path: path.into(),
            what: "the length of the header",
            limit: MAX_HEADER,
            got: len,
        });
    }
    // What is written is what would be read: no rule is stated twice.
    let data_start = out.len() as u64;
    parse::container(path, json, data_start, data_start.saturating_add(offset))
        .map_err(|e| Error::Invalid { message: format!("a container of bigsmall cannot hold this: {e}") })?;
    for (to, from) in out.iter_mut().skip(6).zip((len as u32).to_le_bytes()) {
        *to = from;
    }
    Ok(out)
}

fn entry(out: &mut Vec<u8>, tensor: &Finished<'_>, offset: u64) -> Result<()> {
    let Finished { name, elem, shape, coding, packed_len, md5 } = *tensor;
    let known = elem.name().filter(|_| elem != ElemType::BYTES);
    let (Some(code), Some(raw_len)) = (known, dtype::raw_len(elem, shape)) else {
        let message = format!("tensor '{name}': a container of bigsmall cannot hold its type and shape");
        return Err(Error::Invalid { message });
    };
    let sized = match coding {
        Coding::Raw | Coding::Zstd => true,
        Coding::Bf16SeAc | Coding::Bf16SeRans | Coding::Fp16SeAc | Coding::Fp32SeAc | Coding::Fp8CatAc => false,
        Coding::Lowcard
        | Coding::WpeDelta
        | Coding::Bf16SeTans
        | Coding::Bf16SingleKernel
        | Coding::Bf16Parallel
        | Coding::Bf16Sparsity
        | Coding::Fp2Residual
        | Coding::Bf16NativeF32
        | Coding::Bf16NativeF32V2
        | Coding::Bf16V8
        | Coding::Fp4CatAc => {
            let message = format!("tensor '{name}': codec {} is not written by bsfs", coding.name());
            return Err(Error::Invalid { message });
        }
    };
    let (torch, counted) = dtype::write(elem, code, shape);
    out.extend_from_slice(b"{\"name\":");
    put_ascii(out, name);
    out.extend_from_slice(b",\"shape\":[");
    for (i, dim) in counted.iter().enumerate() {
        put(out, format_args!("{}{dim}", if i > 0 { "," } else { "" }));
    }
    put(
        out,
        format_args!(
            r#"],"dtype":"{torch}","codec":"{}","special":null,"compressed_bytes":{packed_len},"offset":{offset},"md5":"{:032x}","extra":"#,
            coding.name(),
            u128::from_be_bytes(md5)
        ),
    );
    if sized {
        put(out, format_args!("{{\"n_bytes\":{raw_len}}}}}"));
    } else {
        out.extend_from_slice(b"null}");
    }
    Ok(())
}

/// What the package calls the float type that most tensors have; its own default when none is a float.
fn format(tensors: &[Finished<'_>]) -> &'static str {
    let names = [("bf16", "BF16"), ("fp32", "F32"), ("fp16", "F16"), ("fp8", "F8_E"), ("fp4", "F4")];
    let count =
        |code: &str| tensors.iter().filter(|t| t.elem.name().is_some_and(|name| name.starts_with(code))).count();
    // The first of equals, and of none.
    names.into_iter().rev().max_by_key(|(_, code)| count(code)).map_or("bf16", |(name, _)| name)
}

/// Appends formatted text.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Memory takes all bytes.
    let _ = out.write_fmt(text);
}
