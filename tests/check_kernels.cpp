// The kernels against plain loops over edges, in memory of exact size and, in the backward, in small
// blocks of queries: built with sanitizers by
//   cmake -S graphformer/csrc -B build/checks -DGRAPHFORMER_CHECKS=ON && cmake --build build/checks
#include <algorithm>

#include "check_kernels.h"

namespace {

struct Graph {
    int64_t queries, keys;
    std::vector<int32_t> ptr, index, key_ptr, key_index, key_place;
};

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

// What is given and asked for: all; little, with the rest null; or all, whose numbers are not
// compared, for weights that are divided by sums near zero, and for scores alone.
enum Kind { ALL, LITTLE, UNCOMPARED };

constexpr double SLOPE = 0.2, CAP = 3;

struct Case {
    int64_t heads, dim, value_dim, edge_dim, sum_dim, pair_dim, dtype, pair, pointwise, normalize;
    int64_t threads;
    int64_t between;  // numbers of others that stand between the rows of query, key and value
    double dropout;
    Kind kind;

    int64_t stride(int64_t width) const { return heads * width + between; }
    // Behind the last row nothing stands.
    int64_t size(int64_t tokens, int64_t width) const { return tokens * stride(width) - between; }
    // By a step over one the slopes are off.
    bool has_kink() const { return pair == GF_PAIR_LEAKY_RELU || pointwise == GF_LEAKY_RELU; }
};

double leaky(double x) { return x > 0 ? x : SLOPE * x; }
double pairwise(const Case &c, double u) { return c.pair == GF_PAIR_TANH ? std::tanh(u) : leaky(u); }
double shaped(const Case &c, double score) {
    if (c.pointwise == GF_LEAKY_RELU) return leaky(score);
    return c.pointwise == GF_SOFT_CAP ? CAP * std::tanh(score / CAP) : score;
}

struct Tensors {
    Array query, key, value, query_term, key_term, bias, edge_query, edge_data, sum_data;
    Array pair_weight, pair_map, pair_data, out, rest, edge_sum, weights, stat;
    Array grad_out, grad_sum, grad_weights;
    Numbers kept;  // what dropout multiplies the weights with
};

// What the data of an edge add to the sum of its pair, at a place of [head, dim].
double pair_part(const Case &c, const Tensors &t, int64_t edge, int64_t at) {
    int64_t size = c.heads * c.dim;
    if (!c.pair_dim) return t.pair_data.exact[edge * size + at];
    double sum = 0;
    for (int64_t d = 0; d < c.pair_dim; ++d)
        sum += t.pair_data.exact[edge * c.pair_dim + d] * t.pair_map.exact[d * size + at];
    return sum;
}

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
                    double q = t.query.exact[i * c.stride(D) + h * D + d];
                    double k = t.key.exact[j * c.stride(D) + h * D + d];
                    score += c.pair == GF_PRODUCT
                                 ? SCALE * q * k
                                 : t.pair_weight.exact[h * D + d]
                                       * pairwise(c, q + k + pair_part(c, t, e, h * D + d));
                }
                for (int64_t d = 0; d < c.edge_dim; ++d)
                    score += t.edge_query.exact[(i * H + h) * c.edge_dim + d]
                           * t.edge_data.exact[e * c.edge_dim + d];
                z[n - first] = shaped(c, score);
                most = std::max(most, z[n - first]);
            }
            for (double &x : z) {
                if (c.normalize == GF_SOFTMAX) x = std::exp(x - most);
                norm += x;
            }
            if (c.normalize == GF_NONE || norm == 0) norm = 1;
            for (int64_t n = first; n < last; ++n) {
                int64_t j = g.index[n], e = n;
                double w = z[n - first] / norm * t.kept[e * H + h];
                total += w * t.grad_weights.exact[e * H + h];
                for (int64_t d = 0; d < V; ++d) {
                    double more = w * t.value.exact[j * c.stride(V) + h * V + d];
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

// Which weights are kept, as those that came say; about as many as dropout leaves.
bool find_kept(const Case &c, Tensors &t, int64_t dtype) {
    double zeros = 0, size = double(t.kept.size());
    t.weights.read(dtype);
    for (size_t n = 0; n < t.kept.size(); ++n) {
        t.kept[n] = t.weights.exact[n] == 0 ? 0 : 1 / (1 - c.dropout);
        zeros += t.kept[n] == 0;
    }
    return size < 1000 || close("dropped", zeros / size, c.dropout, 1, 0.05);
}

// Whether what stands between rows is as it was; it is zero from now on.
bool clear_between(Array &gradient, const Array &untouched, int64_t width, int64_t between) {
    bool right = true;
    for (size_t i = 0; i < gradient.exact.size(); ++i) {
        if (!width || int64_t(i) % (width + between) < width) continue;
        right &= close("between rows", gradient.exact[i], untouched.exact[i], 0, 0);
        gradient.exact[i] = 0;
    }
    return right;
}

bool check(const Case &c, const Graph &g) {
    int64_t H = c.heads, E = int64_t(g.index.size()), N = g.queries, M = g.keys;
    int64_t T = c.dtype, A = T == GF_FLOAT64 ? GF_FLOAT64 : GF_FLOAT32;
    bool pair = c.pair != GF_PRODUCT;
    Tensors t;
    t.query = Array(c.size(N, c.dim), T), t.key = Array(c.size(M, c.dim), T);
    t.value = Array(c.size(M, c.value_dim), T), t.query_term = Array(N * H, A);
    t.key_term = Array(M * H, A), t.bias = Array(E * H, A);
    t.edge_query = Array(N * H * c.edge_dim, A), t.edge_data = Array(E * c.edge_dim, A);
    t.sum_data = Array(E * c.sum_dim, A), t.pair_weight = Array(pair ? H * c.dim : 0, A);
    t.pair_map = Array(c.pair_dim * H * c.dim, A);
    t.pair_data = Array(!pair ? 0 : E * (c.pair_dim ? c.pair_dim : H * c.dim), A);
    t.out = Array(N * H * c.value_dim, T), t.rest = Array(N * H * c.value_dim, T);
    t.edge_sum = Array(N * H * c.sum_dim, A), t.weights = Array(E * H, A), t.stat = Array(N * H, A);
    t.grad_out = Array(N * H * c.value_dim, T), t.grad_sum = Array(N * H * c.sum_dim, A);
    t.grad_weights = Array(E * H, A), t.kept = Numbers(E * H, 1.0);

    if (c.kind == LITTLE)
        for (Array *each : {&t.query_term, &t.bias, &t.edge_query, &t.sum_data, &t.grad_weights})
            for (double &x : each->exact) x = 0;

    gf_attention a{};
    a.num_queries = N, a.num_keys = M, a.num_edges = E, a.heads = H, a.dim = c.dim;
    a.value_dim = c.value_dim, a.edge_dim = c.edge_dim, a.sum_dim = c.sum_dim, a.bias_heads = c.kind == UNCOMPARED ? 1 : H;
    a.pair_dim = c.pair_dim;
    a.query_stride = a.key_stride = a.grad_query_stride = a.grad_key_stride = c.stride(c.dim);
    a.value_stride = a.grad_value_stride = c.stride(c.value_dim);
    a.dtype = T, a.pair = c.pair, a.normalize = c.normalize, a.threads = c.threads;
    a.pointwise = c.pointwise, a.constant = c.pointwise == GF_SOFT_CAP ? CAP : SLOPE;
    a.dropout = c.dropout, a.seed = 7;
    a.ptr = g.ptr.data(), a.index = g.index.data(), a.scale = pair ? 1 : SCALE;
    a.key_ptr = g.key_ptr.data(), a.key_index = g.key_index.data();
    a.key_place = g.key_place.data();
    a.query = t.query.data(), a.key = t.key.data(), a.value = t.value.data();
    a.query_term = t.query_term.data(), a.key_term = t.key_term.data(), a.bias = t.bias.data();
    a.edge_query = t.edge_query.data(), a.edge_data = t.edge_data.data();
    a.sum_data = t.sum_data.data();
    a.pair_weight = t.pair_weight.data(), a.pair_map = t.pair_map.data();
    a.pair_data = t.pair_data.data();
    a.out = t.out.data(), a.edge_sum = t.edge_sum.data(), a.weights = t.weights.data();
    a.stat = t.stat.data(), a.out_rest = T == GF_BFLOAT16 ? t.rest.data() : nullptr;
    if (c.kind == LITTLE) {
        a.query_term = a.bias = a.edge_query = a.edge_data = a.sum_data = nullptr;
        a.edge_sum = a.weights = a.out_rest = nullptr;
        a.edge_dim = a.sum_dim = 0;
    }
    if (c.normalize == GF_SCORES) a.value = a.sum_data = a.out = a.out_rest = a.edge_sum = nullptr;
    if (gf_forward(&a) != GF_OK) return false;

    Numbers expected(N * H * c.value_dim, 0.0);
    double tolerance = T == GF_FLOAT64 ? 1e-10 : T == GF_FLOAT32 ? 1e-4 : 3e-2;
    bool right = !c.dropout || find_kept(c, t, A);
    objective(c, g, t, &expected);
    t.out.read(T), t.rest.read(T);
    for (size_t i = 0; i < expected.size() && right && c.kind != UNCOMPARED; ++i) {
        int64_t query = int64_t(i) / (H * c.value_dim), edges = g.ptr[query + 1] - g.ptr[query];
        // A sum that nothing divides rounds as its terms do, which may cancel out.
        double scale = 1 + std::fabs(expected[i]) + (c.normalize == GF_NONE ? std::sqrt(edges) / 10 : 0);
        right = close("out", t.out.exact[i], expected[i], scale, tolerance);
        if (a.out_rest)
            right &= close("out, exact", t.out.exact[i] + t.rest.exact[i], expected[i], scale, 1e-3);
    }

    struct Slope {
        const char *name;
        Array *input;
        void **place;
        int64_t dtype;
        int64_t width;  // of a row that others may stand behind
    };
    std::vector<Slope> slopes = {
        {"query", &t.query, &a.grad_query, T, H * c.dim},
        {"key", &t.key, &a.grad_key, T, H * c.dim},
        {"value", &t.value, &a.grad_value, T, H * c.value_dim},
        {"query term", &t.query_term, &a.grad_query_term, A, 0},
        {"key term", &t.key_term, &a.grad_key_term, A, 0},
        {"bias", &t.bias, &a.grad_bias, A, 0},
        {"edge query", &t.edge_query, &a.grad_edge_query, A, 0},
        {"edge data", &t.edge_data, &a.grad_edge_data, A, 0},
        {"sum data", &t.sum_data, &a.grad_sum_data, A, 0},
        {"pair weight", &t.pair_weight, &a.grad_pair_weight, A, 0},
        {"pair map", &t.pair_map, &a.grad_pair_map, A, 0},
        {"pair data", &t.pair_data, &a.grad_pair_data, A, 0},
    };
    std::vector<Array> gradients(slopes.size()), untouched(slopes.size());
    for (size_t s = 0; s < slopes.size(); ++s) {
        gradients[s] = Array(int64_t(slopes[s].input->exact.size()), slopes[s].dtype);
        untouched[s] = gradients[s];
        *slopes[s].place = gradients[s].data();
    }
    a.grad_out = t.grad_out.data(), a.grad_edge_sum = t.grad_sum.data();
    a.grad_weights = t.grad_weights.data();
    if (c.kind == LITTLE) {
        a.grad_edge_sum = a.grad_weights = nullptr;
        for (size_t s = 0; s < slopes.size(); ++s)
            if (slopes[s].input != &t.key && slopes[s].input != &t.pair_weight) {
                *slopes[s].place = nullptr;
                slopes[s].input = nullptr;
            }
    }
    if (c.normalize == GF_SCORES)
        a.grad_out = a.grad_edge_sum = nullptr, a.grad_value = a.grad_sum_data = nullptr;
    if (gf_backward(&a) != GF_OK) return false;
    if (c.kind == UNCOMPARED) return true;
    // Slopes along one random direction of each input, by differences; small ones where a leaky
    // ReLU has a kink.
    double step = c.has_kink() ? 1e-7 : 1e-6;
    for (size_t s = 0; s < slopes.size(); ++s) {
        if (!slopes[s].input || slopes[s].input->exact.empty()) continue;
        Numbers &x = slopes[s].input->exact;
        gradients[s].read(slopes[s].dtype);
        right &= clear_between(gradients[s], untouched[s], slopes[s].width, c.between);
        Numbers before = x, direction(x.size());
        std::normal_distribution<double> normal;
        double got = 0, size = 0;
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
        std::printf("  %s: heads %d, dim %d, value %d, edge %d, dtype %d, pair %d of %d, pointwise %d, "
                    "normalize %d, between %d, dropout %g\n",
                    gf_instruction_set(), int(H), int(c.dim), int(c.value_dim), int(c.edge_dim),
                    int(T), int(c.pair), int(c.pair_dim), int(c.pointwise), int(c.normalize),
                    int(c.between), c.dropout);
    return right;
}

// A number below `count`.
int64_t draw(int64_t count) { return generator() % count; }

}  // namespace

int main() {
    Count count;
    for (const char *set : {"portable", "avx2", "avx512"}) {
        if (!gf_has_instruction_set(set)) continue;
        gf_use_instruction_set(set);
        check_dense(count);
        Graph small = make_graph(7, 5, 30), hubs = make_graph(40, 60, 5000), none = make_graph(9, 9, 0);
        for (int64_t dtype : {GF_FLOAT32, GF_FLOAT64, GF_BFLOAT16})
            for (int64_t pair : {GF_PRODUCT, GF_PAIR_LEAKY_RELU, GF_PAIR_TANH})
                for (int64_t normalize : {GF_SOFTMAX, GF_SUM, GF_NONE, GF_SCORES})
                    for (int64_t dim : {1, 3, 8, 16, 21, 32, 64, 128, 130}) {
                        int64_t heads = dim > 32 ? 1 + dim % 3 : 1 + (dim * 7 + pair) % 9;
                        // Data of a pair as they are, or mapped.
                        int64_t pair_dim = pair && dim % 2 == (normalize == GF_NONE) ? 1 + dim % 5 : 0;
                        int64_t pointwise = pair ? int64_t(GF_IDENTITY) : draw(3), between = 5 * draw(2);
                        double dropout = normalize != GF_SCORES && !draw(3) ? 0.3 : 0;
                        Case c{heads, dim, (dim * 3) % 131, dim % 5, 1 + dim % 3, pair_dim, dtype, pair,
                               pointwise, normalize, 1 + dim % 3, between, dropout, ALL};
                        if (normalize == GF_SUM || normalize == GF_SCORES) c.kind = UNCOMPARED;
                        for (const Graph *g : {&small, &hubs, &none}) {
                            // Of so many leaky ReLUs some would pass their kink in a step.
                            if (g == &hubs && c.has_kink()) continue;
                            if (g == &hubs && dim > 16 && (dtype != GF_FLOAT32 || pair)) continue;
                            count.add(check(c, *g));
                            if (c.kind == UNCOMPARED || g == &hubs) continue;
                            Case little = c;
                            little.kind = LITTLE, little.dropout = 0;
                            count.add(check(little, *g));
                        }
                    }
        // GAT: of each score a term of the query and one of the key, and no product.
        for (int64_t dtype : {GF_FLOAT32, GF_FLOAT64, GF_BFLOAT16})
            for (double dropout : {0.0, 0.3})
                count.add(check({4, 0, 8, 0, 1, 0, dtype, GF_PRODUCT, GF_LEAKY_RELU, GF_SOFTMAX, 2, 0,
                                 dropout, ALL}, small));
    }
    std::printf("%d of %d wrong\n", count.wrong, count.all);
    return count.wrong != 0;
}
