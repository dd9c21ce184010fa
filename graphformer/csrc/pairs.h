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

// Edges from a place on, each with the sum of a fixed row, its gathered row and its own numbers.
template <class T> class Pairs {
  public:
    using A = precise<T>;
    static constexpr int L = WIDTH<A>;

    // `order` numbers the edges; they are first, first + 1, ... where it is null.
    Pairs(const gf_attention &a, int64_t padded, const int32_t *order, int64_t first)
        : a_(a), heads_(a.heads), padded_(padded), dim_(a.dim), order_(order), first_(first),
          weight_(static_cast<const A *>(a.pair_weight)),
          data_(static_cast<const A *>(a.pair_data)), constant_(A(a.constant)) {}

    void scores(const A *fixed, const Gathered<T> &rows, int64_t num, A *z) const {
        if (a_.pair == GF_PAIR_TANH) return scores_of<TanhPair>(fixed, rows, num, z);
        scores_of<LeakyPair>(fixed, rows, num, z);
    }

    // sum += dz weight f'(u), for each edge by itself in `grad_data`; weight_sum += dz f(u).
    void slopes(const A *fixed, const Gathered<T> &rows, int64_t num, const A *dz, A *sum,
                A *weight_sum, A *grad_data) const {
        if (a_.pair == GF_PAIR_TANH)
            return slopes_of<TanhPair>(fixed, rows, num, dz, sum, weight_sum, grad_data);
        slopes_of<LeakyPair>(fixed, rows, num, dz, sum, weight_sum, grad_data);
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
    vec<A, L> joined(const A *fixed, const T *row, const A *data, int64_t at, int64_t left) const {
        vec<A, L> u = part(fixed + at, left) + part(row + at, left);
        return data ? u + part(data + at, left) : u;
    }

    template <class F>
    void scores_of(const A *fixed, const Gathered<T> &rows, int64_t num, A *z) const {
        int ahead = rows.ahead();
        for (int64_t n = 0; n < num; ++n) {
            const T *row = rows.row(n);
            prefetch(rows.later(n, ahead), int(rows.stride * sizeof(T)));
            const A *data = data_ ? data_ + edge(n) * heads_ * dim_ : nullptr;
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
    void slopes_of(const A *fixed, const Gathered<T> &rows, int64_t num, const A *dz, A *sum,
                   A *weight_sum, A *grad_data) const {
        int ahead = rows.ahead();
        for (int64_t n = 0; n < num; ++n) {
            const T *row = rows.row(n);
            prefetch(rows.later(n, ahead), int(rows.stride * sizeof(T)));
            const A *data = data_ ? data_ + edge(n) * heads_ * dim_ : nullptr;
            A *to = grad_data ? grad_data + edge(n) * heads_ * dim_ : nullptr;
            for (int64_t head = 0; head < heads_; ++head) {
                A d_score = dz[n * padded_ + head];
                for (int64_t d = 0; d < dim_; d += L) {
                    int64_t at = head * dim_ + d, left = dim_ - d;
                    vec<A, L> u = joined(fixed, row, data, at, left);
                    vec<A, L> slope = F::template slope<A, L>(u, constant_);
                    vec<A, L> g = d_score * part(weight_ + at, left) * slope;
                    put(sum + at, part(sum + at, left) + g, left);
                    if (to) put(to + at, g, left);
                    if (!weight_sum) continue;
                    vec<A, L> more = d_score * F::template value<A, L>(u, constant_);
                    put(weight_sum + at, part(weight_sum + at, left) + more, left);
                }
            }
        }
    }

    const gf_attention &a_;
    int64_t heads_, padded_, dim_;
    const int32_t *order_;
    int64_t first_;
    const A *weight_, *data_;
    A constant_;
};

}  // namespace
}  // namespace graphformer
