// Dropout of single entries: whether one is kept is a hash of the seed and of its place.
//
// The backward is the same function of the gradient, with the same seed: no mask is in memory.
#pragma once

#include "attention.h"
#include "hash.h"
#include "units.h"

namespace graphformer {
namespace {

template <class T> struct Dropout {
    using A = precise<T>;
    static constexpr int L = WIDTH<A>;
    // Entries of a unit, a multiple of every number of lanes.
    static constexpr int64_t UNIT_SIZE = 1 << 14;

    const gf_dropout &d;
    const T *x;
    T *out;
    Keeper<A> keeper;

    explicit Dropout(const gf_dropout &d)
        : d(d), x(static_cast<const T *>(d.x)), out(static_cast<T *>(d.out)),
          keeper(d.dropout, d.seed) {}

    // Entries from a place on, zero or times the scale.
    vec<A, L> drop(vec<A, L> some, int64_t place) const {
        return keeper.keep(some, uint32_t(place), uint32_t(place >> 32));
    }

    void run_unit(int64_t unit) const {
        int64_t at = unit * UNIT_SIZE, last = at + UNIT_SIZE < d.size ? at + UNIT_SIZE : d.size;
        for (; at + L <= last; at += L) store<A, L>(out + at, drop(load<A, L>(x + at), at));
        if (at < last) {
            int rest = int(last - at);
            store_part<T, A, L>(out + at, drop(load_part<A, L>(x + at, rest), at), rest);
        }
    }
};

template <class T> int run_dropout(const gf_dropout &d, Parallel parallel) {
    Dropout<T> dropout(d);
    auto body = [](void *context, int64_t unit, int64_t) {
        static_cast<const Dropout<T> *>(context)->run_unit(unit);
    };
    constexpr int64_t size = Dropout<T>::UNIT_SIZE;
    parallel((d.size + size - 1) / size, d.threads, body, &dropout);
    return GF_OK;
}

}  // namespace
}  // namespace graphformer
