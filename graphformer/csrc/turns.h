// Rotary positions: pairs of coordinates are turned by the angle of their token and pair.
#pragma once

#include "attention.h"
#include "lanes.h"
#include "units.h"

namespace graphformer {
namespace {

template <class T> struct Turning {
    using A = precise<T>;
    static constexpr int L = WIDTH<A>;

    const gf_turns &t;
    const int64_t half, tokens_of_unit;

    explicit Turning(const gf_turns &t)
        : t(t), half(t.width / 2), tokens_of_unit((1 << 14) / (t.heads * t.width + 1) + 1) {}

    void run_unit(int64_t unit) const {
        int64_t first = unit * tokens_of_unit, last = first + tokens_of_unit;
        for (int64_t token = first; token < last && token < t.num_tokens; ++token) run_token(token);
    }

    void run_token(int64_t token) const {
        const A *cosine = static_cast<const A *>(t.cosine) + token * half;
        const A *sine = static_cast<const A *>(t.sine) + token * half;
        const T *x = static_cast<const T *>(t.x) + token * t.stride;
        T *out = static_cast<T *>(t.out) + token * t.heads * t.width;
        int64_t pair = 0;
        for (; pair + L <= half; pair += L) {
            vec<A, L> c = load<A, L>(cosine + pair), s = load<A, L>(sine + pair);
            s = t.back ? -s : s;
            for (int64_t at = pair; at < t.heads * t.width; at += t.width) {
                vec<A, L> a = load<A, L>(x + at), b = load<A, L>(x + at + half);
                store<A, L>(out + at, a * c - b * s);
                store<A, L>(out + at + half, a * s + b * c);
            }
        }
        if (pair == half) return;
        int rest = int(half - pair);
        vec<A, L> c = load_part<A, L>(cosine + pair, rest), s = load_part<A, L>(sine + pair, rest);
        s = t.back ? -s : s;
        for (int64_t at = pair; at < t.heads * t.width; at += t.width) {
            vec<A, L> a = load_part<A, L>(x + at, rest), b = load_part<A, L>(x + at + half, rest);
            store_part<T, A, L>(out + at, a * c - b * s, rest);
            store_part<T, A, L>(out + at + half, a * s + b * c, rest);
        }
    }
};

template <class T> int run_turns(const gf_turns &t, Parallel parallel) {
    Turning<T> turning(t);
    auto body = [](void *context, int64_t unit, int64_t) {
        static_cast<const Turning<T> *>(context)->run_unit(unit);
    };
    int64_t size = turning.tokens_of_unit;
    parallel((t.num_tokens + size - 1) / size, t.threads, body, &turning);
    return GF_OK;
}

}  // namespace
}  // namespace graphformer
