// Softmax attention of a few queries an example, as in a decoder's step.
//
// They stand in the lanes, so that the row of a key is read once for all of them, and keys that none
// of them hears are not read at all.
#pragma once

#include "attention.h"
#include "copies.h"
#include "functions.h"
#include "lanes.h"
#include "products.h"
#include "units.h"

namespace graphformer {
namespace {

// What a worker computes in, and the keys of an example that were found last.
template <class A> struct FewScratch {
    using Sign = typename Bits<A>::sign;
    static constexpr int L = WIDTH<A>;

    A *query, *key, *value, *scores, *out;
    Sign *hidden;     // [key, lane]: all bits where it is not heard
    int32_t *places;  // of the keys that are heard
    uint8_t *any;     // whether a query hears each key of the example
    int64_t example = -1, count = 0;

    // Of these the last four are there already, for as many keys.
    FewScratch(Arena<A> &arena, int64_t dim, int64_t keys, A *key, A *value, A *scores, A *out)
        : query(arena.take(dim * L)), key(key), value(value), scores(scores), out(out),
          hidden(reinterpret_cast<Sign *>(arena.take(keys * L))),
          places(reinterpret_cast<int32_t *>(arena.take(keys))),
          any(reinterpret_cast<uint8_t *>(arena.take(keys))) {}
};

// At most L queries an example.
template <class T, int L> struct Few {
    using A = precise<T>;
    using Sign = typename Bits<A>::sign;

    using Scratch = FewScratch<A>;

    const gf_tiles &t;

    bool hides() const { return t.causal || t.mask; }

    const uint8_t *mask_of(int64_t example, int64_t row) const {
        return t.mask + example * t.mask_example + row * t.mask_row;
    }

    // The keys that some query hears, and for each which queries do not.
    void find_keys(Scratch &w, int64_t example, int64_t queries, int64_t keys) const {
        if (w.example == example) return;
        w.example = example, w.count = 0;
        uint8_t *any = w.any;
        memset(any, !t.mask, keys);
        for (int64_t row = 0; t.mask && row < queries; ++row) {
            const uint8_t *heard = mask_of(example, row);
            for (int64_t key = 0; key < keys; ++key) any[key] |= heard[key];
        }
        if (t.causal && queries < keys) keys = queries;
        for (int64_t key = 0; key < keys; ++key) {
            if (!any[key]) continue;
            Sign *hidden = w.hidden + w.count * L;
            for (int64_t row = 0; hides() && row < L; ++row) {
                bool heard = row >= queries || (t.causal ? key <= row : mask_of(example, row)[key]);
                hidden[row] = heard ? 0 : -1;
            }
            w.places[w.count++] = int32_t(key);
        }
    }

    void copy(const Scratch &w, const void *from, int64_t start, int64_t stride, int64_t size,
              A *to) const {
        const T *data = static_cast<const T *>(from) + start;
        int64_t width = padded<A>(size);
        for (int64_t at = 0; at < w.count; ++at)
            copy_row(data + w.places[at] * stride, size, A(1), to + at * width);
    }

    // Weights in place of scores, a query a lane; returns the log-sum-exps.
    vec<A, L> weigh(const Scratch &w) const {
        vec<A, L> low = all<A, L>(-Numbers<A>::infinity), shift = low, sum{};
        for (int64_t at = 0; at < w.count; ++at) {
            vec<A, L> s = load<A, L>(w.scores + at * L);
            if (hides()) {
                mask<A, L> hidden;
                memcpy(&hidden, w.hidden + at * L, sizeof hidden);
                s = hidden ? low : s;
                store<A, L>(w.scores + at * L, s);
            }
            shift = larger(s, shift);
        }
        mask<A, L> any = shift > low;
        for (int64_t at = 0; at < w.count; ++at) {
            vec<A, L> s = load<A, L>(w.scores + at * L);
            // Where nothing but minus infinity is heard, what is no number stays so.
            s = any ? exp<A, L>(s - shift) : s == s ? vec<A, L>{} : s;
            store<A, L>(w.scores + at * L, s);
            sum += s;
        }
        vec<A, L> part = any ? A(1) / sum : vec<A, L>{};
        for (int64_t at = 0; at < w.count; ++at)
            store<A, L>(w.scores + at * L, part * load<A, L>(w.scores + at * L));
        return any ? shift + log<A, L>(sum) : Numbers<A>::infinity + sum;
    }

    void run(Scratch &w, int64_t example, int64_t kv_head) const {
        int64_t begin = t.key_ptr[example], keys = t.key_ptr[example + 1] - begin;
        int64_t from = t.query_ptr[example], queries = t.query_ptr[example + 1] - from;
        int64_t dim = padded<A>(t.dim), value_dim = padded<A>(t.value_dim);
        int64_t group = t.heads / t.kv_heads;
        find_keys(w, example, queries, keys);
        copy(w, t.key, begin * t.key_stride + kv_head * t.key_head, t.key_stride, t.dim, w.key);
        copy(w, t.value, begin * t.value_stride + kv_head * t.value_head, t.value_stride,
             t.value_dim, w.value);
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            int64_t start = from * t.query_stride + head * t.query_head;
            turn_rows(static_cast<const T *>(t.query) + start, t.query_stride, queries, t.dim, L,
                      w.query);
            // In front of the product, so that the backward, which does so too, has the same bits.
            for (int64_t d = 0; d < t.dim; ++d)
                store<A, L>(w.query + d * L, A(t.scale) * load<A, L>(w.query + d * L));
            multiply<A, L>({w.key, dim, 1}, w.query, L, w.count, t.dim, L, w.scores, L, false);
            vec<A, L> log_sums = weigh(w);
            multiply<A>({w.scores, 1, L}, w.value, value_dim, queries, w.count, value_dim, w.out,
                        value_dim, false);
            for (int64_t row = 0; row < queries; ++row)
                write(w.out + row * value_dim, log_sums[row], from + row, head);
        }
    }

    // Zeros for a query that hears nothing: weights of zero would let infinite values through.
    void write(A *row, A log_sum, int64_t query, int64_t head) const {
        int64_t place = query * t.heads + head;
        if (t.log_sum) static_cast<A *>(t.log_sum)[place] = log_sum;
        if (log_sum == Numbers<A>::infinity) memset(row, 0, padded<A>(t.value_dim) * sizeof(A));
        write_row(row, t.value_dim, A(1), static_cast<T *>(t.out) + place * t.value_dim);
    }
};

}  // namespace
}  // namespace graphformer
