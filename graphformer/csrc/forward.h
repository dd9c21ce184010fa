// The forward: for each query the weighted sum of its keys' values, its scores seen once.
#pragma once

#include "scores.h"

namespace graphformer {
namespace {

// Sums of a row: the largest score and the sum of weights [period], values, edge data.
template <class T> class Forward {
  public:
    using Number = precise<T>;
    using A = Number;
    static constexpr int L = WIDTH<A>;

    explicit Forward(const Problem<T> &p) : p_(p) {}
    int64_t values_size() const { return p_.a.out ? p_.heads * p_.value_dim : 0; }
    int64_t sums_size() const { return p_.a.edge_sum ? p_.padded * p_.a.sum_dim : 0; }
    int64_t state_size() const { return 2 * p_.period + values_size() + sums_size(); }
    int64_t scratch_size() const {
        Arena<A> arena(nullptr);
        Worker worker(*this, arena);
        return arena.used();
    }

    class Worker {
      public:
        Worker(const Forward &pass, Arena<A> &arena)
            : pass_(pass), p_(pass.p_), a_(pass.p_.a), scores_(pass.p_, arena),
              z_(arena.take(p_.chunk_size())), factor_(arena.take(p_.period)),
              out_(arena.take(pass.values_size() + pass.sums_size())) {}

        void open(int64_t) {}
        void begin(int64_t row) { scores_.begin(row); }

        void clear(A *state) const {
            fill(state, -Numbers<A>::infinity, p_.period);
            fill(state + p_.period, A(0), pass_.state_size() - p_.period);
        }

        void edges(int64_t, int64_t from, int64_t to, A *state) {
            A *sum = state + 2 * p_.period, *edge_sum = sum + pass_.values_size();
            for (int64_t place = from; place < to; place += CHUNK) {
                int64_t num = to - place < CHUNK ? to - place : CHUNK;
                scores_.compute(place, num, z_);
                if (a_.pointwise != GF_IDENTITY)
                    p_.each(z_, num, [&](auto x, int64_t, int64_t) { return p_.shaped(x); });
                if (a_.weights) put_scores(place, num);
                if (a_.normalize == GF_SCORES) continue;
                if (a_.normalize == GF_SOFTMAX) exponentials(num, state);
                if (a_.normalize == GF_SUM) p_.sum_heads(z_, num, state + p_.period);
                if (a_.dropout) p_.drop(z_, place, num);
                p_.sums.add(z_, p_.values(place), num, p_.heads, p_.padded, p_.value_dim, sum);
                if (a_.edge_sum)
                    p_.sum_products(z_, place, num, edge_sum, static_cast<const A *>(a_.sum_data),
                                    a_.sum_dim);
            }
        }

        // Adds sums that were taken under another largest score.
        void join(A *state, const A *part) {
            if (a_.normalize == GF_SOFTMAX) {
                for (int64_t h = 0; h < p_.padded; ++h) {
                    A most = state[h] > part[h] ? state[h] : part[h];
                    A of_part = factor(part[h], most);
                    factor_[h] = of_part;
                    rescale_head(state, h, factor(state[h], most));
                    state[h] = most;
                }
                fold(state);
            } else {
                fill(factor_, A(1), p_.padded);
            }
            int64_t period = p_.period;
            for (int64_t h = 0; h < p_.padded; ++h)
                state[period + h] += factor_[h] * part[period + h];
            A *sum = state + 2 * period;
            const A *more = part + 2 * period;
            for (int64_t i = 0; i < pass_.values_size(); ++i)
                sum[i] += factor_[i / p_.value_dim] * more[i];
            sum += pass_.values_size();
            more += pass_.values_size();
            for (int64_t i = 0; i < pass_.sums_size(); ++i) sum[i] += factor_[i % p_.padded] * more[i];
        }

        void finish(int64_t row, const A *state) {
            if (a_.normalize == GF_SCORES) return;
            const A *most = state, *total = state + p_.period, *sum = total + p_.period;
            put_stat(row, most, total);
            int64_t dim = p_.value_dim, size = pass_.values_size();
            for (int64_t h = 0; h < p_.heads; ++h)
                for (int64_t d = 0; d < dim; ++d) out_[h * dim + d] = sum[h * dim + d] * factor_[h];
            T *out = static_cast<T *>(a_.out) + row * size;
            narrow(out_, out, size);
            if (a_.out_rest) {
                for (int64_t i = 0; i < size; ++i) out_[i] -= to_precise(out[i]);
                narrow(out_, static_cast<T *>(a_.out_rest) + row * size, size);
            }
            if (!a_.edge_sum) return;
            int64_t count = p_.heads * a_.sum_dim;
            p_.transpose_back(sum + size, out_, a_.sum_dim);
            for (int64_t i = 0; i < count; ++i) out_[i] *= factor_[i / a_.sum_dim];
            narrow(out_, static_cast<A *>(a_.edge_sum) + row * count, count);
        }

      private:
        static A factor(A of, A most) {
            return of == -Numbers<A>::infinity ? A(0) : exp<A, L>(all<A, L>(of - most))[0];
        }

        void put_scores(int64_t place, int64_t num) const {
            A *weights = static_cast<A *>(a_.weights);
            for (int64_t n = 0; n < num; ++n) {
                A *to = weights + (place + n) * p_.heads;
                for (int64_t h = 0; h < p_.heads; ++h) to[h] = z_[n * p_.padded + h];
            }
        }

        // z = exp(z - largest of the row so far), and what was summed before is scaled to it.
        void exponentials(int64_t num, A *state) {
            int64_t period = p_.period, size = num * p_.padded;
            int64_t whole = (size + period - 1) / period * period;
            fill(z_ + size, -Numbers<A>::infinity, whole - size);
            bool first = true;
            for (int64_t h = 0; h < p_.heads; ++h) first &= state[h] == -Numbers<A>::infinity;
            if (!first)
                for (int64_t h = 0; h < period; ++h) factor_[h] = state[h];
            for (int64_t at = 0; at < period; at += L) {
                vec<A, L> most = load<A, L>(state + at);
                for (int64_t i = at; i < whole; i += period)
                    most = larger(most, load<A, L>(z_ + i));
                store<A, L>(state + at, most);
            }
            fold_largest(state);
            if (!first)
                for (int64_t h = 0; h < p_.padded; ++h)
                    rescale_head(state, h, factor(factor_[h], state[h]));
            for (int64_t at = 0; at < period; at += L) {
                vec<A, L> most = load<A, L>(state + at);
                // A row of nothing but minus infinity has no weights, instead of no numbers.
                most = most == -Numbers<A>::infinity ? vec<A, L>{} : most;
                vec<A, L> total = load<A, L>(state + period + at);
                for (int64_t i = at; i < whole; i += period) {
                    vec<A, L> w = exp<A, L>(load<A, L>(z_ + i) - most);
                    store<A, L>(z_ + i, w);
                    total += w;
                }
                store<A, L>(state + period + at, total);
            }
            fold_sum(state + period);
        }

        void rescale_head(A *state, int64_t head, A factor) const {
            int64_t dim = p_.value_dim, size = pass_.values_size();
            state[p_.period + head] *= factor;
            A *sum = state + 2 * p_.period;
            if (head >= p_.heads) return;
            for (int64_t d = 0; size && d < dim; ++d) sum[head * dim + d] *= factor;
            for (int64_t i = head; i < pass_.sums_size(); i += p_.padded) sum[size + i] *= factor;
        }

        // One number a head, repeated through the period.
        void fold(A *x) const {
            for (int64_t i = p_.padded; i < p_.period; ++i) x[i] = x[i - p_.padded];
        }
        void fold_largest(A *x) const {
            for (int64_t i = p_.padded; i < p_.period; ++i) {
                A &to = x[i % p_.padded];
                to = x[i] > to ? x[i] : to;
            }
            fold(x);
        }
        // The sum stays in front; zeros behind, for the next chunk to add to.
        void fold_sum(A *x) const {
            for (int64_t i = p_.padded; i < p_.period; ++i) {
                x[i % p_.padded] += x[i];
                x[i] = 0;
            }
        }

        // What the backward needs to know of the row, and what its sums are multiplied with.
        void put_stat(int64_t row, const A *most, const A *total) {
            if (a_.normalize == GF_NONE) return fill(factor_, A(1), p_.padded);
            A *stat = static_cast<A *>(a_.stat) + row * p_.heads;
            if (a_.normalize == GF_SUM) {
                for (int64_t h = 0; h < p_.heads; ++h) {
                    stat[h] = total[h];
                    factor_[h] = total[h] == 0 ? A(1) : 1 / total[h];
                }
                return;
            }
            for (int64_t at = 0; at < p_.padded; at += L) {
                vec<A, L> sum = load<A, L>(total + at), none = vec<A, L>{};
                auto is_empty = sum == none;
                vec<A, L> some = is_empty ? all<A, L>(1) : sum;
                vec<A, L> level = load<A, L>(most + at) + log<A, L>(some);
                // Beyond all scores, so that the backward finds weights of zero.
                level = is_empty ? all<A, L>(Numbers<A>::infinity) : level;
                store<A, L>(factor_ + at, is_empty ? none : A(1) / some);
                int64_t left = p_.heads - at;
                store_part<A, A, L>(stat + at, level, int(left < L ? left : L));
            }
        }

        const Forward &pass_;
        const Problem<T> &p_;
        const gf_attention &a_;
        Scores<T> scores_;
        A *z_, *factor_, *out_;
    };

  private:
    const Problem<T> &p_;
};

// Scores [edge, head] become the weights that were used.
template <class T> class Weights {
  public:
    using Number = precise<T>;
    using A = Number;
    explicit Weights(const Problem<T> &p) : p_(p) {}
    int64_t state_size() const { return 0; }
    int64_t scratch_size() const { return p_.chunk_size() + 2 * p_.period; }

    class Worker {
      public:
        Worker(const Weights &pass, Arena<A> &arena)
            : p_(pass.p_), stat_(arena.take(p_.period)), w_(arena.take(p_.chunk_size())) {}
        void open(int64_t) {}
        void begin(int64_t row) {
            if (p_.a.normalize != GF_NONE)
                p_.repeat(static_cast<const A *>(p_.a.stat) + row * p_.heads, stat_, A(1));
        }
        void clear(A *) const {}
        void join(A *, const A *) const {}
        void finish(int64_t, const A *) const {}
        void edges(int64_t, int64_t from, int64_t to, A *) {
            for (int64_t place = from; place < to; place += CHUNK)
                weigh(place, to - place < CHUNK ? to - place : CHUNK);
        }

      private:
        void weigh(int64_t place, int64_t num) {
            A *weights = static_cast<A *>(p_.a.weights);
            memset(w_, 0, p_.chunk_size() * sizeof(A));
            p_.add_rows(w_, num, [&](int64_t n) { return weights + (place + n) * p_.heads; });
            if (p_.a.normalize != GF_NONE)
                p_.each(w_, num, [&](auto x, int64_t, int64_t at) { return weight(p_, x, stat_ + at); });
            if (p_.a.dropout) p_.drop(w_, place, num);
            for (int64_t n = 0; n < num; ++n)
                for (int64_t h = 0; h < p_.heads; ++h)
                    weights[(place + n) * p_.heads + h] = w_[n * p_.padded + h];
        }

        const Problem<T> &p_;
        A *stat_, *w_;
    };

    // The weight of a finished score, before dropout.
    template <class V> static V weight(const Problem<T> &p, V score, const A *stat) {
        V level = load<A, WIDTH<A>>(stat);
        if (p.a.normalize == GF_SOFTMAX) return exp<A, WIDTH<A>>(score - level);
        if (p.a.normalize == GF_SUM) return score / (level == A(0) ? all<A, WIDTH<A>>(1) : level);
        return score;
    }

  private:
    const Problem<T> &p_;
};

template <class T> int run_forward(const gf_attention &a, Parallel parallel) {
    Problem<T> p(a);
    Forward<T> forward(p);
    Span queries{a.ptr, 0, a.num_queries};
    if (!Rows<Forward<T>>::run(forward, queries, a.threads, parallel)) return GF_NO_MEMORY;
    if (!a.weights || a.normalize == GF_SCORES) return GF_OK;
    Weights<T> weights(p);
    return Rows<Weights<T>>::run(weights, queries, a.threads, parallel) ? GF_OK : GF_NO_MEMORY;
}

}  // namespace
}  // namespace graphformer
