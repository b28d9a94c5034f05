//! Chooses which rows and columns of symbols share a table, by the smallest estimated size.

use super::cluster::class_bits;
use super::entropy::entropy;
use super::groups;
use super::simd::{AvailableKernel, BLOCK, FEATURES, Histogram, SYMBOLS};

/// Numbers in a row where there are no rows.
pub const RUN: usize = 512;
/// Bits that a table is taken to cost for each of its symbols that occur, and besides.
const BITS_PER_SYMBOL: u64 = 6;
const BITS_PER_TABLE: u64 = 32;

/// How often each symbol occurs in a row.
pub type Row = [u16; SYMBOLS];

/// Widths of rows that are counted one by one: shorter ones would take longer to add up than to
/// count again, and counts of longer ones need more than sixteen bits.
const COUNTED: std::ops::Range<usize> = 256..1 << 16;

/// Rows and columns in groups.
#[derive(Debug, Clone, Default)]
pub struct Grouping {
    /// The group of each row, and of each column.
    pub rows: Vec<u8>,
    pub columns: Vec<u8>,
    /// Groups of rows, and of columns.
    pub shape: (usize, usize),
}

/// How often each symbol occurs in each pair of groups.
pub type PairCounts = Vec<[u32; SYMBOLS]>;

impl Grouping {
    /// Counts the symbols of every `step`-th row; `counted` are those of each, if they are
    /// known.
    pub fn count(&self, symbols: &[u8], counted: &[Row], step: usize) -> PairCounts {
        let width = self.columns.len();
        match self.shape.1 {
            1 if counted.is_empty() => return self.count_rows(symbols, width, step),
            1 => return self.add_rows(counted, step),
            _ => {}
        }
        let mut counts = vec![[0; SYMBOLS]; self.shape.0 * self.shape.1];
        for (row, &group) in symbols.chunks(width).zip(&self.rows).step_by(step) {
            let from = usize::from(group) * self.shape.1;
            let Some(tables) = counts.get_mut(from..from + self.shape.1) else { continue };
            for (&symbol, &column) in row.iter().zip(&self.columns) {
                if let Some(c) = tables.get_mut(usize::from(column)).and_then(|t| t.get_mut(usize::from(symbol))) {
                    *c += 1;
                }
            }
        }
        counts
    }

    /// The same without groups of columns.
    fn count_rows(&self, symbols: &[u8], width: usize, step: usize) -> PairCounts {
        // Two tables a group: runs of one symbol would otherwise wait for their own stores.
        let mut halves = vec![[[0_u32; SYMBOLS]; 2]; self.shape.0];
        for (row, &group) in symbols.chunks(width).zip(&self.rows).step_by(step) {
            let Some([even, odd]) = halves.get_mut(usize::from(group)) else { continue };
            let (pairs, rest) = row.as_chunks::<2>();
            for &[a, b] in pairs {
                if let (Some(a), Some(b)) = (even.get_mut(usize::from(a)), odd.get_mut(usize::from(b))) {
                    *a += 1;
                    *b += 1;
                }
            }
            for &symbol in rest {
                if let Some(c) = even.get_mut(usize::from(symbol)) {
                    *c += 1;
                }
            }
        }
        let sum = |[mut even, odd]: [[u32; SYMBOLS]; 2]| {
            even.iter_mut().zip(odd).for_each(|(a, b)| *a += b);
            even
        };
        halves.into_iter().map(sum).collect()
    }

    /// The same from the counts of each row.
    fn add_rows(&self, counted: &[Row], step: usize) -> PairCounts {
        let mut counts = vec![[0_u32; SYMBOLS]; self.shape.0];
        for (row, &group) in counted.iter().zip(&self.rows).step_by(step) {
            if let Some(sums) = counts.get_mut(usize::from(group)) {
                sums.iter_mut().zip(row).for_each(|(sum, &n)| *sum += u32::from(n));
            }
        }
        counts
    }

    /// Bits of the numbers of the groups.
    pub fn id_bits(&self) -> u64 {
        let (rows, columns) = self.shape;
        self.rows.len() as u64 * u64::from(class_bits(rows))
            + self.columns.len() as u64 * u64::from(class_bits(columns))
    }
}

/// Expected bits of symbols so counted, tables included; what was counted is a `step`-th of all.
pub fn cost(counts: &PairCounts, step: usize) -> u64 {
    counts
        .iter()
        .map(|table| {
            let distinct = table.iter().filter(|&&c| c > 0).count() as u64;
            (entropy(table) >> 16) * step as u64 + BITS_PER_TABLE + BITS_PER_SYMBOL * distinct
        })
        .sum()
}

/// Whether columns carry at least 1/16 bit of information on a number's feature. Below that, groups
/// of columns cost time and thin out the tables for no gain.
fn columns_matter(columns: &[Histogram]) -> bool {
    let mut all = [0_u32; FEATURES];
    let (mut apart, mut features) = (0, 0_u64);
    for column in columns {
        let column = column.map(u32::from);
        all.iter_mut().zip(column).for_each(|(sum, n)| *sum += n);
        apart += entropy(&column);
        features += column.iter().filter(|&&n| n > 0).count().saturating_sub(1) as u64;
    }
    let numbers: u64 = all.iter().map(|&n| u64::from(n)).sum();
    // Few numbers look less even than they are: by half a nat for each feature beyond the first
    // (Miller and Madow).
    apart += features * (ONE_BIT * 72 / 100);
    entropy(&all) > apart + numbers * ONE_BIT / 16
}

/// One bit in the units of [`entropy`].
const ONE_BIT: u64 = 1 << 16;

/// How often each symbol occurs in a row, as far as sixteen bits go.
fn count_row(symbols: &[u8], sums: &mut Row) {
    // Four tables: runs of one symbol would otherwise wait for their own stores.
    let mut counts = [[0_u16; SYMBOLS]; 3];
    *sums = [0; SYMBOLS];
    let (fours, rest) = symbols.as_chunks::<4>();
    let [b, c, d] = &mut counts;
    let add = |counts: &mut Row, symbol: u8| {
        if let Some(n) = counts.get_mut(usize::from(symbol)) {
            *n = n.saturating_add(1);
        }
    };
    for four in fours {
        add(sums, four[0]);
        add(b, four[1]);
        add(c, four[2]);
        add(d, four[3]);
    }
    rest.iter().for_each(|&symbol| add(sums, symbol));
    for (((sum, b), c), d) in sums.iter_mut().zip(b).zip(c).zip(d) {
        *sum = sum.saturating_add(*b).saturating_add(*c).saturating_add(*d);
    }
}

/// How often each feature occurs, as far as sixteen bits go.
fn features(row: &Row) -> Histogram {
    let mut features = [0; FEATURES];
    for (sum, four) in features.iter_mut().zip(row.as_chunks::<4>().0) {
        *sum = four.iter().fold(0_u16, |sum, &n| sum.saturating_add(n));
    }
    features
}

/// The grouping of the smallest estimate among `shapes` (groups of rows and of columns), made from
/// a sample of rows of `row` numbers, or of runs when that is 0 or no multiple of 64. `counted`
/// gets the counts of each row where that helps.
pub fn choose(
    kernel: AvailableKernel,
    symbols: &[u8],
    row: usize,
    shapes: &[(usize, usize)],
    counted: &mut Vec<Row>,
) -> Grouping {
    let rows_known = row > 0 && row.is_multiple_of(BLOCK) && row / BLOCK <= usize::from(u16::MAX);
    let width = if rows_known { row } else { RUN };
    let count = symbols.len().div_ceil(width);
    let step = (count / 128).clamp(1, 8);
    let mut rows: Vec<Histogram> = vec![[0; FEATURES]; count];
    let mut columns: Vec<Histogram> = vec![[0; FEATURES]; if rows_known { width } else { 0 }];
    counted.clear();
    let keep = COUNTED.contains(&width);
    for (i, (row, histogram)) in symbols.chunks(width).zip(&mut rows).enumerate() {
        let mut counts = [0; SYMBOLS];
        count_row(row, &mut counts);
        *histogram = features(&counts);
        if keep {
            counted.push(counts);
        }
        if i % step == 0 {
            for (&symbol, column) in row.iter().zip(&mut columns) {
                if let Some(n) = column.get_mut(usize::from(symbol >> 2)) {
                    *n = n.saturating_add(1);
                }
            }
        }
    }
    let use_columns = columns_matter(&columns);
    let mut best: Option<(u64, Grouping)> = None;
    let mut kept: Vec<(bool, usize, Vec<u8>)> = Vec::new();
    let mut group = |of_rows: bool, groups: usize| -> Vec<u8> {
        if let Some((_, _, ids)) = kept.iter().find(|(rows, n, _)| (*rows, *n) == (of_rows, groups)) {
            return ids.clone();
        }
        let ids = match of_rows {
            true => groups::assign(kernel, &rows, groups),
            false if columns.is_empty() => vec![0; width],
            false => groups::assign(kernel, &columns, groups),
        };
        kept.push((of_rows, groups, ids.clone()));
        ids
    };
    for &(of_rows, of_columns) in shapes {
        if of_columns > 1 && !use_columns || of_rows > count {
            continue;
        }
        let shape = (of_rows, of_columns);
        let grouping = Grouping { rows: group(true, of_rows), columns: group(false, of_columns), shape };
        let bits = cost(&grouping.count(symbols, counted, step), step) + grouping.id_bits();
        if best.as_ref().is_none_or(|(least, _)| bits < *least) {
            best = Some((bits, grouping));
        }
    }
    let one = || Grouping { rows: vec![0; count], columns: vec![0; width], shape: (1, 1) };
    best.map_or_else(one, |(_, grouping)| grouping)
}
