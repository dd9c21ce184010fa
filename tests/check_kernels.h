// What the checks of the kernels have in common: numbers as the kernels see them.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "attention.h"

using Numbers = std::vector<double>;
constexpr double SCALE = 0.7;

inline std::mt19937 generator(0);

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

inline bool close(const char *what, double got, double expected, double scale, double tolerance) {
    if (std::fabs(got - expected) <= tolerance * scale) return true;
    std::printf("%s: %g instead of %g\n", what, got, expected);
    return false;
}

// How many checks there were, and how many of them failed.
struct Count {
    int wrong = 0, all = 0;
    void add(bool right) { wrong += !right, ++all; }
};

// Those of dropout, of the largest entries of rows, and of the attention of short examples.
void check_dense(Count &count);
