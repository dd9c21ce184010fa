#include "threads.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace graphformer {
namespace {

// What the threads of one call share.
struct Job {
    Body body;
    void *context;
    int64_t units;
    std::atomic<int64_t> next{0};

    void work(int64_t worker) {
        for (int64_t unit = next++; unit < units; unit = next++) body(context, unit, worker);
    }
};

class Pool {
  public:
    void run(Job &job, int64_t threads) {
        // One call at a time; another one meanwhile does its work alone.
        std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (!turn.owns_lock()) return job.work(0);
        int64_t helpers = grow(threads - 1);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = &job;
            wanted_ = helpers;
            started_ = finished_ = 0;
            ++number_;
        }
        wake_.notify_all();
        job.work(0);
        std::unique_lock<std::mutex> lock(mutex_);
        // Who has not begun by now finds nothing left to do.
        wanted_ = started_;
        done_.wait(lock, [&] { return finished_ == started_; });
        job_ = nullptr;
    }

  private:
    // As many helpers as there are, at most `count`.
    int64_t grow(int64_t count) {
        try {
            for (; size_ < count; ++size_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error &) {
            // The system gives no more threads: fewer do the work.
        }
        return size_ < count ? size_ : count;
    }

    void serve() {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return number_ != seen; });
            seen = number_;
            if (!job_ || started_ >= wanted_) continue;
            Job *job = job_;
            int64_t worker = ++started_;
            lock.unlock();
            job->work(worker);
            lock.lock();
            if (++finished_ == started_) done_.notify_all();
        }
    }

    std::mutex turn_, mutex_;
    std::condition_variable wake_, done_;
    Job *job_ = nullptr;
    uint64_t number_ = 0;
    int64_t size_ = 0, wanted_ = 0, started_ = 0, finished_ = 0;
};

// The threads of an OpenMP runtime that is there already.
std::atomic<Team> team{nullptr};

struct Shared {
    Job &job;
    int64_t threads;
    std::atomic<int64_t> workers{0};
};

void run_team(Team start, Job &job, int64_t threads) {
    Shared shared{job, threads};
    auto work = [](void *context) {
        auto *shared = static_cast<Shared *>(context);
        int64_t worker = shared->workers++;
        if (worker < shared->threads) shared->job.work(worker);
    };
    start(work, &shared, unsigned(threads), 0);
}

// Never freed: its threads may outlive every destructor.
std::atomic<Pool *> pool{nullptr};

Pool *make_pool() {
    auto *made = new Pool;
#if defined(__unix__) || defined(__APPLE__)
    // A child has none of its parent's threads, and locks in any state: it leaves that pool alone.
    static const int registered =
        pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool); });
    (void)registered;
#endif
    Pool *none = nullptr;
    if (pool.compare_exchange_strong(none, made)) return made;
    delete made;
    return none;
}

}  // namespace

void run_parallel(int64_t units, int64_t threads, Body body, void *context) {
    Job job{body, context, units};
    if (threads > units) threads = units;
    if (threads <= 1) return job.work(0);
    if (Team start = team.load()) return run_team(start, job, threads);
    Pool *here = pool.load();
    (here ? here : make_pool())->run(job, threads);
}

void use_team(Team start) {
#if defined(__unix__) || defined(__APPLE__)
    // A child has none of the runtime's threads either, and the runtime does not know.
    static const int registered = pthread_atfork(nullptr, nullptr, [] { team.store(nullptr); });
    (void)registered;
#endif
    team.store(start);
}

}  // namespace graphformer
