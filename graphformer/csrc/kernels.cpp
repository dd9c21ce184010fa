// The kernels for one instruction set; this file is compiled once for each, under its name.
#include "kernels.h"

#include "backward.h"
#include "best.h"
#include "dropout.h"
#include "tiles.h"
#include "turns.h"

namespace graphformer {

static int forward(const gf_attention &a, Parallel parallel) {
    switch (a.dtype) {
        case GF_FLOAT64: return run_forward<double>(a, parallel);
        case GF_BFLOAT16: return run_forward<bfloat16>(a, parallel);
        default: return run_forward<float>(a, parallel);
    }
}

static int backward(const gf_attention &a, Parallel parallel) {
    switch (a.dtype) {
        case GF_FLOAT64: return run_backward<double>(a, parallel);
        case GF_BFLOAT16: return run_backward<bfloat16>(a, parallel);
        default: return run_backward<float>(a, parallel);
    }
}

static int run_tiles(const gf_tiles &t, Parallel parallel) {
    switch (t.dtype) {
        case GF_FLOAT64: return run_tiles<double>(t, parallel);
        case GF_BFLOAT16: return run_tiles<bfloat16>(t, parallel);
        default: return run_tiles<float>(t, parallel);
    }
}

static int drop(const gf_dropout &d, Parallel parallel) {
    switch (d.dtype) {
        case GF_FLOAT64: return run_dropout<double>(d, parallel);
        case GF_BFLOAT16: return run_dropout<bfloat16>(d, parallel);
        default: return run_dropout<float>(d, parallel);
    }
}

static int turn(const gf_turns &t, Parallel parallel) {
    switch (t.dtype) {
        case GF_FLOAT64: return run_turns<double>(t, parallel);
        case GF_BFLOAT16: return run_turns<bfloat16>(t, parallel);
        default: return run_turns<float>(t, parallel);
    }
}

static int find_best(const gf_best &b, Parallel parallel) {
    switch (b.dtype) {
        case GF_FLOAT64: return run_best<double>(b, parallel);
        case GF_BFLOAT16: return run_best<bfloat16>(b, parallel);
        default: return run_best<float>(b, parallel);
    }
}

extern const Kernels GRAPHFORMER_KERNELS;
const Kernels GRAPHFORMER_KERNELS = {forward, backward, run_tiles, drop, turn, find_best};

}  // namespace graphformer
