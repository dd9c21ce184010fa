// Scores of the edges of one query: products, terms, biases, edge data and the pointwise function.
//
// They stand as [edge][padded head], where heads are padded to a power of two or whole vectors:
// numbers of the heads then repeat with a `period` that vectors fit into.
#pragma once

#include "attention.h"
#include "hash.h"
#include "functions.h"
#include "pairs.h"
#include "rows.h"
#include "units.h"

namespace graphformer {
namespace {

// Edges of a row whose scores are in the caches together.
constexpr int64_t CHUNK = 128;

// A number of heads that may be known while compiling.
template <int N> struct Heads {
    static constexpr int known = N;
    int64_t given;
    operator int64_t() const { return N ? N : given; }
};

template <class F> inline void for_heads(int64_t heads, int64_t padded, F f) {
    if (heads == padded) switch (heads) {
            case 1: return f(Heads<1>{});
            case 2: return f(Heads<2>{});
            case 4: return f(Heads<4>{});
            case 8: return f(Heads<8>{});
            case 16: return f(Heads<16>{});
        }
    f(Heads<0>{heads});
}

template <class A, class T> inline void widen(const T *from, A *to, int64_t size) {
    constexpr int L = WIDTH<A>;
    int64_t whole = size - size % L;
    for (int64_t i = 0; i < whole; i += L) store<A, L>(to + i, load<A, L>(from + i));
    for (int64_t i = whole; i < size; ++i) to[i] = to_precise(from[i]);
}

template <class A, class T> inline void narrow(const A *from, T *to, int64_t size) {
    constexpr int L = WIDTH<A>;
    int64_t whole = size - size % L;
    for (int64_t i = 0; i < whole; i += L) store<A, L>(to + i, load<A, L>(from + i));
    if (whole < size) {
        vec<A, L> rest = load_part<A, L>(from + whole, int(size - whole));
        store_part<T, A, L>(to + whole, rest, int(size - whole));
    }
}

// The same for the numbers of all heads, of which `count` may be known to the compiler.
template <class A, class T, class Count> inline void widen_heads(const T *from, A *to, Count count) {
    constexpr int N = Count::known;
    if constexpr (N > 0 && N <= WIDTH<A>) store<A, N>(to, load<A, N>(from));
    else widen<A>(from, to, count);
}
template <class A, class T, class Count> inline void narrow_heads(const A *from, T *to, Count count) {
    constexpr int N = Count::known;
    if constexpr (N > 0 && N <= WIDTH<A>) store<A, N>(to, load<A, N>(from));
    else narrow(from, to, count);
}

template <class A> inline void scale(A *data, A factor, int64_t size) {
    for (int64_t i = 0; i < size; ++i) data[i] *= factor;
}

template <class A> inline void fill(A *data, A value, int64_t size) {
    for (int64_t i = 0; i < size; ++i) data[i] = value;
}

// The attention with its sizes and the functions of its types.
template <class T> struct Problem {
    using A = precise<T>;
    const gf_attention &a;
    int64_t heads, padded, period, dim, value_dim;
    RowFunctions<T> products, sums;

    explicit Problem(const gf_attention &a)
        : a(a), heads(a.heads), padded(1), dim(a.dim), value_dim(a.value_dim),
          products(row_functions<T>(a.dim)), sums(row_functions<T>(a.value_dim)) {
        constexpr int64_t width = WIDTH<A>;
        while (padded < heads && padded < width) padded *= 2;
        if (padded < heads) padded = (heads + width - 1) / width * width;
        period = padded > width ? padded : width;
    }

    bool has_products() const { return a.query && a.key && a.pair == GF_PRODUCT; }

    // The keys and values of edges from one on.
    Gathered<T> keys(int64_t edge) const { return rows(a.key, dim, a.key_stride, edge); }
    Gathered<T> values(int64_t edge) const { return rows(a.value, value_dim, a.value_stride, edge); }
    Gathered<T> rows(const void *data, int64_t size, int64_t stride, int64_t edge) const {
        return {static_cast<const T *>(data), heads * size, stride, a.index + edge,
                a.num_edges - edge};
    }

    // [head] once more for every edge of a period, `missing` where there is no head.
    template <class B> void repeat(const B *row, A *to, A missing = 0) const {
        for (int64_t i = 0; i < period; i += padded)
            for (int64_t h = 0; h < padded; ++h) to[i + h] = h < heads ? A(row[h]) : missing;
    }
    // [head, dim] as [dim][padded head].
    void transpose(const A *row, A *to, int64_t dim) const {
        for (int64_t d = 0; d < dim; ++d)
            for (int64_t h = 0; h < padded; ++h) to[d * padded + h] = h < heads ? row[h * dim + d] : 0;
    }
    void transpose_back(const A *from, A *row, int64_t dim) const {
        for (int64_t d = 0; d < dim; ++d)
            for (int64_t h = 0; h < heads; ++h) row[h * dim + d] = from[d * padded + h];
    }

    // z[edge][head] += row[head] of the edge, or its one number.
    template <class Row> void add_rows(A *z, int64_t num, Row row) const {
        for_heads(heads, padded, [&](auto count) {
            for (int64_t n = 0; n < num; ++n) {
                const A *more = row(n);
                for (int64_t h = 0; h < count; ++h) z[n * padded + h] += more[h];
            }
        });
    }
    // z[edge][head] += <fixed[:, head], data[edge]>.
    void add_products(A *z, int64_t place, int64_t num, const A *fixed, const A *data,
                      int64_t dim) const {
        for_heads(heads, padded, [&](auto count) {
            constexpr int N = decltype(count)::known;
            for (int64_t n = 0; n < num; ++n) {
                const A *x = data + (place + n) * dim;
                A *to = z + n * padded;
                if constexpr (N >= 4 && N <= WIDTH<A>) {
                    vec<A, N> sum = load<A, N>(to);
                    for (int64_t d = 0; d < dim; ++d) sum += x[d] * load<A, N>(fixed + d * N);
                    store<A, N>(to, sum);
                } else {
                    for (int64_t d = 0; d < dim; ++d)
                        for (int64_t h = 0; h < count; ++h) to[h] += x[d] * fixed[d * padded + h];
                }
            }
        });
    }
    // sum[:, head] += w[edge][head] data[edge].
    void sum_products(const A *w, int64_t place, int64_t num, A *sum, const A *data,
                      int64_t dim) const {
        for_heads(heads, padded, [&](auto count) {
            constexpr int N = decltype(count)::known;
            for (int64_t n = 0; n < num; ++n) {
                const A *x = data + (place + n) * dim;
                const A *weight = w + n * padded;
                if constexpr (N >= 4 && N <= WIDTH<A>) {
                    vec<A, N> more = load<A, N>(weight);
                    for (int64_t d = 0; d < dim; ++d)
                        store<A, N>(sum + d * N, load<A, N>(sum + d * N) + x[d] * more);
                } else {
                    for (int64_t d = 0; d < dim; ++d)
                        for (int64_t h = 0; h < count; ++h) sum[d * padded + h] += x[d] * weight[h];
                }
            }
        });
    }
    // sum[head] += w[edge][head].
    void sum_heads(const A *w, int64_t num, A *sum) const {
        for_heads(heads, padded, [&](auto count) {
            for (int64_t n = 0; n < num; ++n)
                for (int64_t h = 0; h < count; ++h) sum[h] += w[n * padded + h];
        });
    }

    // f(vector of scores, place in the period) for the scores of `num` edges, in place.
    template <class F> void each(A *z, int64_t num, F f) const {
        constexpr int L = WIDTH<A>;
        int64_t size = num * padded;
        for (int64_t base = 0; base < size; base += period)
            for (int64_t at = 0; at < period; at += L)
                store<A, L>(z + base + at, f(load<A, L>(z + base + at), base, at));
    }
    // Room for the scores of a chunk, and of the edges that fill up the last period.
    int64_t chunk_size() const { return CHUNK * padded + period; }

    vec<A, WIDTH<A>> shaped(vec<A, WIDTH<A>> z) const {
        A constant = A(a.constant);
        if (a.pointwise == GF_LEAKY_RELU) return z > A(0) ? z : z * constant;
        if (a.pointwise == GF_SOFT_CAP) return tanh<A, WIDTH<A>>(z / constant) * constant;
        return z;
    }
    vec<A, WIDTH<A>> slope(vec<A, WIDTH<A>> z) const {
        A constant = A(a.constant);
        if (a.pointwise == GF_LEAKY_RELU) return z > A(0) ? all<A, WIDTH<A>>(1) : all<A, WIDTH<A>>(constant);
        if (a.pointwise == GF_SOFT_CAP) {
            vec<A, WIDTH<A>> t = tanh<A, WIDTH<A>>(z / constant);
            return A(1) - t * t;
        }
        return all<A, WIDTH<A>>(1);
    }

    // ---- dropout: whether a weight is kept is a hash of the seed, its edge and its head ----

    // w *= 0 with the probability of being dropped, 1 / (1 - dropout) otherwise.
    void drop(A *w, int64_t place, int64_t num) const {
        uint32_t threshold = uint32_t(a.dropout * 4294967296.0);
        uint32_t low = uint32_t(a.seed), high = uint32_t(a.seed >> 32);
        A scale = A(1 / (1 - a.dropout));
        for_heads(heads, padded, [&](auto count) {
            for (int64_t n = 0; n < num; ++n) {
                uint32_t base = mix(uint32_t(place + n) ^ low) + high;
                A *to = w + n * padded;
                for (int64_t h = 0; h < count; ++h) {
                    uint32_t drawn = mix(mix(base + uint32_t(h) * 0x9e3779b9u) ^ high);
                    to[h] *= drawn >= threshold ? scale : A(0);
                }
            }
        });
    }
};

// Scores of one query at a time.
template <class T> class Scores {
  public:
    using A = precise<T>;

    Scores(const Problem<T> &p, Arena<A> &arena)
        : p_(p), query_(arena.take(p.a.query ? p.heads * p.dim : 0)), term_(arena.take(p.period)),
          edge_query_(arena.take(p.a.edge_query ? p.padded * p.a.edge_dim : 0)),
          pairs_(arena.take(Pairs<T>::scratch_size(p.a))) {}

    // The query times the scale, in the precision of sums.
    const A *query() const { return query_; }
    const A *edge_query() const { return edge_query_; }
    // The pairs of edges from a place on.
    Pairs<T> pairs(int64_t place) const { return {p_.a, p_.padded, nullptr, place, pairs_}; }

    void begin(int64_t row) {
        const gf_attention &a = p_.a;
        int64_t size = p_.heads * p_.dim;
        if (a.query) 
            widen<A>(static_cast<const T *>(a.query) + row * a.query_stride, query_, size);
        if (a.query && a.scale != 1) scale(query_, A(a.scale), size);
        if (a.query_term) p_.repeat(static_cast<const A *>(a.query_term) + row * p_.heads, term_);
        if (a.edge_query) {
            const A *edge_query = static_cast<const A *>(a.edge_query);
            p_.transpose(edge_query + row * p_.heads * a.edge_dim, edge_query_, a.edge_dim);
        }
    }

    // Scores before the pointwise function, of `num` edges from a place on.
    void compute(int64_t place, int64_t num, A *z) const {
        const gf_attention &a = p_.a;
        bool products = a.query && a.key;
        if (!products || p_.heads != p_.padded) memset(z, 0, num * p_.padded * sizeof(A));
        if (p_.has_products()) {
            p_.products.dots(query_, p_.keys(place), num, p_.heads, p_.padded, p_.dim, z);
        } else if (products) {
            pairs(place).scores(query_, p_.keys(place), num, z);
        }
        if (a.query_term)
            p_.each(z, num, [&](auto x, int64_t, int64_t at) {
                return x + load<A, WIDTH<A>>(term_ + at);
            });
        if (a.key_term) {
            const A *terms = static_cast<const A *>(a.key_term);
            const int32_t *index = a.index + place;
            int64_t known = a.num_edges - place;
            p_.add_rows(z, num, [&](int64_t n) {
                __builtin_prefetch(terms + index[n + 8 < known ? n + 8 : n] * p_.heads);
                return terms + index[n] * p_.heads;
            });
        }
        if (a.edge_query)
            p_.add_products(z, place, num, edge_query_, static_cast<const A *>(a.edge_data),
                            a.edge_dim);
        if (a.bias) add_bias(place, num, z);
    }

  private:
    void add_bias(int64_t place, int64_t num, A *z) const {
        const A *bias = static_cast<const A *>(p_.a.bias);
        if (p_.a.bias_heads == p_.heads) {
            p_.add_rows(z, num, [&](int64_t n) { return bias + (place + n) * p_.heads; });
            return;
        }
        for (int64_t n = 0; n < num; ++n)
            for (int64_t h = 0; h < p_.heads; ++h) z[n * p_.padded + h] += bias[place + n];
    }

    const Problem<T> &p_;
    A *query_, *term_, *edge_query_, *pairs_;
};

}  // namespace
}  // namespace graphformer
