// The pass of the backward over keys: it adds up what the one over queries has kept.
#pragma once

#include "blocks.h"
#include "query_pass.h"

namespace graphformer {
namespace {

// Gradients of what belongs to a key: the key, its term, its value.
template <class T> class KeyPass {
  public:
    using Number = precise<T>;
    using A = Number;

    KeyPass(const Slopes<T> &slopes, const KeyBlock<A> &block)
        : s_(slopes), block_(block), p_(slopes.p) {}
    int64_t key_size() const { return p_.a.grad_key ? p_.heads * p_.dim : 0; }
    int64_t value_size() const { return p_.a.grad_value ? p_.heads * p_.value_dim : 0; }
    int64_t state_size() const { return p_.period + key_size() + value_size(); }
    int64_t scratch_size() const {
        Arena<A> arena(nullptr);
        Worker worker(*this, arena);
        return arena.used();
    }

    class Worker {
      public:
        Worker(const KeyPass &pass, Arena<A> &arena)
            : pass_(pass), s_(pass.s_), p_(pass.p_), a_(pass.p_.a), w_(arena.take(p_.chunk_size())),
              dz_(arena.take(p_.chunk_size())),
              key_(arena.take(a_.pair != GF_PRODUCT ? p_.heads * p_.dim : 0)),
              pairs_(arena.take(Pairs<T>::scratch_size(a_))) {}

        void open(int64_t) {}
        void begin(int64_t row) {
            if (a_.pair != GF_PRODUCT && a_.grad_key)
                widen<A>(static_cast<const T *>(a_.key) + row * a_.key_stride, key_,
                         p_.heads * p_.dim);
        }
        void clear(A *state) const { fill(state, A(0), pass_.state_size()); }
        void join(A *state, const A *part) const {
            for (int64_t i = 0; i < pass_.state_size(); ++i) state[i] += part[i];
        }

        void edges(int64_t row, int64_t from, int64_t to, A *state) {
            const int32_t *shifts = pass_.block_.shift;
            int64_t shift = shifts ? shifts[row] : 0;
            last_ = shifts ? shift + to : a_.num_edges;
            for (int64_t place = from; place < to; place += CHUNK)
                chunk(shift + place, to - place < CHUNK ? to - place : CHUNK, state);
        }

        void finish(int64_t row, A *state) const {
            const KeyBlock<A> &block = pass_.block_;
            if (!block.is_first) join(state, total_of(row));
            if (block.is_last) return put(row, state);
            memcpy(total_of(row), state, pass_.state_size() * sizeof(A));
        }

      private:
        A *total_of(int64_t row) const { return pass_.block_.totals + row * pass_.state_size(); }

        void put(int64_t row, A *state) const {
            A *key = state + p_.period, *value = key + pass_.key_size();
            if (a_.scale != 1) scale(key, A(a_.scale), pass_.key_size());
            if (a_.grad_key_term)
                narrow(state, static_cast<A *>(a_.grad_key_term) + row * p_.heads, p_.heads);
            if (a_.grad_key)
                narrow(key, static_cast<T *>(a_.grad_key) + row * a_.grad_key_stride,
                       pass_.key_size());
            if (a_.grad_value)
                narrow(value, static_cast<T *>(a_.grad_value) + row * a_.grad_value_stride,
                       pass_.value_size());
        }

        Gathered<T> queries(int64_t place) const {
            return {static_cast<const T *>(a_.query), p_.heads * p_.dim, a_.query_stride,
                    a_.key_index + place, last_ - place};
        }
        Gathered<T> outside(int64_t place) const {
            int64_t width = p_.heads * p_.value_dim;
            return {static_cast<const T *>(a_.grad_out), width, width, a_.key_index + place,
                    last_ - place};
        }

        void chunk(int64_t place, int64_t num, A *state) {
            fetch(place, num);
            A *key = state + p_.period;
            if (a_.grad_key_term) p_.sum_heads(dz_, num, state);
            if (a_.grad_key && a_.pair == GF_PRODUCT)
                p_.products.add(dz_, queries(place), num, p_.heads, p_.padded, p_.dim, key);
            if (a_.grad_key && a_.pair != GF_PRODUCT) {
                Pairs<T> pairs(a_, p_.padded, a_.key_place + place, 0, pairs_);
                PairSlopes<A> to{key, nullptr, nullptr, nullptr};
                pairs.slopes(key_, queries(place), num, dz_, to);
            }
            if (a_.grad_value)
                p_.sums.add(w_, outside(place), num, p_.heads, p_.padded, p_.value_dim,
                            key + pass_.key_size());
        }

        // What the first pass kept of these edges, which lies scattered.
        void fetch(int64_t place, int64_t num) {
            constexpr int64_t ahead = 16;
            int64_t bytes = s_.kept_size * sizeof(T), left = last_ - place;
            const int32_t *where = a_.key_place + place;
            for_heads(p_.padded, p_.padded, [&](auto padded) {
                for (int64_t n = 0; n < num; ++n) {
                    prefetch(s_.kept_of(where[n + ahead < left ? n + ahead : n]), int(bytes));
                    const T *from = s_.kept_of(where[n]);
                    if (s_.has_values()) {
                        widen_heads(from, w_ + n * padded, padded);
                        from += padded;
                    }
                    if (s_.has_slopes()) widen_heads(from, dz_ + n * padded, padded);
                }
            });
        }

        const KeyPass &pass_;
        const Slopes<T> &s_;
        const Problem<T> &p_;
        const gf_attention &a_;
        A *w_, *dz_, *key_, *pairs_;
        int64_t last_ = 0;  // up to which place edges are fetched ahead: a block knows no others
    };

  private:
    const Slopes<T> &s_;
    const KeyBlock<A> &block_;
    const Problem<T> &p_;
};

}  // namespace
}  // namespace graphformer
