// The largest entries of long rows, and the logarithm of the sum of the exponentials of each.
//
// One pass takes the largest entry of each of 32 parts of a row: as many of these as are asked for say
// how large an entry must be to be looked at. A second one, while the row is in the cache, looks at
// those, which are few unless more than 32 are asked for, and sums.
#pragma once

#include "attention.h"
#include "functions.h"
#include "lanes.h"
#include "units.h"

namespace graphformer {
namespace {

template <class T> struct Best {
    using A = precise<T>;
    static constexpr int L = WIDTH<A>;
    // Parts of a row: one has each PARTS-th entry.
    static constexpr int PARTS = 32, VECTORS = PARTS / L;
    // Rows of a unit.
    static constexpr int64_t ROWS = 4;

    const gf_best &b;

    // The place and value of those found so far, the largest first.
    struct Found {
        A *values;
        int64_t *columns, size, count;

        // Of two that are equal the first stays in front.
        void add(A value, int64_t column) {
            int64_t at = count < size ? count++ : size - 1;
            for (; at && values[at - 1] < value; --at)
                values[at] = values[at - 1], columns[at] = columns[at - 1];
            values[at] = value, columns[at] = column;
        }

        A last() const { return values[size - 1]; }

        void look(A value, int64_t column) {
            // What is not a number is as small as can be.
            if (!(value == value)) value = -Numbers<A>::infinity;
            if (count < size || value > last()) add(value, column);
        }
    };

    // The largest entry of each part.
    struct Largest {
        vec<A, L> of[VECTORS];

        Largest(const T *row, int64_t columns) {
            for (int v = 0; v < VECTORS; ++v) of[v] = all<A, L>(-Numbers<A>::infinity);
            for (int64_t column = 0; column + PARTS <= columns; column += PARTS)
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; ++v)
                    of[v] = larger(load<A, L>(row + column + v * L), of[v]);
        }

        // As many entries are at least so large, being of different parts; and the largest of all.
        A at_least(int64_t count, A &most) const {
            A least = -Numbers<A>::infinity;
            most = least;
            for (int part = 0; part < PARTS; ++part) {
                A one = of[part / L][part % L];
                most = one > most ? one : most;
                int64_t larger_ones = 0;
                for (int v = 0; v < VECTORS; ++v)
                    larger_ones += __builtin_popcount(lanes_from<A, L>(of[v], one));
                if (larger_ones >= count && one > least) least = one;
            }
            return least;
        }
    };

    void run_row(int64_t row) const {
        const T *x = static_cast<const T *>(b.table) + row * b.columns;
        int64_t place = row * b.count, parted = b.columns / PARTS * PARTS, whole = b.columns / L * L;
        Found found{static_cast<A *>(b.values) + place, b.indices + place, b.count, 0};
        A shift, least = Largest(x, parted).at_least(b.count, shift);
        for (int64_t column = parted; column < b.columns; ++column) {
            A one = to_precise(x[column]);
            shift = one > shift ? one : shift;
        }
        vec<A, L> sum{};
        for (int64_t column = 0; column < whole; column += L) {
            vec<A, L> some = load<A, L>(x + column);
            sum += exp<A, L>(some - shift);
            for (uint32_t left = lanes_from<A, L>(some, least); left; left &= left - 1) {
                int lane = __builtin_ctz(left);
                found.look(some[lane], column + lane);
                if (found.count < found.size) continue;
                least = found.last() > least ? found.last() : least;
            }
        }
        A total = sum_lanes<A, L>(sum);
        for (int64_t column = whole; column < b.columns; ++column) {
            A one = to_precise(x[column]);
            total += exp<A, L>(all<A, L>(one - shift))[0];
            found.look(one, column);
        }
        bool is_finite = shift > -Numbers<A>::infinity && shift < Numbers<A>::infinity;
        A log_sum = is_finite ? shift + log<A, L>(all<A, L>(total))[0] : of_no_finite(x, shift);
        static_cast<A *>(b.log_sums)[row] = log_sum;
    }

    // The largest entry, where that is infinite, or what is no number, which none is larger than.
    A of_no_finite(const T *x, A largest) const {
        for (int64_t column = 0; column < b.columns; ++column)
            if (A one = to_precise(x[column]); one != one) return one;
        return largest;
    }
};

template <class T> int run_best(const gf_best &b, Parallel parallel) {
    Best<T> best{b};
    auto body = [](void *context, int64_t unit, int64_t) {
        auto &best = *static_cast<const Best<T> *>(context);
        int64_t row = unit * Best<T>::ROWS, last = row + Best<T>::ROWS;
        for (; row < last && row < best.b.rows; ++row) best.run_row(row);
    };
    parallel((b.rows + Best<T>::ROWS - 1) / Best<T>::ROWS, b.threads, body, &best);
    return GF_OK;
}

}  // namespace
}  // namespace graphformer
