// Vectors of a fixed number of lanes, by the vector extension of GCC and Clang.
//
// Included by units that are compiled for one instruction set each. Nothing here comes from an
// inline function of a standard header: the linker may keep one unit's copy for all others.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace graphformer {
namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

struct bfloat16 {
    uint16_t bits;
};

// What numbers of a type are computed in.
template <class T> struct Precise { using type = T; };
template <> struct Precise<bfloat16> { using type = float; };
template <class T> using precise = typename Precise<T>::type;

template <class A> struct Bits;
template <> struct Bits<float> { using type = uint32_t; using sign = int32_t; };
template <> struct Bits<double> { using type = uint64_t; using sign = int64_t; };

template <class A, int L> struct Lanes {
    typedef A type __attribute__((vector_size(sizeof(A) * L)));
    typedef typename Bits<A>::type bits __attribute__((vector_size(sizeof(A) * L)));
    // What a comparison gives: all bits of a lane, or none.
    typedef typename Bits<A>::sign mask __attribute__((vector_size(sizeof(A) * L)));
};
template <class A, int L> using vec = typename Lanes<A, L>::type;
template <class A, int L> using bits = typename Lanes<A, L>::bits;
template <class A, int L> using mask = typename Lanes<A, L>::mask;

template <class A> constexpr int WIDTH = VECTOR_BYTES / sizeof(A);

template <class A, int L> inline vec<A, L> all(A x) { return x - vec<A, L>{}; }

template <class A, int L> inline vec<A, L> load(const A *data) {
    vec<A, L> x;
    __builtin_memcpy(&x, data, sizeof x);
    return x;
}

inline float to_precise(float x) { return x; }
inline double to_precise(double x) { return x; }
inline float to_precise(bfloat16 x) {
    uint32_t wide = uint32_t(x.bits) << 16;
    float y;
    __builtin_memcpy(&y, &wide, sizeof y);
    return y;
}

template <class A, int L> inline vec<A, L> load(const bfloat16 *data) {
    typedef uint16_t half __attribute__((vector_size(2 * L)));
    half x;
    __builtin_memcpy(&x, data, sizeof x);
    return (vec<float, L>)(__builtin_convertvector(x, bits<float, L>) << 16);
}

// The first `count` lanes from memory, zero in the others.
template <class A, int L, class T> inline vec<A, L> load_part(const T *data, int count) {
    A buffer[L] = {};
    for (int lane = 0; lane < count; ++lane) buffer[lane] = to_precise(data[lane]);
    return load<A, L>(buffer);
}

#if defined(__AVX512F__)
template <> inline vec<float, 16> load_part<float, 16>(const float *data, int count) {
    return (vec<float, 16>)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), data);
}
template <> inline vec<double, 8> load_part<double, 8>(const double *data, int count) {
    return (vec<double, 8>)_mm512_maskz_loadu_pd((__mmask8)((1u << count) - 1), data);
}
#endif

template <class A, int L> inline void store(A *data, vec<A, L> x) {
    __builtin_memcpy(data, &x, sizeof x);
}

template <class A, int L> inline void store(bfloat16 *data, vec<A, L> x) {
    typedef uint16_t half __attribute__((vector_size(2 * L)));
    bits<float, L> wide = (bits<float, L>)x;
    // To the nearest, to even between two; what is not a number stays so.
    bits<float, L> rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    bits<float, L> number = (bits<float, L>)(x == x);
    rounded = (rounded & number) | (((wide >> 16) | 0x40) & ~number);
    half narrow = __builtin_convertvector(rounded, half);
    __builtin_memcpy(data, &narrow, sizeof narrow);
}

template <class T, class A, int L> inline void store_part(T *data, vec<A, L> x, int count) {
    T buffer[L];
    store<A, L>(buffer, x);
    for (int lane = 0; lane < count; ++lane) data[lane] = buffer[lane];
}

template <class V> inline V larger(V x, V y) { return x > y ? x : y; }
template <class V> inline V smaller(V x, V y) { return x < y ? x : y; }

// A bit for each lane, the lowest for the first, that is set where it is not below a number,
// as what is no number is not.
template <class A, int L> inline uint32_t lanes_from(vec<A, L> x, A least) {
    uint32_t found = 0;
    for (int lane = 0; lane < L; ++lane) found |= uint32_t(!(x[lane] < least)) << lane;
    return found;
}

#if defined(__AVX512F__)
template <> inline uint32_t lanes_from<float, 16>(vec<float, 16> x, float least) {
    return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(least), _CMP_NLT_UQ);
}
template <> inline uint32_t lanes_from<double, 8>(vec<double, 8> x, double least) {
    return _mm512_cmp_pd_mask((__m512d)x, _mm512_set1_pd(least), _CMP_NLT_UQ);
}
#elif defined(__AVX2__)
template <> inline uint32_t lanes_from<float, 8>(vec<float, 8> x, float least) {
    __m256 above = _mm256_cmp_ps((__m256)x, _mm256_set1_ps(least), _CMP_NLT_UQ);
    return uint32_t(_mm256_movemask_ps(above));
}
template <> inline uint32_t lanes_from<double, 4>(vec<double, 4> x, double least) {
    __m256d above = _mm256_cmp_pd((__m256d)x, _mm256_set1_pd(least), _CMP_NLT_UQ);
    return uint32_t(_mm256_movemask_pd(above));
}
#endif

inline void prefetch(const void *data, int bytes) {
    for (int byte = 0; byte < bytes; byte += 64)
        __builtin_prefetch(static_cast<const char *>(data) + byte);
}

template <class A, int L> inline A sum_lanes(vec<A, L> x) {
    if constexpr (L == 1) {
        return x[0];
    } else {
        vec<A, L / 2> halves[2];
        __builtin_memcpy(halves, &x, sizeof x);
        return sum_lanes<A, L / 2>(halves[0] + halves[1]);
    }
}

}  // namespace
}  // namespace graphformer
