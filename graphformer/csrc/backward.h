// The backward: a pass over queries and one over keys, each adding in the order of its edges.
//
// The first computes the weights again, and keeps for each edge and head its weight and the
// gradient of its score, which the second reads. Where keys have many edges both go through the
// queries block by block, so that what is kept stays in the caches.
#pragma once

#include "key_pass.h"

namespace graphformer {
namespace {

// For each query and head the sum of the weights times their gradients from outside.
template <class T> class WeightSums {
  public:
    using Number = precise<T>;
    using A = Number;
    WeightSums(const Problem<T> &p, A *sums) : p_(p), sums_(sums) {}
    int64_t state_size() const { return p_.heads; }
    int64_t scratch_size() const { return 16; }

    class Worker {
      public:
        Worker(const WeightSums &pass, Arena<A> &) : sums_(pass.sums_), p_(pass.p_) {}
        void open(int64_t) {}
        void begin(int64_t) {}
        void clear(A *state) const { fill(state, A(0), p_.heads); }
        void join(A *state, const A *part) const {
            for (int64_t h = 0; h < p_.heads; ++h) state[h] += part[h];
        }
        void finish(int64_t row, const A *state) const {
            memcpy(sums_ + row * p_.heads, state, p_.heads * sizeof(A));
        }
        void edges(int64_t, int64_t from, int64_t to, A *state) const {
            const A *weights = static_cast<const A *>(p_.a.weights);
            const A *grad = static_cast<const A *>(p_.a.grad_weights);
            for (int64_t place = from; place < to; ++place)
                for (int64_t h = 0, at = place * p_.heads; h < p_.heads; ++h)
                    state[h] += weights[at + h] * grad[at + h];
        }

      private:
        A *sums_;
        const Problem<T> &p_;
    };

  private:
    const Problem<T> &p_;
    A *sums_;
};

// Adds what all units have added up, in their order; nothing where there are no parts.
template <class A> void add_parts(const A *parts, int64_t units, int64_t size, A *sum) {
    if (!parts) return;
    for (int64_t unit = 0; unit < units; ++unit)
        for (int64_t i = 0; i < size; ++i) sum[i] += parts[unit * size + i];
}

template <class T> int run_backward(const gf_attention &a, Parallel parallel) {
    using A = precise<T>;
    Problem<T> p(a);
    Slopes<T> slopes{p, nullptr, 0, 0, nullptr, nullptr, nullptr};
    slopes.kept_size = (slopes.has_values() + slopes.has_slopes()) * p.padded;
    KeyBlock<A> block{};
    QueryPass<T> query_pass(slopes);
    KeyPass<T> key_pass(slopes, block);
    bool keys = a.grad_key || a.grad_key_term || a.grad_value;
    bool outside = a.grad_weights && a.normalize != GF_SCORES;
    int64_t bytes_per_edge = keys ? slopes.kept_size * sizeof(T) : 0;
    QueryBlocks blocks(a, bytes_per_edge);
    KeyEdges key_edges(a, blocks.num());
    int64_t units = blocks.most_units(), size = p.heads * p.dim, map_size = a.pair_dim * size;
    int64_t kept_bytes = blocks.most_edges() * bytes_per_edge;
    int64_t num_totals = keys && blocks.num() > 1 ? a.num_keys * key_pass.state_size() : 0;
    Memory kept(kept_bytes), totals(num_totals * sizeof(A));
    Memory sums(outside ? a.num_queries * p.heads * sizeof(A) : 0);
    Memory weights(a.grad_pair_weight ? units * size * sizeof(A) : 0);
    Memory maps(a.grad_pair_map ? units * map_size * sizeof(A) : 0);
    if (!key_edges || !kept || !totals || !sums || !weights || !maps) return GF_NO_MEMORY;
    if (keys) {
        gf_expect_writes(kept.get<T>(), kept_bytes);
        slopes.kept = kept.get<T>();
        block.totals = totals.get<A>();
    }
    if (a.grad_pair_weight) {
        slopes.weight_parts = weights.get<A>();
        fill(static_cast<A *>(a.grad_pair_weight), A(0), size);
    }
    if (a.grad_pair_map) {
        slopes.map_parts = maps.get<A>();
        fill(static_cast<A *>(a.grad_pair_map), A(0), map_size);
    }
    if (outside) {
        slopes.from_weights = sums.get<A>();
        WeightSums<T> pass(p, slopes.from_weights);
        if (!Rows<WeightSums<T>>::run(pass, {a.ptr, 0, a.num_queries}, a.threads, parallel))
            return GF_NO_MEMORY;
    }
    for (int64_t i = 0; i < blocks.num(); ++i) {
        Span queries = blocks[i];
        slopes.first = a.ptr[queries.first];
        if (!Rows<QueryPass<T>>::run(query_pass, queries, a.threads, parallel)) return GF_NO_MEMORY;
        add_parts(slopes.weight_parts, queries.units(), size, static_cast<A *>(a.grad_pair_weight));
        add_parts(slopes.map_parts, queries.units(), map_size, static_cast<A *>(a.grad_pair_map));
        block.is_first = i == 0, block.is_last = i == blocks.num() - 1;
        if (!keys || (!queries.num_rows() && !block.is_first && !block.is_last)) continue;
        key_edges.go_to(a.ptr[queries.last], block);
        if (!Rows<KeyPass<T>>::run(key_pass, block.rows, a.threads, parallel)) return GF_NO_MEMORY;
    }
    return GF_OK;
}

}  // namespace
}  // namespace graphformer
