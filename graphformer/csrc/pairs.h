// Pairwise scores, sum over d of weight[d] f(query[d] + key[d] + edge[d]), and their slopes.
#pragma once

#include "attention.h"
#include "functions.h"
#include "rows.h"

namespace graphformer {
namespace {

struct LeakyPair {
    template <class A, int L> static vec<A, L> value(vec<A, L> u, A slope) {
        return u > A(0) ? u : u * slope;
    }
    template <class A, int L> static vec<A, L> slope(vec<A, L> u, A slope) {
        return u > A(0) ? all<A, L>(1) : all<A, L>(slope);
    }
};

struct TanhPair {
    template <class A, int L> static vec<A, L> value(vec<A, L> u, A) { return tanh<A, L>(u); }
    template <class A, int L> static vec<A, L> slope(vec<A, L> u, A) {
        vec<A, L> t = tanh<A, L>(u);
        return A(1) - t * t;
    }
};

// What slopes are added to, each null where it is not wanted but the first.
template <class A> struct PairSlopes {
    A *row;          // [head, dim]: of the fixed row
    A *weight, *map; // [head, dim], [pair_dim, head, dim]
    A *data;         // of each edge, written; as `pair_data`
};

// Edges from a place on, each with the sum of a fixed row, its gathered row and its own numbers.
template <class T> class Pairs {
  public:
    using A = precise<T>;
    static constexpr int L = WIDTH<A>;

    // Numbers that a worker lends: what an edge's data are mapped to, and the slopes of that.
    static int64_t scratch_size(const gf_attention &a) {
        return a.pair_map ? 2 * a.heads * a.dim : 0;
    }

    // `order` numbers the edges; they are first, first + 1, ... where it is null.
    Pairs(const gf_attention &a, int64_t padded, const int32_t *order, int64_t first, A *scratch)
        : a_(a), heads_(a.heads), padded_(padded), dim_(a.dim), size_(a.heads * a.dim),
          order_(order), first_(first), weight_(static_cast<const A *>(a.pair_weight)),
          map_(static_cast<const A *>(a.pair_map)), data_(static_cast<const A *>(a.pair_data)),
          mapped_(scratch), slopes_(scratch ? scratch + size_ : nullptr), constant_(A(a.constant)) {}

    void scores(const A *fixed, const Gathered<T> &rows, int64_t num, A *z) const {
        if (a_.pair == GF_PAIR_TANH) return scores_of<TanhPair>(fixed, rows, num, z);
        scores_of<LeakyPair>(fixed, rows, num, z);
    }

    // Of each edge dz weight f'(u) to the row, and by itself to its data and their map; dz f(u) to
    // the weight.
    void slopes(const A *fixed, const Gathered<T> &rows, int64_t num, const A *dz,
                const PairSlopes<A> &to) const {
        if (a_.pair == GF_PAIR_TANH) return slopes_of<TanhPair>(fixed, rows, num, dz, to);
        slopes_of<LeakyPair>(fixed, rows, num, dz, to);
    }

  private:
    int64_t edge(int64_t n) const { return order_ ? order_[n] : first_ + n; }

    vec<A, L> part(const A *data, int64_t count) const {
        return count >= L ? load<A, L>(data) : load_part<A, L>(data, int(count));
    }
    vec<A, L> part(const bfloat16 *data, int64_t count) const {
        return count >= L ? load<A, L>(data) : load_part<A, L>(data, int(count));
    }
    static void put(A *data, vec<A, L> x, int64_t count) {
        if (count >= L) store<A, L>(data, x);
        else store_part<A, A, L>(data, x, int(count));
    }

    // What joins the sum of an edge, [head, dim]; null where nothing does.
    const A *own(int64_t edge) const {
        if (!map_) return data_ ? data_ + edge * size_ : nullptr;
        const A *x = data_ + edge * a_.pair_dim;
        for (int64_t at = 0; at < size_; at += L) {
            vec<A, L> sum{};
            for (int64_t d = 0; d < a_.pair_dim; ++d)
                sum += x[d] * part(map_ + d * size_ + at, size_ - at);
            put(mapped_ + at, sum, size_ - at);
        }
        return mapped_;
    }

    // The slopes of what was mapped, to the data of the edge and to the map.
    void through_map(int64_t edge, const PairSlopes<A> &to) const {
        const A *x = data_ + edge * a_.pair_dim;
        for (int64_t d = 0; d < a_.pair_dim; ++d) {
            vec<A, L> product{};
            for (int64_t at = 0; at < size_; at += L) {
                vec<A, L> g = part(slopes_ + at, size_ - at);
                if (to.data) product += g * part(map_ + d * size_ + at, size_ - at);
                if (!to.map) continue;
                A *sum = to.map + d * size_ + at;
                put(sum, part(sum, size_ - at) + x[d] * g, size_ - at);
            }
            if (to.data) to.data[edge * a_.pair_dim + d] = sum_lanes<A, L>(product);
        }
    }

    vec<A, L> joined(const A *fixed, const T *row, const A *data, int64_t at, int64_t left) const {
        vec<A, L> u = part(fixed + at, left) + part(row + at, left);
        return data ? u + part(data + at, left) : u;
    }

    template <class F>
    void scores_of(const A *fixed, const Gathered<T> &rows, int64_t num, A *z) const {
        int ahead = rows.ahead();
        for (int64_t n = 0; n < num; ++n) {
            const T *row = rows.row(n);
            prefetch(rows.later(n, ahead), int(rows.width * sizeof(T)));
            const A *data = own(edge(n));
            auto products = [&](int64_t head) {
                vec<A, L> m{};
                for (int64_t d = 0; d < dim_; d += L) {
                    int64_t at = head * dim_ + d, left = dim_ - d;
                    vec<A, L> u = joined(fixed, row, data, at, left);
                    m += part(weight_ + at, left) * F::template value<A, L>(u, constant_);
                }
                return m;
            };
            int64_t head = 0;
            A *to = z + n * padded_;
            for (; head + 4 <= heads_; head += 4)
                store<A, 4>(to + head, sum4(products(head), products(head + 1), products(head + 2),
                                            products(head + 3)));
            for (; head < heads_; ++head) to[head] = sum_lanes<A, L>(products(head));
        }
    }

    template <class F>
    void slopes_of(const A *fixed, const Gathered<T> &rows, int64_t num, const A *dz,
                   const PairSlopes<A> &to) const {
        bool maps = map_ && (to.map || to.data);
        int ahead = rows.ahead();
        for (int64_t n = 0; n < num; ++n) {
            const T *row = rows.row(n);
            prefetch(rows.later(n, ahead), int(rows.width * sizeof(T)));
            const A *data = own(edge(n));
            A *own_slopes = maps ? slopes_ : to.data ? to.data + edge(n) * size_ : nullptr;
            for (int64_t head = 0; head < heads_; ++head) {
                A d_score = dz[n * padded_ + head];
                for (int64_t d = 0; d < dim_; d += L) {
                    int64_t at = head * dim_ + d, left = dim_ - d;
                    vec<A, L> u = joined(fixed, row, data, at, left);
                    vec<A, L> slope = F::template slope<A, L>(u, constant_);
                    vec<A, L> g = d_score * part(weight_ + at, left) * slope;
                    put(to.row + at, part(to.row + at, left) + g, left);
                    if (own_slopes) put(own_slopes + at, g, left);
                    if (!to.weight) continue;
                    vec<A, L> more = d_score * F::template value<A, L>(u, constant_);
                    put(to.weight + at, part(to.weight + at, left) + more, left);
                }
            }
            if (maps) through_map(edge(n), to);
        }
    }

    const gf_attention &a_;
    int64_t heads_, padded_, dim_, size_;
    const int32_t *order_;
    int64_t first_;
    const A *weight_, *map_, *data_;
    A *mapped_, *slopes_;
    A constant_;
};

}  // namespace
}  // namespace graphformer
