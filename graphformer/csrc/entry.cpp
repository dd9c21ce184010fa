// Picks the best instruction set that the machine has, and calls its kernels.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "threads.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace graphformer {

extern const Kernels kernels_portable;
#ifdef GRAPHFORMER_X86
extern const Kernels kernels_avx2, kernels_avx512;
#endif

namespace {

struct InstructionSet {
    const char *name;
    const Kernels *kernels;
    bool present;
};

// The best first.
const InstructionSet *instruction_sets() {
    static const InstructionSet sets[] = {
#ifdef GRAPHFORMER_X86
        {"avx512", &kernels_avx512,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
             && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
             && __builtin_cpu_supports("fma")},
        {"avx2", &kernels_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#endif
        {"portable", &kernels_portable, true},
        {nullptr, nullptr, false},
    };
    return sets;
}

const InstructionSet *find(const char *name) {
    for (const InstructionSet *set = instruction_sets(); set->name; ++set)
        if (set->present && (!name || !std::strcmp(name, set->name))) return set;
    return nullptr;
}

std::atomic<const InstructionSet *> chosen{nullptr};

const InstructionSet &current() {
    const InstructionSet *set = chosen.load();
    if (set) return *set;
    const char *name = std::getenv("GRAPHFORMER_ISA");
    set = find(name && *name ? name : nullptr);
    if (!set) set = find(nullptr);
    chosen.store(set);
    return *set;
}

}  // namespace
}  // namespace graphformer

using namespace graphformer;

int64_t gf_interface(void) { return GF_INTERFACE; }
int64_t gf_attention_size(void) { return sizeof(gf_attention); }

const char *gf_instruction_set(void) { return current().name; }

int gf_has_instruction_set(const char *name) { return name && find(name); }

int gf_use_instruction_set(const char *name) {
    const InstructionSet *set = find(name);
    if (!set) return GF_NO_SUCH_SET;
    chosen.store(set);
    return GF_OK;
}

int gf_forward(const gf_attention *attention) {
    return current().kernels->forward(*attention, run_parallel);
}

int gf_backward(const gf_attention *attention) {
    return current().kernels->backward(*attention, run_parallel);
}

int gf_run_tiles(const gf_tiles *tiles) {
    return current().kernels->run_tiles(*tiles, run_parallel);
}

int gf_drop(const gf_dropout *dropout) { return current().kernels->drop(*dropout, run_parallel); }

int gf_turn(const gf_turns *turns) { return current().kernels->turn(*turns, run_parallel); }

int gf_find_best(const gf_best *best) { return current().kernels->find_best(*best, run_parallel); }

void gf_use_team(Team start) { use_team(start); }

void gf_expect_writes(void *data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = 4096;
    uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
    // A wish: where the system does not grant it, pages come one by one as ever.
    if (bytes >= (1 << 22) && last > first)
        madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
#else
    (void)data, (void)bytes;
#endif
}
