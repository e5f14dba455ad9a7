//! A checked door to the `gemm` crate, for the blocks inside an operation where a tensor per product would cost more
//! than the product.

use gemm::Parallelism;

/// A matrix that lies in a slice: element `(i, j)` is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` values, `row_stride` apart.
    pub(crate) fn rows(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same values with rows and columns exchanged; nothing moves.
    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn assert_within(&self) {
        let last = span(self.rows, self.row_stride) + span(self.columns, self.column_stride);
        assert!(last < self.data.len(), "matrix reaches element {last} of {}", self.data.len());
    }
}

/// `out (+)= left · right`, on the calling thread. Rows of `out` are `out_row_stride` apart.
///
/// # Panics
/// When shapes disagree or a matrix reaches past its slice.
pub(crate) fn multiply(out: &mut [f32], out_row_stride: usize, accumulate: bool, left: Matrix<'_>, right: Matrix<'_>) {
    let (m, k, n) = (left.rows, left.columns, right.columns);
    assert_eq!(k, right.rows, "inner dimensions of a product differ");
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    left.assert_within();
    right.assert_within();
    assert!(n <= out_row_stride || m == 1, "rows of a product would overlap");
    assert!(span(m, out_row_stride) + n <= out.len(), "a product does not fit its output");
    let kept = if accumulate { 1.0 } else { 0.0 };
    // SAFETY: the asserts above keep every element that m, n, k and the strides can reach inside the three slices;
    // `out` is borrowed exclusively, so it overlaps neither operand; all strides are non-negative and a slice is never
    // longer than isize::MAX bytes, so no stride wraps.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_row_stride as isize,
            accumulate,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            kept,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// How far the last of `count` elements lies from the first.
fn span(count: usize, stride: usize) -> usize {
    count.saturating_sub(1).saturating_mul(stride)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_the_definition(m in 1_usize..9, k in 1_usize..9, n in 1_usize..9, transposed: bool, accumulate: bool) {
            let value = |seed: usize| ((seed * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
            let left: Vec<f32> = (0..m * k).map(value).collect();
            let right: Vec<f32> = (0..k * n).map(|i| value(i + 77)).collect();
            let right = if transposed { Matrix::rows(&right, n, k, k).transposed() } else { Matrix::rows(&right, k, n, n) };
            let mut out = vec![0.5; m * n];
            multiply(&mut out, n, accumulate, Matrix::rows(&left, m, k, k), right);
            for i in 0..m {
                for j in 0..n {
                    let product: f32 = (0..k)
                        .map(|x| left[i * k + x] * right.data[x * right.row_stride + j * right.column_stride])
                        .sum();
                    let expected = product + if accumulate { 0.5 } else { 0.0 };
                    prop_assert!((out[i * n + j] - expected).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "reaches element")]
    fn refuses_to_read_past_a_slice() {
        multiply(&mut [0.0; 4], 2, false, Matrix::rows(&[1.0; 3], 2, 2, 2), Matrix::rows(&[1.0; 4], 2, 2, 2));
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn refuses_to_write_past_a_slice() {
        multiply(&mut [0.0; 3], 2, false, Matrix::rows(&[1.0; 4], 2, 2, 2), Matrix::rows(&[1.0; 4], 2, 2, 2));
    }
}
