// Dropout, rotary positions, the largest entries of rows and the attention of short examples, against
// plain loops.
#include <algorithm>
#include <numeric>
#include <utility>

#include "check_kernels.h"

namespace {

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

// Turned by angles, from rows with numbers between them, and back to where they were.
bool check_turns(int64_t dtype, int64_t tokens, int64_t heads, int64_t width) {
    int64_t precise = dtype == GF_FLOAT64 ? GF_FLOAT64 : GF_FLOAT32;
    int64_t half = width / 2, stride = heads * width + 3, size = tokens * heads * width;
    Array x(tokens * stride, dtype), out(size, dtype), again(size, dtype);
    Array cosine(tokens * half, precise), sine(tokens * half, precise);
    for (int64_t i = 0; i < tokens * half; ++i) {
        cosine.write(i, precise, std::cos(0.1 * i)), sine.write(i, precise, std::sin(0.1 * i));
    }
    gf_turns t{tokens, heads, width, stride, 0, dtype, 2, cosine.data(), sine.data(), x.data(), out.data()};
    if (gf_turn(&t) != GF_OK) return false;
    t.x = out.data(), t.out = again.data(), t.stride = heads * width, t.back = 1;
    if (gf_turn(&t) != GF_OK) return false;
    out.read(dtype), again.read(dtype);
    bool right = true;
    double loose = dtype == GF_BFLOAT16 ? 2e-2 : 1e-5;
    for (int64_t i = 0; i < size; ++i) {
        int64_t token = i / (heads * width), head = i / width % heads, place = i % width;
        int64_t pair = place % half, upper = place / half;
        const double *of_head = &x.exact[token * stride + head * width];
        double a = of_head[pair], b = of_head[pair + half], angle = 0.1 * (token * half + pair);
        double wanted = upper ? a * std::sin(angle) + b * std::cos(angle)
                              : a * std::cos(angle) - b * std::sin(angle);
        right &= std::abs(out.exact[i] - wanted) <= loose;
        right &= std::abs(again.exact[i] - of_head[place]) <= loose;
    }
    if (!right)
        std::printf("  %s: turns of %d x %d x %d, dtype %d\n", gf_instruction_set(), int(tokens),
                    int(heads), int(width), int(dtype));
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
    std::vector<int64_t> queries{0, 3, 3, 73, 74, 85}, keys{0, 5, 7, 77, 77, 91};
    if (c.causal) keys = queries;
    int64_t num_queries = queries.back(), num_keys = keys.back(), widest = 80;
    std::vector<uint8_t> mask(80 * widest);
    for (auto &each : mask) each = generator() % 4 != 0;
    for (int64_t column = 0; column < widest; ++column) mask[2 * widest + column] = 0;
    // Keys that no query of a short example hears.
    for (int64_t row = 0; row < 16; ++row) mask[row * widest + 1] = mask[row * widest + 4] = 0;
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

void check_dense(Count &count) {
    for (int64_t dtype : {GF_FLOAT32, GF_FLOAT64, GF_BFLOAT16}) {
        for (int64_t size : {0, 1, 7, 16, 21, 40000}) count.add(check_dropout(dtype, size));
        for (int64_t width : {2, 6, 16, 32, 42, 130})
            for (int64_t tokens : {0, 1, 301}) count.add(check_turns(dtype, tokens, 3, width));
        for (int64_t columns : {1, 5, 16, 130, 1000, 1029})
            for (int64_t most : {1, 10, 64})
                count.add(check_best(dtype, 7, columns, most < columns ? most : columns));
        for (int64_t dim : {1, 3, 8, 21, 32, 130})
            for (int64_t kind : {0, 1, 2})
                for (double dropout : {0.0, 0.3})
                    count.add(check_tiles({4, kind ? 2 : 4, dim, dim * 3 % 64 + 1, dtype, kind == 1,
                                           kind == 2, dropout}));
    }
}
