// Vectors of 16 floats, bfloat16 <-> float, exp, and the threads of a step. Written with the compiler's own vector types,
// so that it compiles for every processor; AVX-512 and its bfloat16 products are used where the compiler may.
#pragma once
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef YUAN_BETWEEN_STORES  // a test sleeps there, as a machine may let a thread do
#define YUAN_BETWEEN_STORES
#endif

namespace yuan {

constexpr int LANES = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint16_t bf16;

template <class V> inline V load(const void *from) { V v; std::memcpy(&v, from, sizeof v); return v; }
template <class V> inline void store(void *to, V v) { std::memcpy(to, &v, sizeof v); }
inline Floats all(float x) { return x - Floats{}; }
inline float to_float(bf16 x) { uint32_t bits = uint32_t(x) << 16; float f; std::memcpy(&f, &bits, 4); return f; }
inline bf16 to_bf16(float x) {
    uint32_t bits; std::memcpy(&bits, &x, 4);
    return bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
}
inline float to_float(float x) { return x; }
inline void put(float *to, float x) { *to = x; }
inline void put(bf16 *to, float x) { *to = to_bf16(x); }
inline Floats widen(const float *from) { return load<Floats>(from); }
#if defined(__AVX512F__)  // the compiler's own conversions between widths go element by element
inline Floats widen(const bf16 *from) { return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(from)), 16); }
#else
inline Floats widen(const bf16 *from) { return (Floats)(__builtin_convertvector(load<Halves>(from), Words) << 16); }
#endif
// Asks for memory that is read soon, where the processor cannot foresee it.
inline void fetch(const void *from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char *>(from) + at);
}

// acc + a * b, rounded once where the processor can. The compiler itself is told to fuse nothing: it may do so in one copy
// of a loop and not in another, and a sum would depend on how many rows are summed beside it.
inline Floats add_product(Floats acc, Floats a, Floats b) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)acc);
#elif defined(__FP_FAST_FMAF)
    for (int i = 0; i < LANES; i++) acc[i] = __builtin_fmaf(a[i], b[i], acc[i]);
    return acc;
#else
    return acc + a * b;
#endif
}
inline void narrow(float *to, Floats v) { store(to, v); }
inline void narrow(bf16 *to, Floats v) {
    Words bits = (Words)v;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#if defined(__AVX512F__)
    store(to, _mm512_cvtepi32_epi16((__m512i)bits));
#else
    store(to, __builtin_convertvector(bits, Halves));
#endif
}
inline float sum(Floats v) {
    float parts[LANES]; store(parts, v);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    return parts[0];
}
// By hand: where a compiler begins with its vectors depends on the address, and with that the order of the sums.
template <class T> inline float dot(const float *a, const T *b, int size) {
    Floats total = {};
    int i = 0;
    for (; i + LANES <= size; i += LANES) total = add_product(total, load<Floats>(a + i), widen(b + i));
    float rest = 0;
    for (; i < size; i++) rest += a[i] * to_float(b[i]);
    return sum(total) + rest;
}
inline float highest(Floats v) {
    float parts[LANES]; store(parts, v);
    float most = parts[0];
    for (int i = 1; i < LANES; i++) most = parts[i] > most ? parts[i] : most;
    return most;
}

// e^x to 2 units in the last place for x <= 0 (and for x > 0 as far as floats reach); 0 below -87; NaN stays NaN.
inline Floats exponential(Floats x) {
    Ints small = x < -87.0f;
    Ints large = x > 88.0f;
    x = small ? all(-87.0f) : (large ? all(88.0f) : x);
    Floats scaled = x * 1.44269504088896341f;
    Floats magic = all(12582912.0f);  // adding it rounds to a whole number
    Floats whole = (scaled + magic) - magic;
    Floats rest = add_product(add_product(x, whole, all(-0.693359375f)), whole, all(2.12194440e-4f));
    Floats p = all(1.9875691500e-4f);
    for (float factor : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = add_product(all(factor), p, rest);
    p = add_product(rest + 1.0f, p * rest, rest);
    Ints power = (__builtin_convertvector(whole, Ints) + 127) << 23;
    return small ? Floats{} : p * (Floats)power;
}
inline Floats silu(Floats x) { return x / (1.0f + exponential(-x)); }

// Threads that go through one program of phases together. A phase's items are taken by whoever comes; it is over when all
// are done, not when all threads have come: one that the machine does not let run holds nobody up, and catches up later.
// Every run must have equally many phases. Who waits spins for a moment and sleeps then.
class Team {
public:
    struct Member { int number; uint32_t phase; };

    explicit Team(int size) : size_(size) {}
    // Starts the others; `program` is what each of them goes through in every run.
    void start(std::function<void(Member)> program) {
        program_ = std::move(program);
        for (int number = 1; number < size_; number++) threads_.emplace_back([this, number] { serve(number); });
    }
    ~Team() {
        ending_ = true;
        begun_.fetch_add(1);
        begun_.notify_all();
        for (auto &thread : threads_) thread.join();
    }
    int size() const { return size_; }
    void run() {
        uint32_t phase = now_.load(std::memory_order_relaxed);
        begun_.store(phase, std::memory_order_release);
        begun_.notify_all();
        program_({0, phase});
    }
    // Calls work(item) for those of the phase's items that this thread gets, and returns when all are done.
    template <class F> void phase(Member &me, int items, F &&work) {
        const uint32_t phase = me.phase++;
        uint64_t seen = next_.load(std::memory_order_acquire);
        while (uint32_t(seen >> 32) == phase && int(uint32_t(seen)) < items) {
            if (!next_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
            work(int(uint32_t(seen)));
            if (int(done_.fetch_add(1, std::memory_order_acq_rel)) + 1 == items) {
                done_.store(0, std::memory_order_relaxed);
                next_.store(uint64_t(phase + 1) << 32, std::memory_order_release);
                YUAN_BETWEEN_STORES;
                now_.store(phase + 1, std::memory_order_release);
                now_.notify_all();
                return;
            }
            seen = next_.load(std::memory_order_acquire);
        }
        // Not before now_ says so, though next_ may have moved on: who went ahead would take the next phase for over.
        for (int spins = 0; spins < SPINS && now_.load(std::memory_order_acquire) == phase; spins++) pause();
        while (now_.load(std::memory_order_acquire) == phase) now_.wait(phase, std::memory_order_acquire);
    }

private:
    static constexpr int SPINS = 4000;
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    void serve(int number) {
        uint32_t seen = 0;  // the phase before the first
        while (true) {
            for (int spins = 0; spins < SPINS && begun_.load(std::memory_order_acquire) == seen; spins++) pause();
            begun_.wait(seen, std::memory_order_acquire);
            // In this order: the end moves begun_ too, to a number that is no run's, and is told before.
            seen = begun_.load(std::memory_order_acquire);
            if (ending_) return;
            program_({number, seen});
        }
    }
    const int size_;
    std::vector<std::thread> threads_;
    std::function<void(Member)> program_;
    alignas(64) std::atomic<uint32_t> begun_{0};
    alignas(64) std::atomic<uint64_t> next_{uint64_t(1) << 32};
    alignas(64) std::atomic<uint32_t> done_{0};
    alignas(64) std::atomic<uint32_t> now_{1};
    std::atomic<bool> ending_{false};
};

}  // namespace yuan
