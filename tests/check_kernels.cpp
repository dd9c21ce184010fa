// The kernels against plain loops over edges, in memory of exact size: built with sanitizers by
//   cmake -S graphformer/csrc -B build/checks -DGRAPHFORMER_CHECKS=ON && cmake --build build/checks
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "attention.h"

namespace {

using Numbers = std::vector<double>;
constexpr double SCALE = 0.7;

struct Graph {
    int64_t queries, keys;
    std::vector<int32_t> ptr, index, key_ptr, key_index, key_place;
};

std::mt19937 generator(0);

// Random edges with a query and a key that have most of them, and some that have none.
Graph make_graph(int64_t queries, int64_t keys, int64_t edges) {
    Graph g{queries, keys, std::vector<int32_t>(queries + 1), {}, std::vector<int32_t>(keys + 1), {}, {}};
    std::vector<std::vector<int32_t>> by_query(queries), by_key(keys);
    std::vector<int32_t> query_of;
    for (int64_t n = 0; n < edges; ++n) {
        int32_t query = generator() % 3 ? generator() % queries : queries / 2;
        int32_t key = generator() % 3 ? generator() % keys : keys / 2;
        if (query % 5 == 3) query = 0;
        by_query[query].push_back(key);
    }
    for (int64_t query = 0; query < queries; ++query) {
        for (int32_t key : by_query[query]) {
            by_key[key].push_back(int32_t(g.index.size()));
            g.index.push_back(key);
            query_of.push_back(int32_t(query));
        }
        g.ptr[query + 1] = int32_t(g.index.size());
    }
    for (int64_t key = 0; key < keys; ++key) {
        for (int32_t place : by_key[key]) {
            g.key_index.push_back(query_of[place]);
            g.key_place.push_back(place);
        }
        g.key_ptr[key + 1] = int32_t(g.key_place.size());
    }
    return g;
}

// Numbers in their own type, and as the kernels see them.
struct Array {
    Numbers exact;
    std::vector<char> bytes;

    Array() = default;
    Array(int64_t size, int64_t dtype) {
        std::normal_distribution<double> normal(0, 0.5);
        bytes.resize(size * width(dtype));
        for (int64_t i = 0; i < size; ++i) write(i, dtype, normal(generator));
        read(dtype);
    }
    static int64_t width(int64_t dtype) { return dtype == GF_FLOAT64 ? 8 : dtype == GF_FLOAT32 ? 4 : 2; }
    void write(int64_t i, int64_t dtype, double x) {
        float narrow = float(x);
        if (dtype == GF_FLOAT64) std::memcpy(&bytes[8 * i], &x, 8);
        else if (dtype == GF_FLOAT32) std::memcpy(&bytes[4 * i], &narrow, 4);
        else std::memcpy(&bytes[2 * i], reinterpret_cast<char *>(&narrow) + 2, 2);
    }
    void read(int64_t dtype) {
        exact.resize(bytes.size() / width(dtype));
        for (size_t i = 0; i < exact.size(); ++i) {
            float narrow = 0;
            if (dtype == GF_FLOAT64) std::memcpy(&exact[i], &bytes[8 * i], 8);
            else if (dtype == GF_FLOAT32) std::memcpy(&narrow, &bytes[4 * i], 4);
            else std::memcpy(reinterpret_cast<char *>(&narrow) + 2, &bytes[2 * i], 2);
            if (dtype != GF_FLOAT64) exact[i] = narrow;
        }
    }
    void *data() { return bytes.empty() ? nullptr : bytes.data(); }
};

struct Case {
    int64_t heads, dim, value_dim, edge_dim, sum_dim, dtype, pair, normalize, threads;
};

double pointwise(const Case &c, double u) {
    return c.pair == GF_PAIR_TANH ? std::tanh(u) : u > 0 ? u : 0.2 * u;
}

struct Tensors {
    Array query, key, value, query_term, key_term, bias, edge_query, edge_data, sum_data;
    Array pair_weight, pair_data, out, edge_sum, weights, stat, grad_out, grad_sum, grad_weights;
    std::vector<Array> gradients;
};

// <outputs, gradients from outside>, whose gradients the backward gives.
double objective(const Case &c, const Graph &g, const Tensors &t, Numbers *out) {
    int64_t H = c.heads, D = c.dim, V = c.value_dim;
    double total = 0;
    for (int64_t i = 0; i < g.queries; ++i)
        for (int64_t h = 0; h < H; ++h) {
            int64_t first = g.ptr[i], last = g.ptr[i + 1];
            Numbers z(last - first);
            double most = -1e300, norm = 0;
            for (int64_t n = first; n < last; ++n) {
                int64_t j = g.index[n], e = n;
                double score = t.query_term.exact[i * H + h] + t.key_term.exact[j * H + h]
                             + t.bias.exact[e * H + h];
                for (int64_t d = 0; d < D; ++d) {
                    double q = t.query.exact[(i * H + h) * D + d], k = t.key.exact[(j * H + h) * D + d];
                    score += c.pair == GF_PRODUCT
                                 ? SCALE * q * k
                                 : t.pair_weight.exact[h * D + d]
                                       * pointwise(c, q + k + t.pair_data.exact[(e * H + h) * D + d]);
                }
                for (int64_t d = 0; d < c.edge_dim; ++d)
                    score += t.edge_query.exact[(i * H + h) * c.edge_dim + d]
                           * t.edge_data.exact[e * c.edge_dim + d];
                if (c.pair == GF_PRODUCT) score = 3 * std::tanh(score / 3);
                z[n - first] = score;
                most = std::max(most, score);
            }
            for (double &x : z) {
                if (c.normalize == GF_SOFTMAX) x = std::exp(x - most);
                norm += x;
            }
            if (c.normalize == GF_NONE || norm == 0) norm = 1;
            for (int64_t n = first; n < last; ++n) {
                int64_t j = g.index[n], e = n;
                double w = z[n - first] / norm;
                total += w * t.grad_weights.exact[e * H + h];
                for (int64_t d = 0; d < V; ++d) {
                    double more = w * t.value.exact[(j * H + h) * V + d];
                    total += more * t.grad_out.exact[(i * H + h) * V + d];
                    if (out) (*out)[(i * H + h) * V + d] += more;
                }
                for (int64_t d = 0; d < c.sum_dim; ++d)
                    total += w * t.sum_data.exact[e * c.sum_dim + d]
                           * t.grad_sum.exact[(i * H + h) * c.sum_dim + d];
            }
        }
    return total;
}

bool close(const char *what, double got, double expected, double scale, double tolerance) {
    if (std::fabs(got - expected) <= tolerance * scale) return true;
    std::printf("%s: %g instead of %g\n", what, got, expected);
    return false;
}

bool check(const Case &c, const Graph &g) {
    int64_t H = c.heads, E = int64_t(g.index.size()), N = g.queries, M = g.keys;
    int64_t T = c.dtype, A = T == GF_FLOAT64 ? GF_FLOAT64 : GF_FLOAT32;
    bool pair = c.pair != GF_PRODUCT;
    Tensors t;
    t.query = Array(N * H * c.dim, T), t.key = Array(M * H * c.dim, T);
    t.value = Array(M * H * c.value_dim, T), t.query_term = Array(N * H, A);
    t.key_term = Array(M * H, A), t.bias = Array(E * H, A);
    t.edge_query = Array(N * H * c.edge_dim, A), t.edge_data = Array(E * c.edge_dim, A);
    t.sum_data = Array(E * c.sum_dim, A), t.pair_weight = Array(pair ? H * c.dim : 0, A);
    t.pair_data = Array(pair ? E * H * c.dim : 0, A), t.out = Array(N * H * c.value_dim, T);
    t.edge_sum = Array(N * H * c.sum_dim, A), t.weights = Array(E * H, A), t.stat = Array(N * H, A);
    t.grad_out = Array(N * H * c.value_dim, T), t.grad_sum = Array(N * H * c.sum_dim, A);
    t.grad_weights = Array(E * H, A);

    gf_attention a{};
    a.num_queries = N, a.num_keys = M, a.num_edges = E, a.heads = H, a.dim = c.dim;
    a.value_dim = c.value_dim, a.edge_dim = c.edge_dim, a.sum_dim = c.sum_dim, a.bias_heads = H;
    a.dtype = T, a.pair = c.pair, a.normalize = c.normalize, a.threads = c.threads;
    a.pointwise = pair ? GF_IDENTITY : GF_SOFT_CAP, a.constant = pair ? 0.2 : 3;
    a.ptr = g.ptr.data(), a.index = g.index.data(), a.scale = pair ? 1 : SCALE;
    a.key_ptr = g.key_ptr.data(), a.key_index = g.key_index.data();
    a.key_place = g.key_place.data();
    a.query = t.query.data(), a.key = t.key.data(), a.value = t.value.data();
    a.query_term = t.query_term.data(), a.key_term = t.key_term.data(), a.bias = t.bias.data();
    a.edge_query = t.edge_query.data(), a.edge_data = t.edge_data.data();
    a.sum_data = t.sum_data.data();
    a.pair_weight = t.pair_weight.data(), a.pair_data = t.pair_data.data();
    a.out = t.out.data(), a.edge_sum = t.edge_sum.data(), a.weights = t.weights.data();
    a.stat = t.stat.data();
    if (gf_forward(&a) != GF_OK) return false;

    Numbers expected(N * H * c.value_dim, 0.0);
    double tolerance = T == GF_FLOAT64 ? 1e-10 : T == GF_FLOAT32 ? 1e-4 : 3e-2;
    objective(c, g, t, &expected);
    t.out.read(T);
    bool right = true;
    for (size_t i = 0; i < expected.size() && right; ++i)
        right = close("out", t.out.exact[i], expected[i], 1 + std::fabs(expected[i]), tolerance);

    struct Slope {
        const char *name;
        Array *input;
        void **place;
        int64_t dtype;
    };
    std::vector<Slope> slopes = {
        {"query", &t.query, &a.grad_query, T}, {"key", &t.key, &a.grad_key, T},
        {"value", &t.value, &a.grad_value, T}, {"query term", &t.query_term, &a.grad_query_term, A},
        {"key term", &t.key_term, &a.grad_key_term, A}, {"bias", &t.bias, &a.grad_bias, A},
        {"edge query", &t.edge_query, &a.grad_edge_query, A},
        {"edge data", &t.edge_data, &a.grad_edge_data, A},
        {"sum data", &t.sum_data, &a.grad_sum_data, A},
        {"pair weight", &t.pair_weight, &a.grad_pair_weight, A},
        {"pair data", &t.pair_data, &a.grad_pair_data, A},
    };
    std::vector<Array> gradients(slopes.size());
    for (size_t s = 0; s < slopes.size(); ++s) {
        gradients[s] = Array(int64_t(slopes[s].input->exact.size()), slopes[s].dtype);
        *slopes[s].place = gradients[s].data();
    }
    a.grad_out = t.grad_out.data(), a.grad_edge_sum = t.grad_sum.data();
    a.grad_weights = t.grad_weights.data();
    if (gf_backward(&a) != GF_OK) return false;
    // Slopes along one random direction of each input, by differences.
    for (size_t s = 0; s < slopes.size(); ++s) {
        Numbers &x = slopes[s].input->exact;
        if (x.empty()) continue;
        gradients[s].read(slopes[s].dtype);
        Numbers before = x, direction(x.size());
        std::normal_distribution<double> normal;
        double got = 0, size = 0, step = 1e-6;
        for (size_t i = 0; i < x.size(); ++i) {
            direction[i] = normal(generator);
            got += direction[i] * gradients[s].exact[i];
            size += gradients[s].exact[i] * gradients[s].exact[i];
            x[i] = before[i] + step * direction[i];
        }
        double above = objective(c, g, t, nullptr);
        for (size_t i = 0; i < x.size(); ++i) x[i] = before[i] - step * direction[i];
        double below = objective(c, g, t, nullptr);
        x = before;
        double wanted = (above - below) / (2 * step);
        double loose = T == GF_FLOAT64 ? 1e-5 : T == GF_FLOAT32 ? 1e-3 : 1e-1;
        right &= close(slopes[s].name, got, wanted, 1 + std::sqrt(size), loose);
    }
    if (!right)
        std::printf("  %s: heads %d, dim %d, value %d, edge %d, dtype %d, pair %d, normalize %d\n",
                    gf_instruction_set(), int(H), int(c.dim), int(c.value_dim), int(c.edge_dim),
                    int(T), int(c.pair), int(c.normalize));
    return right;
}

// Entries are zero or scaled, at about their rate, and the same in place.
bool check_dropout(int64_t dtype, int64_t size) {
    Array x(size, dtype), out(size, dtype);
    gf_dropout d{size, dtype, 2, 0.25, 7, x.data(), out.data()};
    if (gf_drop(&d) != GF_OK) return false;
    out.read(dtype);
    bool right = true;
    int64_t zeros = 0;
    double loose = dtype == GF_BFLOAT16 ? 1e-2 : 1e-6;
    for (int64_t i = 0; i < size; ++i) {
        double wanted = out.exact[i] == 0 ? 0 : x.exact[i] / 0.75;
        zeros += out.exact[i] == 0;
        right &= std::abs(out.exact[i] - wanted) <= loose * (1 + std::abs(wanted));
    }
    right &= size < 1000 || std::abs(double(zeros) / size - 0.25) < 0.05;
    d.out = x.data();
    right &= gf_drop(&d) == GF_OK && x.bytes == out.bytes;
    if (!right)
        std::printf("  %s: dropout of %d, dtype %d\n", gf_instruction_set(), int(size), int(dtype));
    return right;
}

// The largest of each row, and the log-sum-exp.
bool check_best(int64_t dtype, int64_t rows, int64_t columns, int64_t count) {
    int64_t precise = dtype == GF_FLOAT64 ? GF_FLOAT64 : GF_FLOAT32;
    Array table(rows * columns, dtype), values(rows * count, precise), sums(rows, precise);
    std::vector<int64_t> indices(rows * count);
    gf_best b{rows, columns, count, dtype, 2, table.data(), values.data(), indices.data(), sums.data()};
    if (gf_find_best(&b) != GF_OK) return false;
    values.read(precise), sums.read(precise);
    bool right = true;
    for (int64_t row = 0; row < rows; ++row) {
        std::vector<int64_t> order(columns);
        std::iota(order.begin(), order.end(), 0);
        const double *x = &table.exact[row * columns];
        std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return x[i] > x[j]; });
        double sum = 0;
        for (int64_t column = 0; column < columns; ++column) sum += std::exp(x[column]);
        for (int64_t n = 0; n < count; ++n)
            right &= indices[row * count + n] == order[n] && values.exact[row * count + n] == x[order[n]];
        right &= std::abs(sums.exact[row] - std::log(sum)) < (precise == GF_FLOAT64 ? 1e-12 : 1e-5);
    }
    if (!right)
        std::printf("  %s: best %d of %d, dtype %d\n", gf_instruction_set(), int(count), int(columns),
                    int(dtype));
    return right;
}

struct TileCase {
    int64_t heads, kv_heads, dim, value_dim, dtype, causal, masked;
    double dropout;
};

// The weighted sum of values, of what a tile holds, in double precision; nothing without keys.
double tile_objective(const TileCase &c, const std::vector<int64_t> &queries,
                      const std::vector<int64_t> &keys, const std::vector<uint8_t> &mask,
                      int64_t widest, const Numbers &q, const Numbers &k, const Numbers &v,
                      const Numbers &outside, Numbers *out) {
    double total = 0;
    for (size_t e = 0; e + 1 < queries.size(); ++e)
        for (int64_t i = queries[e]; i < queries[e + 1]; ++i)
            for (int64_t h = 0; h < c.heads; ++h) {
                int64_t group = h * c.kv_heads / c.heads, row = i - queries[e];
                Numbers weights;
                double sum = 0;
                for (int64_t j = keys[e]; j < keys[e + 1]; ++j) {
                    int64_t column = j - keys[e];
                    bool edge = (!c.causal || column <= row) && (!c.masked || mask[row * widest + column]);
                    double score = 0;
                    for (int64_t d = 0; d < c.dim; ++d)
                        score += q[(i * c.heads + h) * c.dim + d] * k[(j * c.kv_heads + group) * c.dim + d];
                    weights.push_back(edge ? std::exp(SCALE * score) : 0);
                    sum += weights.back();
                }
                for (int64_t d = 0; d < c.value_dim; ++d) {
                    double x = 0;
                    for (size_t n = 0; n < weights.size() && sum > 0; ++n)
                        x += weights[n] / sum
                           * v[((keys[e] + int64_t(n)) * c.kv_heads + group) * c.value_dim + d];
                    int64_t place = (i * c.heads + h) * c.value_dim + d;
                    if (out) (*out)[place] = x;
                    total += x * outside[place];
                }
            }
    return total;
}

bool check_tiles(const TileCase &c) {
    std::vector<int64_t> queries{0, 3, 3, 73, 74}, keys{0, 5, 7, 77, 77};
    if (c.causal) keys = queries;
    int64_t num_queries = queries.back(), num_keys = keys.back(), widest = 80;
    std::vector<uint8_t> mask(80 * widest);
    for (auto &each : mask) each = generator() % 4 != 0;
    for (int64_t column = 0; column < widest; ++column) mask[2 * widest + column] = 0;
    Array q(num_queries * c.heads * c.dim, c.dtype), k(num_keys * c.kv_heads * c.dim, c.dtype);
    Array v(num_keys * c.kv_heads * c.value_dim, c.dtype);
    Array outside(num_queries * c.heads * c.value_dim, c.dtype), out = outside;
    Array grad_q = q, grad_k = k, grad_v = v;
    Array log_sum(num_queries * c.heads, c.dtype == GF_FLOAT64 ? GF_FLOAT64 : GF_FLOAT32);
    gf_tiles t{};
    t.num_examples = int64_t(queries.size()) - 1, t.heads = c.heads, t.kv_heads = c.kv_heads;
    t.dim = c.dim, t.value_dim = c.value_dim, t.dtype = c.dtype, t.causal = c.causal, t.threads = 2;
    t.scale = SCALE, t.dropout = c.dropout, t.seed = 5;
    t.query_stride = c.heads * c.dim, t.query_head = c.dim;
    t.key_stride = c.kv_heads * c.dim, t.key_head = c.dim;
    t.value_stride = c.kv_heads * c.value_dim, t.value_head = c.value_dim;
    t.grad_stride = c.heads * c.value_dim, t.grad_head = c.value_dim;
    t.mask_row = widest, t.mask = c.masked ? mask.data() : nullptr;
    t.query_ptr = queries.data(), t.key_ptr = keys.data();
    t.query = q.data(), t.key = k.data(), t.value = v.data();
    t.out = out.data(), t.log_sum = log_sum.data();
    if (gf_run_tiles(&t) != GF_OK) return false;
    t.grad_out = outside.data();
    t.grad_query = grad_q.data(), t.grad_key = grad_k.data(), t.grad_value = grad_v.data();
    if (gf_run_tiles(&t) != GF_OK) return false;
    // With dropout only the memory is looked at.
    if (c.dropout > 0) return true;
    out.read(c.dtype);
    Numbers wanted(out.exact.size());
    auto objective = [&](Numbers *to) {
        return tile_objective(c, queries, keys, mask, widest, q.exact, k.exact, v.exact,
                              outside.exact, to);
    };
    objective(&wanted);
    double loose = c.dtype == GF_FLOAT64 ? 1e-10 : c.dtype == GF_FLOAT32 ? 1e-4 : 5e-2;
    bool right = true;
    for (size_t i = 0; i < wanted.size(); ++i) right &= std::abs(out.exact[i] - wanted[i]) < loose;
    for (auto [x, grad] : {std::pair{&q, &grad_q}, {&k, &grad_k}, {&v, &grad_v}}) {
        grad->read(c.dtype);
        Numbers before = x->exact, direction(before.size());
        std::normal_distribution<double> normal;
        double got = 0, size = 0, step = 1e-6;
        for (size_t i = 0; i < before.size(); ++i) {
            direction[i] = normal(generator);
            got += direction[i] * grad->exact[i], size += grad->exact[i] * grad->exact[i];
            x->exact[i] = before[i] + step * direction[i];
        }
        double above = objective(nullptr);
        for (size_t i = 0; i < before.size(); ++i) x->exact[i] = before[i] - step * direction[i];
        double slope = (above - objective(nullptr)) / (2 * step);
        x->exact = before;
        double most = c.dtype == GF_FLOAT64 ? 1e-5 : c.dtype == GF_FLOAT32 ? 1e-3 : 1e-1;
        right &= close("tiles", got, slope, 1 + std::sqrt(size), most);
    }
    if (!right)
        std::printf("  %s: tiles of %d heads (%d), dim %d, value %d, dtype %d, causal %d, masked %d\n",
                    gf_instruction_set(), int(c.heads), int(c.kv_heads), int(c.dim), int(c.value_dim),
                    int(c.dtype), int(c.causal), int(c.masked));
    return right;
}

}  // namespace

int main() {
    int wrong = 0, count = 0;
    for (const char *set : {"portable", "avx2", "avx512"}) {
        if (!gf_has_instruction_set(set)) continue;
        gf_use_instruction_set(set);
        Graph small = make_graph(7, 5, 30), hubs = make_graph(40, 60, 5000), none = make_graph(9, 9, 0);
        for (int64_t dtype : {GF_FLOAT32, GF_FLOAT64, GF_BFLOAT16})
            for (int64_t size : {0, 1, 7, 16, 21, 40000}) wrong += !check_dropout(dtype, size), ++count;
        for (int64_t dtype : {GF_FLOAT32, GF_FLOAT64, GF_BFLOAT16})
            for (int64_t columns : {1, 5, 16, 130, 1000, 1029})
                for (int64_t most : {1, 10, 64}) {
                    wrong += !check_best(dtype, 7, columns, most < columns ? most : columns);
                    ++count;
                }
        for (int64_t dtype : {GF_FLOAT32, GF_FLOAT64, GF_BFLOAT16})
            for (int64_t dim : {1, 3, 8, 21, 32, 130})
                for (int64_t kind : {0, 1, 2}) {
                    TileCase tiles{4, kind ? 2 : 4, dim, dim * 3 % 64 + 1, dtype, kind == 1, kind == 2, 0};
                    wrong += !check_tiles(tiles), ++count;
                    tiles.dropout = 0.3;
                    wrong += !check_tiles(tiles), ++count;
                }
        for (int64_t dtype : {GF_FLOAT32, GF_FLOAT64, GF_BFLOAT16})
            for (int64_t pair : {GF_PRODUCT, GF_PAIR_LEAKY_RELU, GF_PAIR_TANH})
                for (int64_t normalize : {GF_SOFTMAX, GF_NONE})
                    for (int64_t dim : {1, 3, 8, 16, 21, 32, 64, 128, 130}) {
                        int64_t heads = dim > 32 ? 1 + dim % 3 : 1 + (dim * 7 + pair) % 9;
                        Case c{heads, dim, (dim * 3) % 131, dim % 5, 1 + dim % 3,
                               dtype, pair, normalize, 1 + dim % 3};
                        for (const Graph *g : {&small, &hubs, &none}) {
                            // Of so many leaky ReLUs some would pass their kink in a step.
                            if (g == &hubs && pair == GF_PAIR_LEAKY_RELU) continue;
                            if (g == &hubs && dim > 16 && (dtype != GF_FLOAT32 || pair)) continue;
                            wrong += !check(c, *g), ++count;
                        }
                    }
    }
    std::printf("%d of %d wrong\n", wrong, count);
    return wrong != 0;
}
