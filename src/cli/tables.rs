//! Tables of tensors and dtypes, for containers of either format.

use bsfs::compress::DtypeReport;
use bsfs::escape::Escaped;
use serde::Serialize;

use super::out::{row, shorten};
use super::size::show_size;

/// A tensor of a container.
#[derive(Debug, Clone, Serialize)]
pub struct TensorRow {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    pub raw_bytes: u64,
    /// Its share of the chunks that it lies in.
    pub packed_bytes: u64,
    pub ratio: f64,
    pub codecs: Vec<String>,
    /// The most tables among which the numbers of a chunk choose; null if no codec of the tensor has such a choice.
    pub classes: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    #[serde(skip)]
    pub raw_offset: u64,
}

/// Sizes and ratio per dtype.
pub fn dtype_table(text: &mut String, dtypes: &[DtypeReport]) {
    if !dtypes.is_empty() {
        *text += &row("dtype", 12, &["raw".into(), "packed".into(), "ratio".into()]);
    }
    for d in dtypes {
        let cells = [show_size(d.raw_bytes), show_size(d.packed_bytes), format!("{:.4}", d.ratio)];
        *text += &row(&d.dtype, 12, &cells);
    }
}

/// All tensors, or those at both ends of the ranking.
pub fn tensor_tables(text: &mut String, tensors: &[TensorRow], list: bool) {
    if list {
        return tensor_table(text, &format!("{} tensors", tensors.len()), tensors);
    }
    let ranked = ranked(tensors.iter());
    if ranked.len() <= 2 * ENDS {
        return tensor_table(text, "tensors, best first", ranked);
    }
    let worst = ranked.len() - ENDS;
    tensor_table(text, "best five tensors", ranked.iter().copied().take(ENDS));
    tensor_table(text, "worst five tensors", ranked.into_iter().skip(worst));
}

/// Tensors shown at each end of the ranking.
const ENDS: usize = 5;

/// Tensors that have bytes, the best ratio first.
fn ranked<T: std::borrow::Borrow<TensorRow>>(rows: impl Iterator<Item = T>) -> Vec<T> {
    let mut ranked: Vec<T> = rows.filter(|t| t.borrow().raw_bytes > 0).collect();
    ranked.sort_by(|a, b| a.borrow().ratio.total_cmp(&b.borrow().ratio));
    ranked
}

/// The rows that will be seen: all, or both ends of the ranking.
pub fn shown(rows: &mut [TensorRow], all: bool) -> Box<dyn Iterator<Item = &mut TensorRow> + '_> {
    if all {
        return Box::new(rows.iter_mut());
    }
    let ranked = ranked(rows.iter_mut());
    let last = ranked.len().saturating_sub(ENDS);
    Box::new(ranked.into_iter().enumerate().filter(move |(i, _)| *i < ENDS || *i >= last).map(|(_, row)| row))
}

fn tensor_table<'a>(text: &mut String, title: &str, tensors: impl IntoIterator<Item = &'a TensorRow>) {
    let tensors: Vec<&TensorRow> = tensors.into_iter().collect();
    if tensors.is_empty() {
        return;
    }
    let width =
        tensors.iter().map(|t| Escaped(&t.name).to_string().chars().count()).max().unwrap_or(0).clamp(title.len(), 50);
    let titles = ["dtype".into(), "raw".into(), "ratio".into(), "classes".into(), "codecs".into()];
    *text += &row(title, width, &titles);
    for t in tensors {
        let codecs = t.codecs.join("+");
        let classes = t.classes.map_or_else(|| "-".to_owned(), |n| n.to_string());
        *text += &row(
            &shorten(&t.name, width),
            width,
            &[t.dtype.clone(), show_size(t.raw_bytes), format!("{:.4}", t.ratio), classes, codecs],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shorten("model.layers.0.weight", 10), "….0.weight");
    }
}
