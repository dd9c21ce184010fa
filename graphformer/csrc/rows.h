// What is done with gathered rows: products of all their heads with one row, and weighted sums.
#pragma once

#include "lanes.h"

namespace graphformer {
namespace {

// Rows that edges name: row `index[n]` for n = 0, 1, ... `known` entries of index may be read, so
// that rows are fetched before it is their turn.
template <class T> struct Gathered {
    const T *data;
    int64_t width, stride;  // numbers of a row, and from one row to the next
    const int32_t *index;
    int64_t known;

    const T *row(int64_t n) const { return data + index[n] * stride; }

    // How many rows are fetched before their turn: what memory needs, and the first cache holds.
    int ahead() const {
        int64_t bytes = width * int64_t(sizeof(T));
        return bytes <= 512 ? 8 : bytes <= 1024 ? 6 : 4;
    }
    const T *later(int64_t n, int ahead) const { return row(n + ahead < known ? n + ahead : n); }
};

// ---- sums over the lanes of four vectors at once ----

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
inline vec<float, 4> sum4(vec<float, 4> a, vec<float, 4> b, vec<float, 4> c, vec<float, 4> d) {
    vec<float, 4> ab = SHUFFLE(a, b, 0, 4, 1, 5) + SHUFFLE(a, b, 2, 6, 3, 7);
    vec<float, 4> cd = SHUFFLE(c, d, 0, 4, 1, 5) + SHUFFLE(c, d, 2, 6, 3, 7);
    return SHUFFLE(ab, cd, 0, 1, 4, 5) + SHUFFLE(ab, cd, 2, 3, 6, 7);
}
inline vec<float, 4> sum4(vec<float, 8> a, vec<float, 8> b, vec<float, 8> c, vec<float, 8> d) {
    vec<float, 8> ab = SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
                     + SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    vec<float, 8> cd = SHUFFLE(c, d, 0, 8, 1, 9, 4, 12, 5, 13)
                     + SHUFFLE(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    vec<float, 8> s = SHUFFLE(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13)
                    + SHUFFLE(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    return SHUFFLE(s, s, 0, 1, 2, 3) + SHUFFLE(s, s, 4, 5, 6, 7);
}
inline vec<float, 4> sum4(vec<float, 16> a, vec<float, 16> b, vec<float, 16> c, vec<float, 16> d) {
#define LOW 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define HIGH 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
    vec<float, 16> ab = SHUFFLE(a, b, LOW) + SHUFFLE(a, b, HIGH);
    vec<float, 16> cd = SHUFFLE(c, d, LOW) + SHUFFLE(c, d, HIGH);
    vec<float, 16> s =
        SHUFFLE(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
        + SHUFFLE(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
#undef LOW
#undef HIGH
    vec<float, 8> t =
        SHUFFLE(s, s, 0, 1, 2, 3, 4, 5, 6, 7) + SHUFFLE(s, s, 8, 9, 10, 11, 12, 13, 14, 15);
    return SHUFFLE(t, t, 0, 1, 2, 3) + SHUFFLE(t, t, 4, 5, 6, 7);
}
#undef SHUFFLE
#endif

// Whatever has no shuffles of its own sums one vector after another.
template <class V> inline auto sum4(V a, V b, V c, V d) {
    using A = __typeof__(a[0] + a[0]);
    constexpr int L = sizeof(V) / sizeof(A);
    return vec<A, 4>{sum_lanes<A, L>(a), sum_lanes<A, L>(b), sum_lanes<A, L>(c), sum_lanes<A, L>(d)};
}

// ---- products: z[n][h] = <fixed[h], row n [h]> ----

// N vectors a head are known while compiling; 0 stands for any dimension.
template <class T, class A, int L, int N>
inline void dots4(const A *fixed, const Gathered<T> &rows, int64_t num, int64_t head, int64_t heads,
                  A *z) {
    constexpr int V = 4 * N;
    vec<A, L> q[V];
#pragma GCC unroll 32
    for (int v = 0; v < V; ++v) q[v] = load<A, L>(fixed + v * L);
    int ahead = rows.ahead();
    for (int64_t n = 0; n < num; ++n) {
        const T *row = rows.row(n) + head * N * L;
        prefetch(rows.later(n, ahead) + head * N * L, V * L * sizeof(T));
        vec<A, L> m[4];
        for (int h = 0; h < 4; ++h) {
            m[h] = q[h * N] * load<A, L>(row + h * N * L);
            for (int v = 1; v < N; ++v) m[h] += q[h * N + v] * load<A, L>(row + (h * N + v) * L);
        }
        store<A, 4>(z + n * heads + head, sum4(m[0], m[1], m[2], m[3]));
    }
}

template <class T, class A, int L>
inline void dots1(const A *fixed, const Gathered<T> &rows, int64_t num, int64_t head, int64_t heads,
                  int64_t dim, A *z) {
    int64_t whole = dim - dim % L, rest = dim % L;
    int ahead = rows.ahead();
    for (int64_t n = 0; n < num; ++n) {
        const T *row = rows.row(n) + head * dim;
        prefetch(rows.later(n, ahead) + head * dim, int(dim * sizeof(T)));
        vec<A, L> m{};
        for (int64_t d = 0; d < whole; d += L) m += load<A, L>(fixed + d) * load<A, L>(row + d);
        if (rest) m += load_part<A, L>(fixed + whole, rest) * load_part<A, L>(row + whole, rest);
        z[n * heads + head] = sum_lanes<A, L>(m);
    }
}

template <class T, class A, int N>
void dots(const A *fixed, const Gathered<T> &rows, int64_t num, int64_t heads, int64_t padded,
          int64_t dim, A *z) {
    constexpr int L = N && N < WIDTH<A> ? N : WIDTH<A>;
    int64_t head = 0;
    if constexpr (N >= L && N / L <= 8 && N % L == 0)
        for (; head + 4 <= heads; head += 4)
            dots4<T, A, L, N / L>(fixed + head * N, rows, num, head, padded, z);
    for (; head < heads; ++head)
        dots1<T, A, L>(fixed + head * dim, rows, num, head, padded, dim, z);
}

// ---- weighted sums: sum[h] += w[n][h] * row n [h] ----

// V vectors in a row, N of them to a head, from a column on.
template <class T, class A, int L, int V, int N>
inline void add_tile(const A *w, int64_t heads, const Gathered<T> &rows, int64_t num,
                     int64_t column, A *sum) {
    vec<A, L> s[V];
#pragma GCC unroll 32
    for (int v = 0; v < V; ++v) s[v] = load<A, L>(sum + column + v * L);
    int ahead = rows.ahead();
    for (int64_t n = 0; n < num; ++n) {
        const T *row = rows.row(n) + column;
        prefetch(rows.later(n, ahead) + column, V * L * sizeof(T));
#pragma GCC unroll 32
        for (int v = 0; v < V; ++v) s[v] += w[n * heads + v / N] * load<A, L>(row + v * L);
    }
#pragma GCC unroll 32
    for (int v = 0; v < V; ++v) store<A, L>(sum + column + v * L, s[v]);
}

template <class T, class A, int L>
inline void add_part(const A *w, int64_t heads, const Gathered<T> &rows, int64_t num,
                     int64_t column, int count, A *sum) {
    vec<A, L> s = load_part<A, L>(sum + column, count);
    int ahead = rows.ahead();
    for (int64_t n = 0; n < num; ++n) {
        prefetch(rows.later(n, ahead) + column, 1);
        s += w[n * heads] * load_part<A, L>(rows.row(n) + column, count);
    }
    store_part<A, A, L>(sum + column, s, count);
}

// One head of any dimension.
template <class T, class A, int L>
inline void add_head(const A *w, int64_t heads, const Gathered<T> &rows, int64_t num,
                     int64_t column, int64_t dim, A *sum) {
    int64_t d = 0;
    for (; d + 8 * L <= dim; d += 8 * L) add_tile<T, A, L, 8, 8>(w, heads, rows, num, column + d, sum);
    for (; d + L <= dim; d += L) add_tile<T, A, L, 1, 1>(w, heads, rows, num, column + d, sum);
    if (d < dim) add_part<T, A, L>(w, heads, rows, num, column + d, int(dim - d), sum);
}

template <class T, class A, int N>
void add_rows(const A *w, const Gathered<T> &rows, int64_t num, int64_t heads, int64_t padded,
              int64_t dim, A *sum) {
    constexpr int L = N && N < WIDTH<A> ? N : WIDTH<A>;
    int64_t head = 0;
    if constexpr (N >= L && N / L <= 4 && N % L == 0) {
        constexpr int V = N / L, H = 8 / V;
        for (; head + H <= heads; head += H)
            add_tile<T, A, L, 8, V>(w + head, padded, rows, num, head * N, sum);
    }
    for (; head < heads; ++head)
        add_head<T, A, L>(w + head, padded, rows, num, head * dim, dim, sum);
}

// ---- the fastest of both for a dimension ----

template <class T, class A = precise<T>> struct RowFunctions {
    using Function = void (*)(const A *, const Gathered<T> &, int64_t, int64_t, int64_t, int64_t, A *);
    Function dots, add;
};

template <class T> RowFunctions<T> row_functions(int64_t dim) {
    using A = precise<T>;
    switch (dim) {
        case 8: return {dots<T, A, 8>, add_rows<T, A, 8>};
        case 16: return {dots<T, A, 16>, add_rows<T, A, 16>};
        case 32: return {dots<T, A, 32>, add_rows<T, A, 32>};
        case 64: return {dots<T, A, 64>, add_rows<T, A, 64>};
        case 128: return {dots<T, A, 128>, add_rows<T, A, 128>};
        default: return {dots<T, A, 0>, add_rows<T, A, 0>};
    }
}

}  // namespace
}  // namespace graphformer
