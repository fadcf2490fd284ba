// What Python calls: chooses the instruction set, keeps threads and their memory.
#include "kernels.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

extern const Kernels kernels_generic;
#if defined(WITH_X86)
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512_bf16;
#endif

namespace {

// From the best to what every machine has.
std::vector<const Kernels *> available() {
    std::vector<const Kernels *> found;
#if defined(WITH_X86)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) found.push_back(&kernels_avx512_bf16);
    if (avx512) found.push_back(&kernels_avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2);
#endif
    found.push_back(&kernels_generic);
    return found;
}

const std::vector<const Kernels *> &all_kernels() {
    static const std::vector<const Kernels *> found = available();
    return found;
}

std::atomic<const Kernels *> chosen{nullptr};

const Kernels &kernels() {
    const Kernels *now = chosen.load(std::memory_order_relaxed);
    return now ? *now : *all_kernels().front();
}

inline void breathe() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Waits without sleep for what mostly comes at once: a thread that sleeps may wake on a core that others have taken.
template <typename Done> bool awake(Done done) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
    for (;;) {
        for (int i = 0; i < 64; i++) {
            if (done()) return true;
            breathe();
        }
        if (std::chrono::steady_clock::now() > until) return false;
    }
}

// Threads that wait for the next piece of work: a moment awake, since it mostly comes at once, then asleep.
class Pool {
  public:
    using Body = void (*)(void *, int64_t);

    // Calls body(context, thread) for every thread; the caller is number 0.
    void run(int64_t threads, Body body, void *context) {
        if (threads == 1) return body(context, 0);
        if (!grow(threads - 1)) {  // the system gives no more: the caller does the work of all
            for (int64_t thread = 0; thread < threads; thread++) body(context, thread);
            return;
        }
        body_ = body, context_ = context;
        left_.store(threads - 1, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            const uint64_t number = round_.load(std::memory_order_relaxed) / LIMIT + 1;
            round_.store(number * LIMIT + uint64_t(threads), std::memory_order_release);
        }
        if (asleep_.load() > 0) wake_.notify_all();
        body(context, 0);
        while (!awake([&] { return left_.load(std::memory_order_acquire) == 0; })) std::this_thread::yield();
    }

  private:
    static constexpr uint64_t LIMIT = 1 << 16;

    // Whether there are as many threads; nothing may be thrown at Python.
    bool grow(int64_t threads) {
        if (threads >= int64_t(LIMIT) - 1) return false;
        try {
            while (int64_t(workers_.size()) < threads) {
                const int64_t number = int64_t(workers_.size()) + 1;
                const uint64_t now = round_.load();
                workers_.emplace_back([this, number, now] { work(number, now); });
                workers_.back().detach();
            }
        } catch (const std::exception &) {
            return false;
        }
        return true;
    }

    void work(int64_t number, uint64_t seen) {
        for (;;) {
            if (!awake([&] { return round_.load(std::memory_order_acquire) != seen; })) {
                std::unique_lock<std::mutex> lock(mutex_);
                asleep_++;
                wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
                asleep_--;
            }
            seen = round_.load(std::memory_order_acquire);
            // One look at both: who is not wanted may read the rest of a round that has gone by.
            if (number < int64_t(seen % LIMIT)) {
                body_(context_, number);
                left_.fetch_sub(1, std::memory_order_release);
            }
        }
    }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<uint64_t> round_{0};  // its number, times LIMIT, and how many threads it wants
    std::atomic<int64_t> left_{0}, asleep_{0};
    Body body_ = nullptr;
    void *context_ = nullptr;
};

std::mutex busy;  // one call at a time has the pool

// A child of a fork has none of the threads: it gets a pool of its own, and the old one is left alone.
Pool *pool() {
    static Pool *current = nullptr;
#if defined(__unix__) || defined(__APPLE__)
    static pid_t owner = 0;
    // A fork waits for the call of another thread: its child would find the lock taken for ever.
    if (owner == 0) pthread_atfork([] { busy.lock(); }, [] { busy.unlock(); }, [] { busy.unlock(); });
    if (owner != getpid()) {
        current = new Pool;
        owner = getpid();
    }
#else
    if (!current) current = new Pool;
#endif
    return current;
}

// Memory that a Python thread's calls use again and again.
class Memory {
  public:
    ~Memory() { std::free(base_); }
    char *at_least(size_t bytes) {
        if (bytes > size_) {
            std::free(base_);
            size_ = 0;
            base_ = static_cast<char *>(std::malloc(bytes + 4096));
            if (!base_) return nullptr;
            size_ = bytes;
        }
        return reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(base_) + 4095) / 4096 * 4096);
    }

  private:
    char *base_ = nullptr;
    size_t size_ = 0;
};

thread_local Memory memory;

template <typename Body> void on_threads(int64_t threads, Body body) {
    auto call = [](void *context, int64_t thread) { (*static_cast<Body *>(context))(thread); };
    if (threads == 1) return call(&body, 0);
    std::lock_guard<std::mutex> lock(busy);
    pool()->run(threads, call, &body);
}

size_t rounded(size_t n) { return (n + 4095) / 4096 * 4096; }

}  // namespace

// The sizes of the structures, so that Python can see that both sides agree on them.
EXPORTED int64_t recokit_sizes() {
    return (int64_t(sizeof(Contrast)) * 1000 + int64_t(sizeof(Update))) * 1000 + int64_t(sizeof(Penalty));
}

// The names of the instruction sets that this machine has, from the best; null after the last.
EXPORTED const char *recokit_instructions(int64_t number) {
    return number < int64_t(all_kernels().size()) ? all_kernels()[size_t(number)]->name : nullptr;
}

// Take the instruction set of a number; what is not there is refused with 0.
EXPORTED int64_t recokit_choose(int64_t number) {
    if (number < 0 || number >= int64_t(all_kernels().size())) return 0;
    chosen = all_kernels()[size_t(number)];
    return 1;
}

EXPORTED int64_t recokit_has_half() { return kernels().supports(true); }

// Returns 0 where there is no memory.
EXPORTED int64_t recokit_contrast(const Contrast *question) {
    const Contrast &c = *question;
    const Kernels &k = kernels();
    const size_t shared = rounded(k.shared_bytes(c)), piece = rounded(k.piece_bytes(c)) + 192;
    char *base = memory.at_least(shared + piece * size_t(c.threads));
    if (!base) return 0;
    Work work = k.lay_out(c, base);
    work.pieces = base + shared, work.piece = piece;
    on_threads(c.threads, [&](int64_t thread) { k.prepare(c, work, thread); });
    on_threads(c.threads, [&](int64_t thread) { k.edges(c, work, thread); });
    on_threads(c.threads, [&](int64_t thread) { k.finish(c, work, thread); });
    k.conclude(c, work);
    return 1;
}

EXPORTED int64_t recokit_update(const Update *update) {
    const Update &u = *update;
    const Kernels &k = kernels();
    const size_t piece = rounded(k.update_bytes(u)) + 192;
    char *base = memory.at_least(piece * size_t(u.threads));
    if (!base) return 0;
    on_threads(u.threads, [&](int64_t thread) { k.update(u, base + size_t(thread) * piece, thread); });
    return 1;
}

EXPORTED void recokit_penalise(const Penalty *penalty) {
    const Penalty &p = *penalty;
    const Kernels &k = kernels();
    on_threads(p.threads, [&](int64_t thread) { k.penalise(p, thread); });
}

// Ask for large pages where the system lends them: rows that lie anywhere in gigabytes then cost fewer page walks.
EXPORTED void recokit_large_pages(void *start, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = 4096, from = (reinterpret_cast<uintptr_t>(start) + page - 1) / page * page;
    const uintptr_t until = (reinterpret_cast<uintptr_t>(start) + bytes) / page * page;
    if (until > from) madvise(reinterpret_cast<void *>(from), until - from, MADV_HUGEPAGE);
#else
    (void)start, (void)bytes;
#endif
}
