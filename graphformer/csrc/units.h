// Work cut at fixed numbers of edges, so that results do not depend on the number of threads.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace graphformer {

// Runs body(context, unit, worker) for all units on `threads` threads.
using Body = void (*)(void *context, int64_t unit, int64_t worker);
using Parallel = void (*)(int64_t units, int64_t threads, Body body, void *context);

namespace {

// Edges and rows of a unit. A row counts as one more edge, so that empty ones cost something too.
constexpr int64_t UNIT = 2048;

// Memory that frees itself; what it holds is not set.
class Memory {
  public:
    explicit Memory(size_t bytes) {
        if (posix_memalign(&data_, 64, bytes ? bytes : 64)) data_ = nullptr;
    }
    ~Memory() { free(data_); }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    explicit operator bool() const { return data_ != nullptr; }
    template <class A> A *get() const { return static_cast<A *>(data_); }

  private:
    void *data_ = nullptr;
};

// Hands out arrays of a worker's scratch memory; without memory it only counts.
template <class A> class Arena {
  public:
    explicit Arena(A *data) : data_(data) {}
    A *take(int64_t size) {
        A *here = data_ ? data_ + used_ : nullptr;
        used_ += (size + 15) / 16 * 16;
        return here;
    }
    int64_t used() const { return used_; }

  private:
    A *data_;
    int64_t used_ = 0;
};

inline int64_t num_units(int64_t rows, int64_t edges) { return (rows + edges + UNIT - 1) / UNIT; }

// Rows of a sorted list of edges: offsets of the edges of all rows, and which of the rows.
struct Span {
    const int32_t *ptr;
    int64_t first, last;

    int64_t num_rows() const { return last - first; }
    int64_t num_edges() const { return ptr[last] - ptr[first]; }
    int64_t units() const { return num_units(num_rows(), num_edges()); }
};

// Runs `Pass` over rows of a sorted list of edges. A row that lies in one unit is finished there.
// The parts of a row that lies in several are kept, and joined in their order.
//
// Pass::Worker has open(unit), begin(row), edges(row, first, last, state), clear(state),
// join(state, part), finish(row, state); Pass has state_size() and scratch_size().
template <class Pass> struct Rows {
    using A = typename Pass::Number;
    Pass &pass;
    Span span;
    int64_t base, units, state;
    A *parts, *scratch;
    int64_t scratch_size;

    // Where a row starts among rows and edges, and which edge is at a place inside it.
    int64_t start(int64_t row) const { return span.ptr[row] + row - base; }
    int64_t edge_at(int64_t place, int64_t row) const { return place + base - row - 1; }

    // The last row that starts at or before a place among rows and edges.
    int64_t row_at(int64_t place) const {
        int64_t low = span.first, high = span.last;
        while (high - low > 1) {
            int64_t middle = (low + high) / 2;
            (start(middle) <= place ? low : high) = middle;
        }
        return low;
    }

    A *part(int64_t unit, bool begins) const { return parts + (2 * unit + begins) * state; }

    void run_unit(int64_t unit, int64_t worker) {
        Arena<A> arena(scratch + worker * scratch_size);
        A *own = arena.take(state);
        typename Pass::Worker work(pass, arena);
        int64_t first = unit * UNIT, last = first + UNIT;
        work.open(unit);
        for (int64_t row = row_at(first); row < span.last && start(row) < last; ++row) {
            bool begins = start(row) >= first, ends = start(row + 1) <= last;
            int64_t from = begins ? span.ptr[row] : edge_at(first, row);
            int64_t to = ends ? span.ptr[row + 1] : edge_at(last, row);
            A *here = begins && ends ? own : part(unit, begins);
            work.clear(here);
            if (from < to) {
                work.begin(row);
                work.edges(row, from, to, here);
            }
            if (begins && ends) work.finish(row, here);
        }
    }

    void join_parts() {
        Arena<A> arena(scratch);
        arena.take(state);
        typename Pass::Worker work(pass, arena);
        for (int64_t unit = 1; unit < units; ++unit) {
            int64_t place = unit * UNIT, row = row_at(place);
            if (row >= span.last || start(row) == place || start(row) < place - UNIT) continue;
            A *whole = part(unit - 1, true);
            for (int64_t next = unit; next < units && start(row + 1) > next * UNIT; ++next)
                work.join(whole, part(next, false));
            work.finish(row, whole);
        }
    }

    static bool run(Pass &pass, Span span, int64_t threads, Parallel parallel) {
        if (!span.num_rows()) return true;
        int64_t units = span.units();
        int64_t state = (pass.state_size() + 15) / 16 * 16;
        int64_t scratch_size = (pass.scratch_size() + state + 63) / 64 * 64;
        if (threads > units) threads = units;
        Memory parts(2 * units * state * sizeof(A)), scratch(threads * scratch_size * sizeof(A));
        if (!parts || !scratch) return false;
        int64_t base = span.ptr[span.first] + span.first;
        Rows rows{pass,         span, base, units, state, parts.get<A>(), scratch.get<A>(),
                  scratch_size};
        auto body = [](void *context, int64_t unit, int64_t worker) {
            static_cast<Rows *>(context)->run_unit(unit, worker);
        };
        parallel(units, threads, body, &rows);
        rows.join_parts();
        return true;
    }
};

}  // namespace
}  // namespace graphformer
