// Rows of a table copied to where they stand side by side, in the precision of sums, and back.
#pragma once

#include "lanes.h"

namespace graphformer {
namespace {

// Numbers of a row, with zeros behind it to whole vectors.
template <class A> inline int64_t padded(int64_t size) {
    constexpr int L = WIDTH<A>;
    return (size + L - 1) / L * L;
}

// A row of `size` numbers, zeros behind them, times a factor.
template <class T, class A> inline void copy_row(const T *from, int64_t size, A factor, A *to) {
    constexpr int L = WIDTH<A>;
    int64_t at = 0;
    for (; at + L <= size; at += L) store<A, L>(to + at, factor * load<A, L>(from + at));
    if (at < size) store<A, L>(to + at, factor * load_part<A, L>(from + at, int(size - at)));
}

template <class T, class A>
inline void copy_rows(const T *from, int64_t stride, int64_t rows, int64_t size, A factor, A *to) {
    int64_t width = padded<A>(size);
    for (int64_t row = 0; row < rows; ++row)
        copy_row(from + row * stride, size, factor, to + row * width);
}

template <class T, class A>
inline void write_row(const A *from, int64_t size, A factor, T *to) {
    constexpr int L = WIDTH<A>;
    int64_t at = 0;
    for (; at + L <= size; at += L) store<A, L>(to + at, factor * load<A, L>(from + at));
    if (at < size) store_part<T, A, L>(to + at, factor * load<A, L>(from + at), int(size - at));
}

template <class T, class A>
inline void write_rows(const A *from, int64_t rows, int64_t size, A factor, T *to, int64_t stride) {
    int64_t width = padded<A>(size);
    for (int64_t row = 0; row < rows; ++row)
        write_row(from + row * width, size, factor, to + row * stride);
}

// Four rows of four as columns.
template <class T, class A>
inline void turn_four(const T *from, int64_t stride, A *to, int64_t width) {
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
    vec<A, 4> a = load<A, 4>(from), b = load<A, 4>(from + stride);
    vec<A, 4> c = load<A, 4>(from + 2 * stride), d = load<A, 4>(from + 3 * stride);
    vec<A, 4> ab = SHUFFLE(a, b, 0, 4, 1, 5), cd = SHUFFLE(c, d, 0, 4, 1, 5);
    store<A, 4>(to, SHUFFLE(ab, cd, 0, 1, 4, 5));
    store<A, 4>(to + width, SHUFFLE(ab, cd, 2, 3, 6, 7));
    ab = SHUFFLE(a, b, 2, 6, 3, 7), cd = SHUFFLE(c, d, 2, 6, 3, 7);
    store<A, 4>(to + 2 * width, SHUFFLE(ab, cd, 0, 1, 4, 5));
    store<A, 4>(to + 3 * width, SHUFFLE(ab, cd, 2, 3, 6, 7));
#undef SHUFFLE
#else
    for (int row = 0; row < 4; ++row)
        for (int column = 0; column < 4; ++column)
            to[column * width + row] = to_precise(from[row * stride + column]);
#endif
}

// Columns as rows, each `width` long, zeros behind.
template <class T, class A>
inline void turn_rows(const T *from, int64_t stride, int64_t rows, int64_t size, int64_t width, A *to) {
    for (int64_t column = 0; column < size; ++column)
        for (int64_t row = rows; row < width; ++row) to[column * width + row] = 0;
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) {
        const T *x = from + row * stride;
        int64_t column = 0;
        for (; column + 4 <= size; column += 4)
            turn_four(x + column, stride, to + column * width + row, width);
        for (; column < size; ++column)
            for (int r = 0; r < 4; ++r)
                to[column * width + row + r] = to_precise(x[r * stride + column]);
    }
    for (; row < rows; ++row)
        for (int64_t column = 0; column < size; ++column)
            to[column * width + row] = to_precise(from[row * stride + column]);
}

}  // namespace
}  // namespace graphformer
