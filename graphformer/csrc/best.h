// The largest entries of long rows, and the logarithm of the sum of the exponentials of each.
//
// One pass finds the entries: only what is larger than the least of those found so far is compared
// with them, which few are. A second one, while the row is in the cache, sums.
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
    // Entries that are skipped at once where none is large.
    static constexpr int64_t BLOCK = 8 * L;
    // Rows of a unit.
    static constexpr int64_t ROWS = 4;

    const gf_best &b;

    // The place and value of those found so far, the largest first.
    struct Found {
        A *values;
        int64_t *columns, size, count;

        A least() const { return count < size ? -Numbers<A>::infinity : values[size - 1]; }

        // Of two that are equal the first stays in front.
        void add(A value, int64_t column) {
            int64_t at = count < size ? count++ : size - 1;
            for (; at && values[at - 1] < value; --at)
                values[at] = values[at - 1], columns[at] = columns[at - 1];
            values[at] = value, columns[at] = column;
        }

        void look(const T *row, int64_t first, int64_t last) {
            for (int64_t column = first; column < last; ++column) {
                A value = to_precise(row[column]);
                // What is not a number is as small as can be.
                if (!(value == value)) value = -Numbers<A>::infinity;
                if (count < size || value > least()) add(value, column);
            }
        }

        // The same for a block, once `size` entries are found.
        void look_at_block(const T *row, int64_t first) {
            vec<A, L> most = all<A, L>(-Numbers<A>::infinity);
            for (int64_t at = 0; at < BLOCK; at += L)
                most = larger(load<A, L>(row + first + at), most);
            if (!lanes_above<A, L>(most, least())) return;
            for (int64_t at = first; at < first + BLOCK; at += L) {
                vec<A, L> x = load<A, L>(row + at);
                for (uint32_t left = lanes_above<A, L>(x, least()); left; left &= left - 1) {
                    int lane = __builtin_ctz(left);
                    if (x[lane] > least()) add(x[lane], at + lane);
                }
            }
        }
    };

    A log_sum(const T *row, A shift) const {
        vec<A, L> sum{};
        int64_t column = 0;
        for (; column + L <= b.columns; column += L)
            sum += exp<A, L>(load<A, L>(row + column) - shift);
        A total = sum_lanes<A, L>(sum);
        for (; column < b.columns; ++column)
            total += exp<A, L>(all<A, L>(to_precise(row[column]) - shift))[0];
        // Of what is no number there is no logarithm here.
        return total == total ? shift + log<A, L>(all<A, L>(total))[0] : total;
    }

    void run_row(int64_t row) const {
        const T *x = static_cast<const T *>(b.table) + row * b.columns;
        int64_t place = row * b.count;
        Found found{static_cast<A *>(b.values) + place, b.indices + place, b.count, 0};
        int64_t column = b.count < b.columns ? b.count : b.columns;
        found.look(x, 0, column);
        for (; column + BLOCK <= b.columns; column += BLOCK)
            found.look_at_block(x, column);
        found.look(x, column, b.columns);
        A shift = found.values[0];
        // Of nothing but minus infinity the sum is zero.
        bool any = shift > -Numbers<A>::infinity;
        static_cast<A *>(b.log_sums)[row] = any ? log_sum(x, shift) : shift;
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
