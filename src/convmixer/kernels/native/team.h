// Threads that work together on one call, and meet at barriers within it.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__) || defined(__i386__)
static inline void relax() { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
static inline void relax() { asm volatile("yield"); }
#else
static inline void relax() {}
#endif

// Waits until `done` holds: a few microseconds without giving up the core, then letting others have it.
template <class Condition>
static void wait_for(Condition done) {
  for (int i = 0; !done(); ++i) {
    if (i < 2000)
      relax();
    else
      std::this_thread::yield();
  }
}

// Where all threads of a call wait for one another.
class Barrier {
  std::atomic<int> arrived_{0}, round_{0};

 public:
  void wait(int threads) {
    const int round = round_.load();
    if (arrived_.fetch_add(1) + 1 == threads) {
      arrived_ = 0;
      ++round_;
    } else {
      wait_for([&] { return round_.load() != round; });
    }
  }
};

// The process's helpers: made when they are first needed, asleep between calls. They serve one call at a time.
class Team {
  struct State {
    std::mutex calls, sleep;
    std::condition_variable wake;
    std::atomic<uint64_t> call{0};
    std::atomic<int> threads{0}, running{0};
    void (*work)(void*, int) = nullptr;
    void* data = nullptr;
    int helpers = 0;
    pid_t process = getpid();
  };

  // A forked process has none of its parent's threads: it begins anew. Never freed: helpers may outlive the end of main.
  static State& state() {
    static std::mutex guard;
    static State* current = nullptr;
    std::lock_guard<std::mutex> lock(guard);
    if (!current || current->process != getpid()) current = new State;
    return *current;
  }

  static void help(State* s, int number, uint64_t seen) {
    for (;;) {
      int spins = 0;
      while (s->call.load() == seen && spins++ < 20000) relax();
      if (s->call.load() == seen) {
        std::unique_lock<std::mutex> lock(s->sleep);
        s->wake.wait(lock, [&] { return s->call.load() != seen; });
      }
      seen = s->call.load();
      if (number < s->threads.load()) {
        s->work(s->data, number);
        --s->running;
      }
    }
  }

 public:
  // How many threads a call that asks for `threads` gets: fewer where the system starts no more.
  static int available(int threads) {
    if (threads <= 1) return 1;
    State& s = state();
    std::lock_guard<std::mutex> call(s.calls);
    try {
      for (; s.helpers < threads - 1; ++s.helpers) std::thread(help, &s, s.helpers + 1, s.call.load()).detach();
    } catch (const std::system_error&) {
    }
    return s.helpers < threads - 1 ? s.helpers + 1 : threads;
  }

  // Calls work(data, i) for i from 0 to threads - 1, each on a thread of its own; returns when all have.
  // There have to be so many, see available().
  static void run(int threads, void (*work)(void*, int), void* data) {
    if (threads <= 1) return work(data, 0);
    State& s = state();
    std::lock_guard<std::mutex> call(s.calls);
    s.work = work, s.data = data, s.threads = threads, s.running = threads - 1;
    {
      std::lock_guard<std::mutex> lock(s.sleep);
      ++s.call;
    }
    s.wake.notify_all();
    work(data, 0);
    wait_for([&] { return s.running.load() == 0; });
  }
};
