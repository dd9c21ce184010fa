// Threads that wait for work, made on first use and anew in a forked process.
#pragma once

#include "units.h"

namespace graphformer {

// Runs all units; the caller works too. Exceptions must not leave `body`.
void run_parallel(int64_t units, int64_t threads, Body body, void *context);

}  // namespace graphformer
