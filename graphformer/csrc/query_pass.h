// The pass of the backward over queries: their gradients, those of edges, and what keys will need.
#pragma once

#include "forward.h"

namespace graphformer {
namespace {

// What the backward knows beside the attention itself.
template <class T> struct Slopes {
    using A = precise<T>;
    const Problem<T> &p;
    // [edge][weight, gradient of the score][padded head], as far as wanted; rounded as the input is.
    T *kept;
    int64_t kept_size;  // numbers of an edge there
    int64_t first;      // the place of the first edge that is kept
    A *from_weights;  // [query, head]: sum of weight times its gradient from outside, or null
    A *weight_parts;  // [unit, head, dim] of the gradient of `pair_weight`, or null
    A *map_parts;     // [unit, pair_dim, head, dim] of that of `pair_map`, or null

    bool has_values() const { return p.a.value != nullptr; }
    // Whether anything that scores are made of wants its gradient.
    bool has_slopes() const {
        return p.a.grad_query || p.a.grad_key || p.a.grad_query_term || p.a.grad_key_term
            || p.a.grad_bias || p.a.grad_edge_query || p.a.grad_edge_data || p.a.grad_pair_weight
            || p.a.grad_pair_map || p.a.grad_pair_data;
    }
    T *kept_of(int64_t place) const { return kept + (place - first) * kept_size; }
};

// Gradients of what belongs to a query: the query, its term, its edge query; and to an edge.
template <class T> class QueryPass {
  public:
    using Number = precise<T>;
    using A = Number;
    static constexpr int L = WIDTH<A>;

    explicit QueryPass(const Slopes<T> &slopes) : s_(slopes), p_(slopes.p) {}
    int64_t query_size() const { return p_.a.grad_query ? p_.heads * p_.dim : 0; }
    int64_t edge_query_size() const { return p_.a.grad_edge_query ? p_.padded * p_.a.edge_dim : 0; }
    int64_t state_size() const { return p_.period + query_size() + edge_query_size(); }
    int64_t scratch_size() const {
        Arena<A> arena(nullptr);
        Worker worker(*this, arena);
        return arena.used();
    }

    class Worker {
      public:
        Worker(const QueryPass &pass, Arena<A> &arena)
            : pass_(pass), s_(pass.s_), p_(pass.p_), a_(pass.p_.a), scores_(pass.p_, arena),
              z_(arena.take(p_.chunk_size())), w_(arena.take(p_.chunk_size())),
              dw_(arena.take(p_.chunk_size())), kept_(arena.take(p_.chunk_size())),
              stat_(arena.take(p_.period)), delta_(arena.take(p_.period)),
              grad_out_(arena.take(p_.heads * p_.value_dim)),
              row_(arena.take(p_.heads * larger_of(p_.value_dim, p_.dim, a_.edge_dim, a_.sum_dim))),
              grad_sum_(arena.take(p_.padded * a_.sum_dim)) {}

        void open(int64_t unit) {
            int64_t size = p_.heads * p_.dim;
            weight_sum_ = sum_of(s_.weight_parts, unit, size);
            map_sum_ = sum_of(s_.map_parts, unit, a_.pair_dim * size);
        }

        void begin(int64_t row) {
            scores_.begin(row);
            if (a_.normalize == GF_SCORES) return;
            int64_t heads = p_.heads, dim = p_.value_dim, size = heads * dim;
            if (a_.normalize != GF_NONE)
                p_.repeat(static_cast<const A *>(a_.stat) + row * heads, stat_, A(1));
            widen<A>(static_cast<const T *>(a_.grad_out) + row * size, grad_out_, size);
            fill(delta_, A(0), p_.period);
            if (a_.grad_edge_sum) {
                const A *grad = static_cast<const A *>(a_.grad_edge_sum) + row * heads * a_.sum_dim;
                p_.transpose(grad, grad_sum_, a_.sum_dim);
            }
            if (a_.normalize == GF_NONE || !s_.has_slopes()) return;
            widen<A>(static_cast<const T *>(a_.out) + row * size, row_, size);
            // Of an output that was rounded the slopes of a query's edges would be off, all alike.
            if (a_.out_rest) {
                const T *rest = static_cast<const T *>(a_.out_rest) + row * size;
                for (int64_t i = 0; i < size; ++i) row_[i] += to_precise(rest[i]);
            }
            for (int64_t h = 0; h < heads; ++h)
                delta_[h] = inner(grad_out_ + h * dim, row_ + h * dim, dim);
            if (a_.grad_edge_sum) {
                int64_t count = a_.sum_dim, at = row * heads * count;
                const A *sum = static_cast<const A *>(a_.edge_sum) + at;
                const A *grad = static_cast<const A *>(a_.grad_edge_sum) + at;
                for (int64_t h = 0; h < heads; ++h)
                    delta_[h] += inner(sum + h * count, grad + h * count, count);
            }
            if (s_.from_weights)
                for (int64_t h = 0; h < heads; ++h) delta_[h] += s_.from_weights[row * heads + h];
            for (int64_t h = 0; h < p_.padded; ++h)
                // Weights that sum to zero were not divided.
                if (h >= heads || (a_.normalize == GF_SUM && stat_[h] == 0)) delta_[h] = 0;
            for (int64_t i = p_.padded; i < p_.period; ++i) delta_[i] = delta_[i - p_.padded];
        }

        void clear(A *state) const { fill(state, A(0), pass_.state_size()); }

        void edges(int64_t, int64_t from, int64_t to, A *state) {
            for (int64_t place = from; place < to; place += CHUNK)
                chunk(place, to - place < CHUNK ? to - place : CHUNK, state);
        }

        void join(A *state, const A *part) const {
            for (int64_t i = 0; i < pass_.state_size(); ++i) state[i] += part[i];
        }

        void finish(int64_t row, A *state) {
            int64_t heads = p_.heads;
            A *query = state + p_.period, *edge_query = query + pass_.query_size();
            if (a_.scale != 1) scale(query, A(a_.scale), pass_.query_size());
            if (a_.grad_query)
                narrow(query, static_cast<T *>(a_.grad_query) + row * a_.grad_query_stride,
                       heads * p_.dim);
            if (a_.grad_query_term)
                narrow(state, static_cast<A *>(a_.grad_query_term) + row * heads, heads);
            if (a_.grad_edge_query) {
                A *to = static_cast<A *>(a_.grad_edge_query) + row * heads * a_.edge_dim;
                p_.transpose_back(edge_query, to, a_.edge_dim);
            }
        }

      private:
        static int64_t larger_of(int64_t a, int64_t b, int64_t c, int64_t d) {
            int64_t most = a > b ? a : b;
            most = most > c ? most : c;
            return most > d ? most : d;
        }
        // The part of a unit, empty yet.
        static A *sum_of(A *parts, int64_t unit, int64_t size) {
            if (parts) fill(parts + unit * size, A(0), size);
            return parts ? parts + unit * size : nullptr;
        }
        static A inner(const A *x, const A *y, int64_t size) {
            vec<A, L> sum{};
            int64_t whole = size - size % L;
            for (int64_t i = 0; i < whole; i += L) sum += load<A, L>(x + i) * load<A, L>(y + i);
            int rest = int(size - whole);
            if (rest) sum += load_part<A, L>(x + whole, rest) * load_part<A, L>(y + whole, rest);
            return sum_lanes<A, L>(sum);
        }

        // Weights in w_, what multiplies dropped or kept ones in kept_, gradients of scores in z_.
        void chunk(int64_t place, int64_t num, A *state) {
            bool reads_scores = a_.normalize != GF_SCORES || a_.pointwise != GF_IDENTITY;
            if (reads_scores) scores_.compute(place, num, z_);
            if (a_.normalize == GF_SCORES) {
                outside_scores(place, num);
            } else if (s_.has_slopes()) {
                outside_weights(place, num);
                through_weights(num);
            } else {
                weigh(place, num);
            }
            if (s_.kept) keep(place, num);
            give_to_query(place, num, state);
            give_to_edges(place, num);
        }

        void outside_scores(int64_t place, int64_t num) {
            fill(dw_, A(0), num * p_.padded);
            if (a_.grad_weights) add_outside(place, num);
            if (a_.pointwise == GF_IDENTITY) {
                memcpy(z_, dw_, num * p_.padded * sizeof(A));
                return;
            }
            p_.each(z_, num, [&](auto z, int64_t base, int64_t at) {
                return p_.slope(z) * load<A, L>(dw_ + base + at);
            });
        }

        void add_outside(int64_t place, int64_t num) {
            const A *grad = static_cast<const A *>(a_.grad_weights);
            p_.add_rows(dw_, num, [&](int64_t n) { return grad + (place + n) * p_.heads; });
        }

        // dw = <grad out, value> + <grad edge sum, edge data> + what weights get from outside.
        void outside_weights(int64_t place, int64_t num) {
            if (p_.heads != p_.padded) fill(dw_, A(0), num * p_.padded);
            p_.sums.dots(grad_out_, p_.values(place), num, p_.heads, p_.padded, p_.value_dim, dw_);
            if (a_.grad_edge_sum)
                p_.add_products(dw_, place, num, grad_sum_, static_cast<const A *>(a_.sum_data),
                                a_.sum_dim);
            if (a_.grad_weights) add_outside(place, num);
            if (!a_.dropout) return;
            fill(kept_, A(1), num * p_.padded);
            p_.drop(kept_, place, num);
            p_.each(dw_, num, [&](auto x, int64_t base, int64_t at) {
                return x * load<A, L>(kept_ + base + at);
            });
        }

        void weigh(int64_t place, int64_t num) {
            memcpy(w_, z_, num * p_.padded * sizeof(A));
            p_.each(w_, num, [&](auto z, int64_t, int64_t at) {
                return Weights<T>::weight(p_, p_.shaped(z), stat_ + at);
            });
            if (a_.dropout) p_.drop(w_, place, num);
        }

        void through_weights(int64_t num) {
            p_.each(z_, num, [&](auto z, int64_t base, int64_t at) {
                auto weight = Weights<T>::weight(p_, p_.shaped(z), stat_ + at);
                auto kept = a_.dropout ? weight * load<A, L>(kept_ + base + at) : weight;
                store<A, L>(w_ + base + at, kept);
                auto grad = load<A, L>(dw_ + base + at) - load<A, L>(delta_ + at);
                if (a_.normalize == GF_SOFTMAX) grad *= weight;
                if (a_.normalize == GF_SUM) {
                    auto norm = load<A, L>(stat_ + at);
                    grad /= norm == A(0) ? all<A, L>(1) : norm;
                }
                return a_.pointwise == GF_IDENTITY ? grad : grad * p_.slope(z);
            });
        }

        void keep(int64_t place, int64_t num) const {
            int64_t padded = p_.padded;
            for_heads(padded, padded, [&](auto count) {
                for (int64_t n = 0; n < num; ++n) {
                    T *to = s_.kept_of(place + n);
                    if (s_.has_values()) {
                        narrow_heads(w_ + n * padded, to, count);
                        to += padded;
                    }
                    if (s_.has_slopes()) narrow_heads(z_ + n * padded, to, count);
                }
            });
        }

        void give_to_query(int64_t place, int64_t num, A *state) {
            A *query = state + p_.period;
            if (a_.grad_query_term) p_.sum_heads(z_, num, state);
            if (a_.pair != GF_PRODUCT) {
                PairSlopes<A> to{a_.grad_query ? query : row_, weight_sum_, map_sum_,
                                 static_cast<A *>(a_.grad_pair_data)};
                if (!a_.grad_query) fill(row_, A(0), p_.heads * p_.dim);
                scores_.pairs(place).slopes(scores_.query(), p_.keys(place), num, z_, to);
            } else if (a_.grad_query) {
                p_.products.add(z_, p_.keys(place), num, p_.heads, p_.padded, p_.dim, query);
            }
            if (a_.grad_edge_query)
                p_.sum_products(z_, place, num, query + pass_.query_size(),
                                static_cast<const A *>(a_.edge_data), a_.edge_dim);
        }

        void give_to_edges(int64_t place, int64_t num) const {
            if (a_.grad_bias) {
                A *grad = static_cast<A *>(a_.grad_bias);
                for (int64_t n = 0; n < num; ++n) {
                    A *to = grad + (place + n) * a_.bias_heads;
                    const A *from = z_ + n * p_.padded;
                    if (a_.bias_heads == 1) *to = 0;
                    for (int64_t h = 0; h < p_.heads; ++h)
                        if (a_.bias_heads == 1) *to += from[h];
                        else to[h] = from[h];
                }
            }
            if (a_.grad_edge_data)
                give_data(place, num, z_, scores_.edge_query(), a_.edge_dim, a_.grad_edge_data);
            if (a_.grad_sum_data)
                give_data(place, num, w_, grad_sum_, a_.sum_dim, a_.grad_sum_data);
        }

        // grad[edge][d] = sum over heads of w[edge][head] fixed[d][head].
        void give_data(int64_t place, int64_t num, const A *w, const A *fixed, int64_t dim,
                       void *grad) const {
            int64_t padded = p_.padded;
            for_heads(p_.heads, padded, [&](auto count) {
                for (int64_t n = 0; n < num; ++n) {
                    A *to = static_cast<A *>(grad) + (place + n) * dim;
                    for (int64_t d = 0; d < dim; ++d) {
                        A sum = 0;
                        for (int64_t h = 0; h < count; ++h)
                            sum += w[n * padded + h] * fixed[d * padded + h];
                        to[d] = sum;
                    }
                }
            });
        }

        const QueryPass &pass_;
        const Slopes<T> &s_;
        const Problem<T> &p_;
        const gf_attention &a_;
        Scores<T> scores_;
        A *z_, *w_, *dw_, *kept_, *stat_, *delta_, *grad_out_, *row_, *grad_sum_;
        A *weight_sum_ = nullptr, *map_sum_ = nullptr;
    };

  private:
    const Slopes<T> &s_;
    const Problem<T> &p_;
};

}  // namespace
}  // namespace graphformer
