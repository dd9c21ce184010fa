// Products of matrices that are small enough for the caches.
#pragma once

#include "lanes.h"

namespace graphformer {
namespace {

// A matrix by its places: entry (i, k) stands at data[i * row + k * column].
template <class A> struct Strided {
    const A *data;
    int64_t row, column;
    Strided from(int64_t i) const { return {data + i * row, row, column}; }
};

// R rows and C vectors of L columns: out (+)= left right.
template <class A, int L, int R, int C>
inline void multiply_tile(Strided<A> left, const A *right, int64_t stride, int64_t depth, A *out,
                          int64_t out_stride, bool adds) {
    vec<A, L> sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c)
            sum[r][c] = adds ? load<A, L>(out + r * out_stride + c * L) : vec<A, L>{};
    for (int64_t k = 0; k < depth; ++k) {
        vec<A, L> b[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) b[c] = load<A, L>(right + k * stride + c * L);
        const A *a = left.data + k * left.column;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) sum[r][c] += a[r * left.row] * b[c];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) store<A, L>(out + r * out_stride + c * L, sum[r][c]);
}

// As many rows at a time as registers hold, then half as many, and so on.
template <class A, int L, int R, int C>
inline void multiply_rows(Strided<A> left, const A *right, int64_t stride, int64_t rows,
                          int64_t depth, A *out, int64_t out_stride, bool adds) {
    int64_t row = 0;
    for (; row + R <= rows; row += R)
        multiply_tile<A, L, R, C>(left.from(row), right, stride, depth, out + row * out_stride,
                                  out_stride, adds);
    if constexpr (R > 1)
        if (row < rows)
            multiply_rows<A, L, R / 2, C>(left.from(row), right, stride, rows - row, depth,
                                          out + row * out_stride, out_stride, adds);
}

// out (+)= left right, with `columns` a multiple of the lanes.
template <class A, int L = WIDTH<A>>
inline void multiply(Strided<A> left, const A *right, int64_t stride, int64_t rows, int64_t depth,
                     int64_t columns, A *out, int64_t out_stride, bool adds) {
    constexpr int R = VECTOR_BYTES == 64 ? 8 : 4;
    int64_t column = 0;
    for (; column + 2 * L <= columns; column += 2 * L)
        multiply_rows<A, L, R, 2>(left, right + column, stride, rows, depth, out + column,
                                  out_stride, adds);
    if (column < columns)
        multiply_rows<A, L, R, 1>(left, right + column, stride, rows, depth, out + column, out_stride,
                                  adds);
}

}  // namespace
}  // namespace graphformer
