// Draws tokens from rows of logits: what a row gives depends on nothing but the row and its own numbers.
#pragma once
#include <limits>
#include "matrix.h"

namespace yuan {

extern "C" struct Draw {
    double uniform;     // evenly from [0, 1): decides
    float temperature;  // 0: the likeliest
    int top_k;          // 0: all
    float top_p, min_p;
};

constexpr int STRETCH = 256;  // numbers that are summed in fp32; sums of stretches in fp64
constexpr int ALL = 1 << 30;

inline int padded(int n) { return (n + STRETCH - 1) / STRETCH * STRETCH; }

inline Ints bits(Floats v) { return (Ints)v; }
inline Ints bits(int b) { return b - Ints{}; }
inline int bits_of(float x) { int b; std::memcpy(&b, &x, 4); return b; }

// The highest of numbers that come 16 at a time, lane by lane; of equal ones the first.
struct Highest {
    Floats value = all(-std::numeric_limits<float>::infinity());
    Ints place = {}, wrong = {};

    // Takes x[0..n), numbers begin.. of all, of which no earlier ones come later.
    void take(const float *x, int begin, int n) {
        Ints here = Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + begin;
        for (int i = 0; i < n; i += LANES, here += LANES) {
            Floats v = all(-std::numeric_limits<float>::infinity());
            if (i + LANES <= n) v = load<Floats>(x + i);
            else std::memcpy(&v, x + i, (n - i) * sizeof(float));
            take(v, here);
            wrong |= v != v;
        }
    }
    void take(const Highest &other) {
        take(other.value, other.place);
        wrong |= other.wrong;
    }
    // The place; -1 where a number is NaN or the highest is not finite.
    int found() const {
        float most = value[0];
        int first = place[0], wrongs = wrong[0];
        for (int lane = 1; lane < LANES; lane++) {
            wrongs |= wrong[lane];
            if (value[lane] > most || (value[lane] == most && place[lane] < first)) most = value[lane], first = place[lane];
        }
        return wrongs || !std::isfinite(most) ? -1 : first;
    }

private:
    void take(Floats v, Ints here) {
        Ints higher = (v > value) | ((v == value) & (here < place));
        value = higher ? v : value;
        place = higher ? here : place;
    }
};

inline int highest_place(const float *x, int n) {
    Highest highest;
    highest.take(x, 0, n);
    return highest.found();
}

// Sums work(i), 16 numbers from i on, over n numbers, a multiple of STRETCH.
template <class F> double total_of(int n, F &&work) {
    double total = 0;
    for (int i = 0; i < n; i += STRETCH) {
        Floats part = {};
        for (int j = i; j < i + STRETCH; j += LANES) part += work(j);
        total += sum(part);
    }
    return total;
}

// How many of e have at least these bits; for numbers that are not negative they are in the numbers' order.
inline int count_from(const float *e, int n, int least) {
    Ints found = {};
    for (int i = 0; i < n; i += LANES) found -= bits(load<Floats>(e + i)) >= bits(least);
    int count = 0;
    for (int lane = 0; lane < LANES; lane++) count += found[lane];
    return count;
}
inline double total_from(const float *e, int n, int least) {
    return total_of(n, [&](int i) {
        Floats v = load<Floats>(e + i);
        return bits(v) >= bits(least) ? v : Floats{};
    });
}

// The largest number between low (for which `enough` holds) and high for which it does.
template <class F> int last_enough(int low, int high, F &&enough) {
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (enough(middle)) low = middle;
        else high = middle - 1;
    }
    return low;
}

// Leaves of e (numbers up to 1, of which the highest is 1) only what may be drawn: the top_k highest, of those the
// fewest that together reach top_p of what they have, of those what reaches min_p. Of equal ones the first stay.
inline void restrict_to(float *e, int n, const Draw &draw) {
    const int one = bits_of(1.0f);
    int least = 1, equal = ALL;  // stay: all above `least`, and so many that are equal to it
    if (draw.top_k > 0 && draw.top_k < n) {
        least = last_enough(0, one, [&](int b) { return count_from(e, n, b) >= draw.top_k; });
        equal = draw.top_k - count_from(e, n, least + 1);
    }
    auto value = [](int b) { float x; std::memcpy(&x, &b, 4); return x; };
    auto equals = [&](int b) { return count_from(e, n, b) - count_from(e, n, b + 1); };
    if (draw.top_p < 1) {
        int tied = std::min(equal, equals(least));
        double wanted = draw.top_p * (total_from(e, n, least + 1) + tied * double(value(least)));
        if (least < one && total_from(e, n, least + 1) >= wanted) {
            least = last_enough(least + 1, one, [&](int b) { return total_from(e, n, b) >= wanted; });
            tied = equals(least);
        }
        double missing = (wanted - total_from(e, n, least + 1)) / value(least);
        equal = std::min(tied, std::max(1, int(std::ceil(std::min(missing, double(tied))))));
    }
    int floor = bits_of(std::min(draw.min_p, 1.0f));
    if (draw.min_p > 0 && floor > least) least = floor, equal = ALL;
    if (equal < equals(least))
        for (int i = 0; i < n; i++)
            if (bits_of(e[i]) == least && equal-- <= 0) e[i] = 0;
    for (int i = 0; i < n; i += LANES) {
        Floats v = load<Floats>(e + i);
        store(e + i, bits(v) >= bits(least) ? v : Floats{});
    }
}

// The first place at which the running sum of e passes a part of the whole.
inline int inverted(const float *e, int n, double uniform) {
    auto numbers = [&](int i) { return load<Floats>(e + i); };
    double wanted = uniform * total_of(n, numbers), before = 0;
    int begin = 0;
    for (; begin < n - STRETCH; begin += STRETCH) {
        double part = total_of(STRETCH, [&](int i) { return numbers(begin + i); });
        if (before + part > wanted) break;
        before += part;
    }
    int found = -1;
    for (int i = begin; i < begin + STRETCH && before <= wanted; i++)
        if (e[i] > 0) found = i, before += e[i];
    // Rounding may have carried the sum past the last that has a part.
    while (found < 0 && begin > 0) found = e[--begin] > 0 ? begin : -1;
    return std::max(found, 0);
}

// A token, or -1 where logits are no numbers (NaN, infinite, or all of them minus infinity).
inline int draw_token(const float *x, int n, const Draw *draw, float *e) {
    int likeliest = highest_place(x, n);
    if (likeliest < 0 || !draw || draw->temperature == 0) return likeliest;
    const float most = x[likeliest];
    int size = padded(n), whole = n / LANES * LANES;
    std::memset(e + whole, 0, (size - whole) * sizeof(float));
    auto raised = [&](Floats v) { return exponential((v - most) / draw->temperature); };
    for (int i = 0; i < whole; i += LANES) store(e + i, raised(load<Floats>(x + i)));
    for (int i = whole; i < n; i++) e[i] = raised(all(x[i]))[0];
    if (draw->top_k > 0 || draw->top_p < 1 || draw->min_p > 0) restrict_to(e, size, *draw);
    return inverted(e, size, draw->uniform);
}

// The logarithm of the sum of the exponentials, by which a logit becomes a log-probability.
inline float log_total(const float *x, int n) {
    int likeliest = highest_place(x, n);
    if (likeliest < 0) return NAN;
    const float most = x[likeliest];
    int whole = n / STRETCH * STRETCH;
    double total = total_of(whole, [&](int i) { return exponential(load<Floats>(x + i) - most); });
    for (int i = whole; i < n; i++) total += exponential(all(x[i] - most))[0];
    return float(most + std::log(total));
}

// How many of n numbers are higher than one of them, and that one.
inline int rank_of(const float *x, int n, float value) {
    Ints higher = {};
    int i = 0, rank = 1;
    for (; i + LANES <= n; i += LANES) higher -= load<Floats>(x + i) > value;
    for (int lane = 0; lane < LANES; lane++) rank += higher[lane];
    for (; i < n; i++) rank += x[i] > value;
    return rank;
}

// Calls work(row) for all rows, by some threads where it is worth beginning them.
template <class F> void for_rows(int rows, int64_t numbers, int threads, F &&work) {
    std::atomic<int> next{0};
    auto take = [&] {
        for (int row = next++; row < rows; row = next++) work(row);
    };
    std::vector<std::thread> others;
    if (numbers >= (1 << 17))
        for (int number = 1; number < std::min(threads, rows); number++) others.emplace_back(take);
    take();
    for (auto &other : others) other.join();
}

}  // namespace yuan
