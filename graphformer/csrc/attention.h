// The C interface of the kernels: an attention over the edges of a graph, forward and backward,
// the attention of many short examples, dropout, rotary positions, and the largest entries of rows.
#pragma once

#include <stdint.h>

#define GF_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum { GF_FLOAT32, GF_FLOAT64, GF_BFLOAT16 };
enum { GF_IDENTITY, GF_LEAKY_RELU, GF_SOFT_CAP };
enum { GF_PRODUCT, GF_PAIR_LEAKY_RELU, GF_PAIR_TANH };
// GF_SCORES stops at the scores: they are written to `weights`, and nothing is summed.
enum { GF_SOFTMAX, GF_SUM, GF_NONE, GF_SCORES };
enum { GF_INTERFACE = 8 };
enum { GF_OK, GF_NO_MEMORY, GF_NO_SUCH_SET };

// Query, key and value (and the gradients of them, `out` and `grad_out`) have the element type
// `dtype`; every other number is double where that is GF_FLOAT64, float elsewhere. All heads of a
// token stand side by side; strides count the numbers from a token to the next where other things may
// stand between. What is absent is null. Pointers that start with `grad_` are written by the
// backward, but for the first three, which it reads.
typedef struct {
    int64_t num_queries, num_keys, num_edges;
    int64_t heads, dim, value_dim, edge_dim, sum_dim, bias_heads, pair_dim;
    int64_t dtype, pointwise, pair, normalize, threads;
    int64_t query_stride, key_stride, value_stride;
    int64_t grad_query_stride, grad_key_stride, grad_value_stride;
    double scale;     // of the product of query and key
    double constant;  // slope or cap of the pointwise function; slope of the pairwise one
    double dropout;
    uint64_t seed;

    // Edges by query: offsets and keys. All numbers of edges stand in this order.
    const int32_t *ptr, *index;
    // Edges by key: offsets, queries, and the place of each among the edges by query, which rises
    // among those of a key.
    const int32_t *key_ptr, *key_index, *key_place;

    const void *query, *key, *value;      // [query, head, dim], [key, head, dim or value_dim]
    const void *query_term, *key_term;    // [query, head], [key, head]
    const void *bias;                     // [edge, bias_heads]
    const void *edge_query, *edge_data;   // [query, head, edge_dim], [edge, edge_dim]
    const void *sum_data;                 // [edge, sum_dim]
    // [head, dim], [pair_dim, head, dim], and [edge, pair_dim] or, without a map, [edge, head, dim]
    const void *pair_weight, *pair_map, *pair_data;

    void *out, *edge_sum, *weights;  // [query, head, value_dim or sum_dim], [edge, head]
    void *stat;                      // [query, head]: log-sum-exp, or the sum that divides
    void *out_rest;                  // as `out`: what that was rounded by, for the backward; or null

    const void *grad_out, *grad_edge_sum, *grad_weights;
    void *grad_query, *grad_key, *grad_value, *grad_query_term, *grad_key_term, *grad_bias;
    void *grad_edge_query, *grad_edge_data, *grad_sum_data;
    void *grad_pair_weight, *grad_pair_map, *grad_pair_data;
} gf_attention;

// Softmax attention of each query to all keys of its example, or to those up to its own place, or to
// those of a mask. A head of keys and values serves as many of queries as there are more of these.
// With `grad_out` it is the backward, which writes the gradients with all heads of a token side by
// side. Strides count numbers; the numbers of a head stand side by side.
typedef struct {
    int64_t num_examples, heads, kv_heads, dim, value_dim, dtype, causal, threads;
    double scale, dropout;
    uint64_t seed;
    int64_t query_stride, query_head, key_stride, key_head, value_stride, value_head;
    int64_t grad_stride, grad_head, mask_example, mask_row;
    const int64_t *query_ptr, *key_ptr;  // offsets of the tokens of each example
    const uint8_t *mask;                 // a byte a pair, or null where all are edges
    const void *query, *key, *value;     // [token, head, dim or value_dim]
    void *out;                           // [query, head, value_dim]
    void *log_sum;                       // [query, head], or null: infinite where no key is heard
    const void *grad_out;
    void *grad_query, *grad_key, *grad_value;
} gf_tiles;

// `size` entries of `x`, which may be `out`, each zero with the probability `dropout`, by the seed and
// its place, and divided by the probability of being kept otherwise.
typedef struct {
    int64_t size, dtype, threads;
    double dropout;
    uint64_t seed;
    const void *x;
    void *out;
} gf_dropout;

// Pairs of coordinates, half the (even) width apart, turned by the angle of their token and pair, or
// back. All heads of a token stand side by side, with `stride` numbers from a token to the next in
// `x`. Cosine and sine are double where `x` is, float elsewhere.
typedef struct {
    int64_t num_tokens, heads, width, stride, back, dtype, threads;
    const void *cosine, *sine;  // [token, width / 2]
    const void *x;              // [token, head, width]
    void *out;                  // the same, side by side
} gf_turns;

// Of each row of `table` the `count` largest entries, which are at most `columns`, in falling order
// and the first of equal ones in front, and the logarithm of the sum of the exponentials of all. The
// latter and `values` are double where the table is, float elsewhere.
typedef struct {
    int64_t rows, columns, count, dtype, threads;
    const void *table;   // [row, column]
    void *values;        // [row, count]
    int64_t *indices;    // [row, count]
    void *log_sums;      // [row]
} gf_best;

// By both a caller sees that it speaks of the same fields: GF_INTERFACE grows when one changes.
GF_API int64_t gf_interface(void);
GF_API int64_t gf_attention_size(void);

// The instruction set in use, and whether the machine has the one named ("avx512", "avx2",
// "portable"). Another one is chosen by name, for tests; the best there is otherwise.
GF_API const char *gf_instruction_set(void);
GF_API int gf_has_instruction_set(const char *name);
GF_API int gf_use_instruction_set(const char *name);

GF_API int gf_forward(const gf_attention *attention);
GF_API int gf_backward(const gf_attention *attention);
GF_API int gf_run_tiles(const gf_tiles *tiles);
GF_API int gf_drop(const gf_dropout *dropout);
GF_API int gf_turn(const gf_turns *turns);
GF_API int gf_find_best(const gf_best *best);

// Takes the threads of an OpenMP runtime that the process has, by its GOMP_parallel; our own where
// it is null.
GF_API void gf_use_team(void (*start)(void (*)(void *), void *, unsigned, unsigned));

// Asks for large pages in memory that nobody wrote yet: a fresh tensor costs a fault a page.
GF_API void gf_expect_writes(void *data, int64_t bytes);

#ifdef __cplusplus
}
#endif
