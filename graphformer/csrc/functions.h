// Exponential, logarithm and hyperbolic tangent of vectors, to the last bits of their type.
#pragma once

#include "lanes.h"

namespace graphformer {
namespace {

template <class A> struct Numbers;

template <> struct Numbers<float> {
    static constexpr int mantissa = 23, bias = 127, exp_terms = 7, log_terms = 6;
    static constexpr uint32_t half_octave = 0x3f3504f3;  // sqrt(1/2)
    static constexpr float magic = 12582912.0f;          // 1.5 * 2^23: adding it rounds
    static constexpr float low = -87.0f, high = 88.0f;
    static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.42860682030941723e-6f;
    static constexpr float infinity = __builtin_inff();
};

template <> struct Numbers<double> {
    static constexpr int mantissa = 52, bias = 1023, exp_terms = 14, log_terms = 12;
    static constexpr uint64_t half_octave = 0x3fe6a09e667f3bcdull;
    static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double low = -708.0, high = 709.0;
    static constexpr double ln2_high = 0.6931471803691238, ln2_low = 1.9082149292705877e-10;
    static constexpr double infinity = __builtin_inf();
};

template <class A> constexpr A inverse_factorial(int number) {
    return number > 1 ? inverse_factorial<A>(number - 1) / A(number) : A(1);
}

// 1 / n! + r / (n + 1)! + r^2 / (n + 2)! + ...
template <class A, int L, int N> inline vec<A, L> series_of_exp(vec<A, L> r) {
    constexpr A first = inverse_factorial<A>(N);
    if constexpr (N == Numbers<A>::exp_terms)
        return all<A, L>(first);
    else
        return series_of_exp<A, L, N + 1>(r) * r + first;
}

// exp(x) = scale + scale * rest, with scale a power of two and `rest` = exp(r) - 1, |r| < ln 2 / 2.
template <class A, int L> struct Power {
    vec<A, L> scale, rest;
};

template <class A, int L> inline Power<A, L> power(vec<A, L> x) {
    using N = Numbers<A>;
    vec<A, L> shifted = x * A(1.4426950408889634) + N::magic;
    vec<A, L> octaves = shifted - N::magic;
    vec<A, L> r = (x - octaves * N::ln2_high) - octaves * N::ln2_low;
    bits<A, L> exponent = ((bits<A, L>)shifted + N::bias) << N::mantissa;
    return {(vec<A, L>)exponent, r * series_of_exp<A, L, 1>(r)};
}

// Zero below the least normal number: what minus infinity stands for must be left out altogether.
template <class A, int L> inline vec<A, L> exp(vec<A, L> x) {
    using N = Numbers<A>;
    // In this order what is not a number stays so.
    Power<A, L> p = power<A, L>(smaller(all<A, L>(N::high), x));
    vec<A, L> y = p.scale + p.scale * p.rest;
    return x < N::low ? vec<A, L>{} : y;
}

template <class A, int L> inline vec<A, L> tanh(vec<A, L> x) {
    // By exp(2x) - 1, which keeps the digits of small arguments.
    vec<A, L> near = larger(smaller(x, all<A, L>(20)), all<A, L>(-20));
    Power<A, L> p = power<A, L>(near + near);
    vec<A, L> less_one = p.scale * p.rest + (p.scale - A(1));
    vec<A, L> y = less_one / (less_one + A(2));
    return x == x ? y : x;
}

// The logarithm of positive normal numbers.
template <class A, int L> inline vec<A, L> log(vec<A, L> x) {
    using N = Numbers<A>;
    constexpr auto one = (typename Bits<A>::type)1;
    constexpr auto fraction_bits = (one << N::mantissa) - 1;
    // x = 2^octaves * f with f between sqrt(1/2) and sqrt(2); log f = 2 artanh((f - 1) / (f + 1)).
    bits<A, L> moved = (bits<A, L>)x - N::half_octave;
    bits<A, L> f_bits = (moved & fraction_bits) + N::half_octave;
    // A small integer becomes a number by standing in the last bits of 1.5 * 2^mantissa.
    bits<A, L> count = (moved >> N::mantissa) + (bits<A, L>)all<A, L>(N::magic);
    vec<A, L> octaves = (vec<A, L>)count - N::magic;
    octaves = octaves > A(N::bias) ? octaves - A(4) * A(N::bias + 1) : octaves;
    vec<A, L> f = (vec<A, L>)f_bits;
    vec<A, L> s = (f - A(1)) / (f + A(1)), square = s * s, series{};
#pragma GCC unroll 16
    for (int term = N::log_terms; term >= 0; --term) series = series * square + A(2) / A(2 * term + 1);
    vec<A, L> found = octaves * N::ln2_high + (octaves * N::ln2_low + s * series);
    // Infinity has no such octave, and what is no number stays none.
    return x < N::infinity ? found : x;
}

}  // namespace
}  // namespace graphformer
