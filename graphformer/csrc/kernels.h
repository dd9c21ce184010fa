// What each instruction set provides.
#pragma once

#include "attention.h"
#include "units.h"

namespace graphformer {

struct Kernels {
    int (*forward)(const gf_attention &, Parallel);
    int (*backward)(const gf_attention &, Parallel);
    int (*run_tiles)(const gf_tiles &, Parallel);
    int (*drop)(const gf_dropout &, Parallel);
    int (*turn)(const gf_turns &, Parallel);
    int (*find_best)(const gf_best &, Parallel);
};

}  // namespace graphformer
