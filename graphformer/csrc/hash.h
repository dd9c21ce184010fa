// Random numbers that depend on a seed and a place alone: drawn again, they are the same.
#pragma once

#include "lanes.h"

namespace graphformer {
namespace {

// Each bit of the result depends on each of the 32 bits given, of one word or of each lane.
template <class W> inline W mix(W x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// Which of as many places from one on are kept: all bits of a lane, or none.
template <class A> struct Keeper {
    static constexpr int L = WIDTH<A>;
    // As many as there are lanes, of 32 bits whatever the numbers have.
    using words = bits<float, L>;

    uint32_t threshold, low, high;
    A scale;  // of what is kept

    Keeper(double dropout, uint64_t seed)
        : threshold(uint32_t(dropout * 4294967296.0)), low(uint32_t(seed)),
          high(uint32_t(seed >> 32)), scale(A(1 / (1 - dropout))) {}

    // Of places that are counted within a row.
    vec<A, L> keep(vec<A, L> some, uint32_t place, uint32_t row) const {
        words count;
        for (int lane = 0; lane < L; ++lane) count[lane] = uint32_t(lane);
        words drawn = mix<words>((count + place) ^ low) + (high ^ row);
        mask<float, L> narrow = mix<words>(drawn) >= threshold;
        mask<A, L> kept = __builtin_convertvector(narrow, mask<A, L>);
        return (vec<A, L>)((mask<A, L>)(some * scale) & kept);
    }
};

}  // namespace
}  // namespace graphformer
