// Softmax attention of each query to all keys of its example, or to those that a mask leaves: a block
// of queries has all its scores at a time, in the caches, and no example is padded to another.
//
// What is computed at once is one example and one head of keys and values, whose rows are copied, in
// the precision of sums, to where they stand side by side.
#pragma once

#include "attention.h"
#include "copies.h"
#include "few.h"
#include "functions.h"
#include "hash.h"
#include "lanes.h"
#include "products.h"
#include "units.h"

namespace graphformer {
namespace {

template <class T> struct Tiles {
    using A = precise<T>;
    static constexpr int L = WIDTH<A>;
    // Queries whose scores are there at a time.
    static constexpr int64_t BLOCK = 64;
    // From one row of scores, or of turned rows, to the next: what is a power of two apart shares
    // few places of a cache.
    static int64_t apart(int64_t columns) {
        int64_t width = padded<A>(columns);
        return width % (4 * L) ? width : width + L;
    }
    // Half a vector for half as many queries, where a whole one may take twice the time.
    static constexpr int NARROW = VECTOR_BYTES == 64 ? L / 2 : L;

    const gf_tiles &t;
    Keeper<A> keeper;
    int64_t longest_keys, group, dim, value_dim, columns;

    explicit Tiles(const gf_tiles &t)
        : t(t), keeper(t.dropout, t.seed), longest_keys(0), group(t.heads / t.kv_heads),
          dim(padded<A>(t.dim)), value_dim(padded<A>(t.value_dim)) {
        for (int64_t e = 0; e < t.num_examples; ++e) {
            int64_t keys = t.key_ptr[e + 1] - t.key_ptr[e];
            longest_keys = keys > longest_keys ? keys : longest_keys;
        }
        columns = apart(longest_keys);
    }

    bool backward() const { return t.grad_out != nullptr; }
    static const T *in(const void *data) { return static_cast<const T *>(data); }

    // What a worker computes in.
    struct Scratch {
        A *query, *key_turned, *scores, *parts, *out, *value, *key;
        A *value_turned = nullptr, *grad_out = nullptr, *grad_scores = nullptr;
        A *grad_key = nullptr, *grad_value = nullptr;
        FewScratch<A> few;

        Scratch(const Tiles &p, Arena<A> &arena)
            : query(arena.take(BLOCK * p.dim)), key_turned(arena.take(p.dim * p.columns)),
              scores(arena.take(BLOCK * p.columns)), parts(arena.take(BLOCK)),
              out(arena.take(BLOCK * (p.dim > p.value_dim ? p.dim : p.value_dim))),
              value(arena.take(p.longest_keys * p.value_dim)),
              key(arena.take(p.longest_keys * p.dim)),
              few(arena, p.dim, p.longest_keys, key, value, scores, out) {
            int64_t keys = p.longest_keys, longer = p.columns;
            if (!p.backward()) return;
            value_turned = arena.take(p.value_dim * longer);
            grad_out = arena.take(BLOCK * p.value_dim);
            grad_scores = arena.take(BLOCK * longer);
            grad_key = arena.take(keys * p.dim);
            grad_value = arena.take(keys * p.value_dim);
        }
    };

    // Scores of what is no edge become minus infinity.
    void hide(int64_t example, int64_t first, int64_t rows, int64_t keys, A *scores,
              int64_t stride) const {
        int64_t width = padded<A>(keys);
        for (int64_t row = 0; row < rows; ++row) {
            A *s = scores + row * stride;
            int64_t heard = t.causal && first + row + 1 < keys ? first + row + 1 : keys;
            for (int64_t key = heard; key < width; ++key) s[key] = -Numbers<A>::infinity;
            if (!t.mask) continue;
            const uint8_t *mask = t.mask + example * t.mask_example + (first + row) * t.mask_row;
            for (int64_t key = 0; key < heard; ++key)
                s[key] = mask[key] ? s[key] : -Numbers<A>::infinity;
        }
    }

    // Weights in place of scores, but for a factor of all, by which sums of values are multiplied:
    // as in the sparse kernels, those near the largest number may be infinite before. Returns the
    // log-sum-exp, infinite where nothing is heard.
    static A weigh(A *s, int64_t width, A &factor) {
        factor = 1;
        vec<A, L> most = load<A, L>(s);
        for (int64_t at = L; at < width; at += L) most = larger(load<A, L>(s + at), most);
        A shift = most[0];
        for (int lane = 1; lane < L; ++lane) shift = most[lane] > shift ? most[lane] : shift;
        if (shift == -Numbers<A>::infinity) {
            // Nothing is heard, or nothing but what is no number, and stays so.
            A total = 0;
            for (int64_t at = 0; at < width; ++at) total += s[at] = s[at] == s[at] ? A(0) : s[at];
            return Numbers<A>::infinity + total;
        }
        vec<A, L> sum{};
        for (int64_t at = 0; at < width; at += L) {
            vec<A, L> one = exp<A, L>(load<A, L>(s + at) - shift);
            store<A, L>(s + at, one);
            sum += one;
        }
        A total = sum_lanes<A, L>(sum);
        factor = 1 / total;
        return shift + log<A, L>(all<A, L>(total))[0];
    }

    // Some weights of a query, or what they are multiplied with, after dropout.
    vec<A, L> drop(vec<A, L> some, int64_t query, int64_t head, int64_t key) const {
        return keeper.keep(some, uint32_t(key), mix<uint32_t>(uint32_t(query * t.heads + head)));
    }

    void drop_weights(A *s, int64_t width, int64_t query, int64_t head) const {
        for (int64_t at = 0; at < width; at += L)
            store<A, L>(s + at, drop(load<A, L>(s + at), query, head, at));
    }

    // Of one block: its queries, and the scores of the keys that it may hear.
    int64_t score(Scratch &w, int64_t example, int64_t head, int64_t first, int64_t rows,
                  int64_t keys) const {
        int64_t from = t.query_ptr[example] + first;
        int64_t start = from * t.query_stride + head * t.query_head;
        copy_rows(in(t.query) + start, t.query_stride, rows, t.dim, A(t.scale), w.query);
        int64_t heard = t.causal && first + rows < keys ? first + rows : keys;
        int64_t width = padded<A>(heard);
        multiply<A>({w.query, dim, 1}, w.key_turned, apart(keys), rows, t.dim, width, w.scores,
                    apart(keys), false);
        hide(example, first, rows, heard, w.scores, apart(keys));
        return width;
    }

    void run_forward(Scratch &w, int64_t example, int64_t kv_head) const {
        int64_t begin = t.key_ptr[example], keys = t.key_ptr[example + 1] - begin;
        int64_t queries = t.query_ptr[example + 1] - t.query_ptr[example];
        if (t.dropout == 0) {
            if (queries <= NARROW) return Few<T, NARROW>{t}.run(w.few, example, kv_head);
            if (queries <= L) return Few<T, L>{t}.run(w.few, example, kv_head);
        }
        int64_t key_start = begin * t.key_stride + kv_head * t.key_head;
        int64_t value_start = begin * t.value_stride + kv_head * t.value_head, stride = apart(keys);
        turn_rows(in(t.key) + key_start, t.key_stride, keys, t.dim, stride, w.key_turned);
        copy_rows(in(t.value) + value_start, t.value_stride, keys, t.value_dim, A(1), w.value);
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
            for (int64_t first = 0; first < queries; first += BLOCK) {
                int64_t rows = queries - first < BLOCK ? queries - first : BLOCK;
                int64_t from = t.query_ptr[example] + first;
                int64_t width = keys ? score(w, example, head, first, rows, keys) : 0;
                int64_t heard = width < keys ? width : keys;
                A *log_sum = static_cast<A *>(t.log_sum);
                bool all_hear = true;
                for (int64_t row = 0; row < rows; ++row) {
                    A *s = w.scores + row * stride, sum = Numbers<A>::infinity;
                    if (keys) sum = weigh(s, width, w.parts[row]);
                    if (log_sum) log_sum[(from + row) * t.heads + head] = sum;
                    all_hear &= sum != Numbers<A>::infinity;
                    if (t.dropout > 0) drop_weights(s, width, from + row, head);
                }
                multiply<A>({w.scores, stride, 1}, w.value, value_dim, rows, heard, value_dim, w.out,
                            value_dim, false);
                if (!all_hear) silence(w, rows, width, stride);
                T *out = static_cast<T *>(t.out) + (from * t.heads + head) * t.value_dim;
                for (int64_t row = 0; row < rows; ++row)
                    write_row(w.out + row * value_dim, t.value_dim, keys ? w.parts[row] : A(1),
                              out + row * t.heads * t.value_dim);
            }
    }

    // Zeros for queries that hear nothing: weights of zero would let infinite values through.
    void silence(const Scratch &w, int64_t rows, int64_t width, int64_t stride) const {
        for (int64_t row = 0; row < rows; ++row) {
            bool any = false;
            for (int64_t key = 0; key < width && !any; ++key) any = w.scores[row * stride + key] != 0;
            if (any) continue;
            for (int64_t at = 0; at < value_dim; ++at) w.out[row * value_dim + at] = 0;
        }
    }

    void run_backward(Scratch &w, int64_t example, int64_t kv_head) const {
        int64_t begin = t.key_ptr[example], keys = t.key_ptr[example + 1] - begin;
        int64_t queries = t.query_ptr[example + 1] - t.query_ptr[example];
        int64_t key_start = begin * t.key_stride + kv_head * t.key_head;
        int64_t value_start = begin * t.value_stride + kv_head * t.value_head, stride = apart(keys);
        turn_rows(in(t.key) + key_start, t.key_stride, keys, t.dim, stride, w.key_turned);
        turn_rows(in(t.value) + value_start, t.value_stride, keys, t.value_dim, stride,
                  w.value_turned);
        copy_rows(in(t.key) + key_start, t.key_stride, keys, t.dim, A(1), w.key);
        memset(w.grad_key, 0, keys * dim * sizeof(A));
        memset(w.grad_value, 0, keys * value_dim * sizeof(A));
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
            for (int64_t first = 0; first < queries; first += BLOCK) {
                int64_t rows = queries - first < BLOCK ? queries - first : BLOCK;
                add_block(w, example, head, first, rows, keys);
            }
        int64_t place = begin * t.kv_heads + kv_head;
        T *to = static_cast<T *>(t.grad_key) + place * t.dim;
        write_rows(w.grad_key, keys, t.dim, A(1), to, t.kv_heads * t.dim);
        to = static_cast<T *>(t.grad_value) + place * t.value_dim;
        write_rows(w.grad_value, keys, t.value_dim, A(1), to, t.kv_heads * t.value_dim);
    }

    void add_block(Scratch &w, int64_t example, int64_t head, int64_t first, int64_t rows,
                   int64_t keys) const {
        int64_t from = t.query_ptr[example] + first;
        int64_t width = keys ? score(w, example, head, first, rows, keys) : 0;
        int64_t heard = width < keys ? width : keys, stride = apart(keys);
        int64_t start = from * t.grad_stride + head * t.grad_head;
        copy_rows(in(t.grad_out) + start, t.grad_stride, rows, t.value_dim, A(1), w.grad_out);
        multiply<A>({w.grad_out, value_dim, 1}, w.value_turned, stride, rows, t.value_dim, width,
                    w.grad_scores, stride, false);
        const A *log_sum = static_cast<const A *>(t.log_sum);
        for (int64_t row = 0; row < rows; ++row)
            slope(w.scores + row * stride, w.grad_scores + row * stride, width, from + row, head,
                  log_sum[(from + row) * t.heads + head]);
        multiply<A>({w.scores, 1, stride}, w.grad_out, value_dim, heard, rows, value_dim,
                    w.grad_value, value_dim, true);
        multiply<A>({w.grad_scores, 1, stride}, w.query, dim, heard, rows, dim, w.grad_key, dim,
                    true);
        multiply<A>({w.grad_scores, stride, 1}, w.key, dim, rows, heard, dim, w.out, dim, false);
        T *to = static_cast<T *>(t.grad_query) + (from * t.heads + head) * t.dim;
        write_rows(w.out, rows, t.dim, A(t.scale), to, t.heads * t.dim);
    }

    // Of a query: weights in place of scores, gradients of scores in place of those of weights.
    void slope(A *s, A *g, int64_t width, int64_t query, int64_t head, A log_sum) const {
        vec<A, L> sum{};
        for (int64_t at = 0; at < width; at += L) {
            vec<A, L> weight = exp<A, L>(load<A, L>(s + at) - log_sum), one = load<A, L>(g + at);
            // What is not heard has no gradient, however large its value is.
            one = weight == 0 ? vec<A, L>{} : one;
            if (t.dropout > 0) one = drop(one, query, head, at);
            store<A, L>(s + at, weight);
            store<A, L>(g + at, one);
            sum += weight * one;
        }
        A mean = sum_lanes<A, L>(sum);
        for (int64_t at = 0; at < width; at += L)
            store<A, L>(g + at, load<A, L>(s + at) * (load<A, L>(g + at) - mean));
        if (t.dropout > 0) drop_weights(s, width, query, head);
    }
};

template <class T> int run_tiles(const gf_tiles &t, Parallel parallel) {
    using A = precise<T>;
    Tiles<T> tiles(t);
    Arena<A> counted(nullptr);
    typename Tiles<T>::Scratch nothing(tiles, counted);
    int64_t size = (counted.used() + 63) / 64 * 64, pairs = t.num_examples * t.kv_heads;
    // Some pairs to a unit, so that they are worth handing out, and yet enough units for all.
    int64_t each = pairs / (64 * t.threads) + 1, units = (pairs + each - 1) / each;
    int64_t threads = t.threads < units ? t.threads : units;
    Memory memory(threads * size * sizeof(A));
    if (!memory) return GF_NO_MEMORY;
    struct Context {
        const Tiles<T> &tiles;
        A *memory;
        int64_t size, each, pairs;
    } context{tiles, memory.get<A>(), size, each, pairs};
    auto body = [](void *data, int64_t unit, int64_t worker) {
        auto &c = *static_cast<Context *>(data);
        Arena<A> arena(c.memory + worker * c.size);
        typename Tiles<T>::Scratch scratch(c.tiles, arena);
        int64_t heads = c.tiles.t.kv_heads, last = (unit + 1) * c.each;
        for (int64_t pair = unit * c.each; pair < last && pair < c.pairs; ++pair)
            if (c.tiles.backward()) c.tiles.run_backward(scratch, pair / heads, pair % heads);
            else c.tiles.run_forward(scratch, pair / heads, pair % heads);
    };
    parallel(units, threads, body, &context);
    return GF_OK;
}

}  // namespace
}  // namespace graphformer
