//! A unit of 1, 2, 4 or 8 bytes, repeated to the end of the chunk; the last repetition may be cut.

use crate::error::Damage;

/// The shortest unit that `raw` repeats, if there is one of 1, 2, 4 or 8 bytes. `None` for no
/// bytes.
pub fn unit(raw: &[u8]) -> Option<&[u8]> {
    [1, 2, 4, 8].into_iter().find_map(|len| {
        // A sequence has period `len` exactly when it equals itself shifted by `len`.
        let unit = raw.get(..len)?;
        (raw.get(len..)? == raw.get(..raw.len() - len)?).then_some(unit)
    })
}

/// Fills `out` with the unit in `packed`.
pub fn decode(packed: &[u8], out: &mut [u8]) -> Result<(), Damage> {
    if !matches!(packed.len(), 1 | 2 | 4 | 8) {
        return Err(Damage::new("length of a constant's unit (1, 2, 4 or 8)", 8, packed.len() as u64));
    }
    // The smallest unit is 1 byte and the largest 8, so 8 bytes hold whole units whatever they are.
    let mut eight = [0; 8];
    for (byte, unit) in eight.iter_mut().zip(packed.iter().cycle()) {
        *byte = *unit;
    }
    let (whole, rest) = out.as_chunks_mut::<8>();
    whole.fill(eight);
    for (byte, unit) in rest.iter_mut().zip(eight) {
        *byte = unit;
    }
    Ok(())
}
