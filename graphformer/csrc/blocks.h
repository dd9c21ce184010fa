// Blocks of queries, which the backward goes through one by one, and the edges by key of each.
#pragma once

#include "attention.h"
#include "units.h"

namespace graphformer {
namespace {

// Bytes that are kept of a block for its keys, which the caches hold; and edges that each key has in
// it on average at least, for what keys have added up is written and read again in every block.
#ifndef GRAPHFORMER_SMALL_BLOCKS
constexpr int64_t BLOCK_BYTES = 1 << 24, BLOCK_EDGES_PER_KEY = 64;
#else  // for checks
constexpr int64_t BLOCK_BYTES = 1 << 10, BLOCK_EDGES_PER_KEY = 1;
#endif

// The first entry of a rising list, between two places, that is not less than a number.
inline int64_t first_from(const int32_t *rising, int64_t from, int64_t to, int64_t least) {
    while (from < to) {
        int64_t middle = (from + to) / 2;
        if (rising[middle] < least) from = middle + 1;
        else to = middle;
    }
    return from;
}

class QueryBlocks {
  public:
    QueryBlocks(const gf_attention &a, int64_t bytes_per_edge) : a_(a) {
        int64_t by_keys = BLOCK_EDGES_PER_KEY * a.num_keys;
        int64_t by_bytes = bytes_per_edge ? BLOCK_BYTES / bytes_per_edge : a.num_edges;
        int64_t edges = by_keys > by_bytes ? by_keys : by_bytes;
        num_ = edges && a.num_edges > edges ? a.num_edges / edges : 1;
        for (int64_t block = 0; block < num_; ++block) {
            Span queries = (*this)[block];
            if (queries.num_edges() > most_edges_) most_edges_ = queries.num_edges();
            if (queries.units() > most_units_) most_units_ = queries.units();
        }
    }
    int64_t num() const { return num_; }
    int64_t most_edges() const { return most_edges_; }
    int64_t most_units() const { return most_units_; }
    Span operator[](int64_t block) const { return {a_.ptr, start(block), start(block + 1)}; }

  private:
    int64_t start(int64_t block) const {
        if (block == num_) return a_.num_queries;
        return first_from(a_.ptr, 0, a_.num_queries, a_.num_edges / num_ * block);
    }

    const gf_attention &a_;
    int64_t num_, most_edges_ = 0, most_units_ = 0;
};

// The edges by key of a block.
template <class A> struct KeyBlock {
    Span rows;
    const int32_t *shift;  // of each key: what leads from there to the places of all edges by key
    A *totals;             // [key, state]: what blocks have added up
    bool is_first, is_last;
};

// Finds the edges by key of block after block; where there is only one they are all there are.
class KeyEdges {
  public:
    KeyEdges(const gf_attention &a, int64_t blocks)
        : a_(a), blocks_(blocks), memory_(blocks > 1 ? (3 * a.num_keys + 1) * sizeof(int32_t) : 0) {
        if (blocks == 1 || !memory_) return;
        ptr_ = memory_.get<int32_t>();
        shift_ = ptr_ + a.num_keys + 1;
        next_ = shift_ + a.num_keys;
        memcpy(next_, a.key_ptr, a.num_keys * sizeof(int32_t));
        ptr_[0] = 0;
    }
    explicit operator bool() const { return bool(memory_); }

    // Goes on to the edges before a place among all edges by query.
    template <class A> void go_to(int64_t end, KeyBlock<A> &block) {
        block.rows = {blocks_ > 1 ? ptr_ : a_.key_ptr, 0, a_.num_keys};
        if (blocks_ == 1) return;
        block.shift = shift_;
        for (int64_t key = 0; key < a_.num_keys; ++key) {
            int32_t from = next_[key];
            next_[key] = int32_t(first_from(a_.key_place, from, a_.key_ptr[key + 1], end));
            ptr_[key + 1] = ptr_[key] + next_[key] - from;
            shift_[key] = from - ptr_[key];
        }
    }

  private:
    const gf_attention &a_;
    int64_t blocks_;
    Memory memory_;
    int32_t *ptr_ = nullptr, *shift_ = nullptr, *next_ = nullptr;
};

}  // namespace
}  // namespace graphformer
