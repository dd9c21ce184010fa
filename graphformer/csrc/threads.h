// Threads that wait for work, made on first use and anew in a forked process.
#pragma once

#include "units.h"

namespace graphformer {

// What starts a team of an OpenMP runtime: GOMP_parallel.
using Team = void (*)(void (*work)(void *), void *context, unsigned threads, unsigned flags);

// Units run on such a team from now on: two pools of threads would wait for each other's cores.
void use_team(Team start);

// Runs all units; the caller works too. Exceptions must not leave `body`.
void run_parallel(int64_t units, int64_t threads, Body body, void *context);

}  // namespace graphformer
