// Weight matrices packed for products with few rows, and those products. A product's every element is summed in the same
// order whatever the number of rows is: that is what makes a request's numbers independent of its batch.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <sys/mman.h>
#include "vectors.h"

namespace yuan {

enum class Format : int { f32 = 0, b16 = 1, i8 = 2 };

struct Freed { void operator()(void *p) const { std::free(p); } };
template <class T> using Memory = std::unique_ptr<T[], Freed>;
template <class T> Memory<T> allocate(size_t count) {
    size_t bytes = (std::max<size_t>(count, 1) * sizeof(T) + 63) / 64 * 64;
    bool large = bytes >= (4u << 20);
    size_t alignment = large ? (2u << 20) : 64;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    void *p = std::aligned_alloc(alignment, bytes);
    if (!p) throw std::bad_alloc();
    if (large) madvise(p, bytes, MADV_HUGEPAGE);
    std::memset(p, 0, bytes);
    return Memory<T>(static_cast<T *>(p));
}

// Memory of zeros for all that a step reads once: in pages of 2 MB where the system has them, so that the processor's own
// prefetching is not cut every 4 KB. Given back as a whole.
class Arena {
public:
    Arena() = default;
    Arena(const Arena &) = delete;
    ~Arena() {
        for (auto [piece, bytes] : pieces_) munmap(piece, bytes);
    }
    char *take(size_t bytes) {
        bytes = (bytes + 63) / 64 * 64;
        if (bytes > left_) {
            size_t whole = std::max(bytes, PIECE) + HUGE;
            void *piece = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (piece == MAP_FAILED) throw std::bad_alloc();
            pieces_.push_back({piece, whole});
            size_t unaligned = -reinterpret_cast<uintptr_t>(piece) % HUGE;
            next_ = static_cast<char *>(piece) + unaligned, left_ = whole - unaligned;
            madvise(next_, left_ / HUGE * HUGE, MADV_HUGEPAGE);
        }
        char *taken = next_;
        next_ += bytes, left_ -= bytes;
        return taken;
    }

private:
    static constexpr size_t HUGE = 2u << 20, PIECE = 64u << 20;  // what is not used of a piece is never touched
    std::vector<std::pair<void *, size_t>> pieces_;
    char *next_ = nullptr;
    size_t left_ = 0;
};

// With VNNI, products with int8 weights are sums of whole numbers.
#if defined(__AVX512VNNI__)
constexpr bool WHOLE = true;
#else
constexpr bool WHOLE = false;
#endif

// A matrix [n, k] in panels of `width` outputs; in a panel lie, one input after the other (bfloat16: two inputs side by
// side, int8: four), the weights of all its outputs.
struct Matrix {
    Format format = Format::f32;
    int n = 0, k = 0, width = 0, panels = 0, depth = 0;  // depth: k, in whole groups of inputs
    const char *data = nullptr;  // in an arena
    Memory<float> scales;        // int8: one for each output
    Memory<int32_t> sums;        // int8: of each output's weights

    int inputs_together() const { return format == Format::f32 ? 1 : format == Format::b16 ? 2 : 4; }
    size_t panel_bytes() const {
        return size_t(depth) * width * (format == Format::f32 ? 4 : format == Format::b16 ? 2 : 1);
    }
    void pack(Format as, const float *rows, int outputs, int inputs, int threads, int least, Arena &arena) {
        format = as, n = outputs, k = inputs;
        const int together = inputs_together();
        depth = (k + together - 1) / together * together;
        width = 64;
        while (width > least && (n + width - 1) / width < 2 * threads) width /= 2;
        panels = (n + width - 1) / width;
        char *packed = arena.take(panel_bytes() * panels);
        data = packed;
        if (as == Format::i8) {
            scales = allocate<float>(size_t(panels) * width);
            sums = allocate<int32_t>(size_t(panels) * width);
        }
        for (int o = 0; o < n; o++) {
            const float *row = rows + size_t(o) * k;
            char *panel = packed + panel_bytes() * (o / width);
            int column = o % width;
            float scale = 1;
            if (as == Format::i8) {
                float most = 0;
                for (int i = 0; i < k; i++) most = std::max(most, std::fabs(row[i]));
                scale = most > 0 ? most / 127 : 1;
                scales[o] = scale;
            }
            for (int i = 0; i < k; i++) {
                size_t place = (size_t(i / together) * width + column) * together + i % together;
                if (as == Format::f32) reinterpret_cast<float *>(panel)[place] = row[i];
                else if (as == Format::b16) reinterpret_cast<bf16 *>(panel)[place] = to_bf16(row[i]);
                else {
                    auto weight = int8_t(std::lrint(row[i] / scale));
                    reinterpret_cast<int8_t *>(panel)[place] = weight;
                    sums[o] += weight;
                }
            }
        }
    }
};

// What products read, row by row. For int8 weights a row is, beside its items, whole numbers of 16 bits times a scale of
// its own (finer than bfloat16, seen against the row's length): the number q + 32768 as its high byte and its low byte, so
// that two sums of products of bytes are the sum of products of 16 bits with 8.
template <class T> struct Rows {
    int size = 0, depth = 0;
    Memory<T> items;
    Memory<uint8_t> bytes;  // of a row: the high ones, then the low ones; empty where none are wanted
    Memory<float> scales;

    void make(size_t rows, int size_, Format weights) {
        size = size_, depth = (size + 3) / 4 * 4;
        items = allocate<T>(rows * size);
        if (!WHOLE || weights != Format::i8) return;
        bytes = allocate<uint8_t>(rows * 2 * depth);
        scales = allocate<float>(rows);
    }
    T *operator[](size_t row) const { return items.get() + row * size; }
    // To be called when a row is complete, before it is read by a product.
    void complete(size_t row) {
        if (!bytes) return;
        const T *from = (*this)[row];
        uint8_t *high = bytes.get() + row * 2 * depth, *low = high + depth;
        float most = 0, wrong = 0;  // wrong: NaN where a number is none, or infinite
#pragma omp simd reduction(max : most) reduction(+ : wrong)
        for (int i = 0; i < size; i++) {
            float x = std::fabs(to_float(from[i]));
            most = x > most ? x : most;
            wrong += x - x;
        }
        const float factor = most > 1e-30f ? 32767 / most : 0;
#pragma omp simd
        for (int i = 0; i < size; i++) {
            int whole = int(to_float(from[i]) * factor + 32768.5f);  // to nearest: the sum is positive
            high[i] = uint8_t(whole >> 8), low[i] = uint8_t(whole);
        }
        for (int i = size; i < depth; i++) high[i] = 128, low[i] = 0;
        scales[row] = most / 32767 + wrong;
    }
};

// acc += (a0, a1) * 16 pairs of weights
#if defined(__AVX512BF16__)
inline Floats add_pairs(Floats acc, uint32_t a, Words weights) {
    return (Floats)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)weights);
}
#else
inline Floats add_pairs(Floats acc, uint32_t a, Words weights) {
    acc = add_product(acc, all(to_float(bf16(a & 0xffff))), (Floats)(weights << 16));
    return add_product(acc, all(to_float(bf16(a >> 16))), (Floats)(weights & 0xffff0000u));
}
#endif

// acc += (four bytes of a) * 16 times four weights
#if defined(__AVX512VNNI__)
inline Ints add_quads(Ints acc, uint32_t a, Ints weights) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(int(a)), (__m512i)weights);
}
#else
inline Ints add_quads(Ints, uint32_t, Ints);  // never called: WHOLE is false
#endif

// Each tile: ROWS x (VECTORS * 16) elements of the product, over the whole depth.
template <int ROWS, int VECTORS>
void tile_f32(const float *a, size_t stride, const float *panel, int depth, float *out) {
    Floats acc[ROWS][VECTORS] = {};
    for (int i = 0; i < depth; i++) {
        Floats weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) weights[v] = load<Floats>(panel + (size_t(i) * VECTORS + v) * LANES);
        for (int r = 0; r < ROWS; r++) {
            Floats input = all(a[r * stride + i]);
            for (int v = 0; v < VECTORS; v++) acc[r][v] = add_product(acc[r][v], input, weights[v]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) store(out + (r * VECTORS + v) * LANES, acc[r][v]);
}
template <int ROWS, int VECTORS>
void tile_b16(const bf16 *a, size_t stride, const bf16 *panel, int depth, float *out) {
    Floats acc[ROWS][VECTORS] = {};
    for (int i = 0; i < depth / 2; i++) {
        Words weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) weights[v] = load<Words>(panel + (size_t(i) * VECTORS + v) * LANES * 2);
        for (int r = 0; r < ROWS; r++) {
            uint32_t input;
            std::memcpy(&input, a + r * stride + 2 * i, 4);
            for (int v = 0; v < VECTORS; v++) acc[r][v] = add_pairs(acc[r][v], input, weights[v]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) store(out + (r * VECTORS + v) * LANES, acc[r][v]);
}
// Weights still without their scales. `size`: of a row, which may end within the last four weights.
template <int ROWS, int VECTORS>
void tile_i8(const bf16 *a, size_t stride, const char *panel, int size, float *out) {
    Floats acc[ROWS][VECTORS] = {};
    for (int i = 0; i < size; i++)
        for (int v = 0; v < VECTORS; v++) {
            Ints four = load<Ints>(panel + (size_t(i / 4) * VECTORS + v) * 64);
            Floats weights = __builtin_convertvector((four << (24 - i % 4 * 8)) >> 24, Floats);
            for (int r = 0; r < ROWS; r++) acc[r][v] = add_product(acc[r][v], all(to_float(a[r * stride + i])), weights);
        }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) store(out + (r * VECTORS + v) * LANES, acc[r][v]);
}
// The same of rows as bytes, still without their scales either. No sum can overflow: 255 * 127 * 65,000 inputs.
template <int ROWS, int VECTORS>
void tile_whole(const uint8_t *a, const char *panel, const int32_t *sums, int depth, float *out) {
    Ints high[ROWS][VECTORS] = {}, low[ROWS][VECTORS] = {};
    for (int i = 0; i < depth; i += 4) {
        Ints weights[VECTORS];
        const char *from = panel + size_t(i) * VECTORS * LANES;
        if constexpr (ROWS == 1) fetch(from + 2048, sizeof weights);  // one row waits for nothing but memory
        for (int v = 0; v < VECTORS; v++) weights[v] = load<Ints>(from + v * sizeof(Ints));
        for (int r = 0; r < ROWS; r++) {
            uint32_t above, below;
            std::memcpy(&above, a + size_t(r) * 2 * depth + i, 4);
            std::memcpy(&below, a + size_t(r) * 2 * depth + depth + i, 4);
            for (int v = 0; v < VECTORS; v++) {
                high[r][v] = add_quads(high[r][v], above, weights[v]);
                low[r][v] = add_quads(low[r][v], below, weights[v]);
            }
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) {
            Ints signed_high = high[r][v] - 128 * load<Ints>(sums + v * LANES);
            store(out + (r * VECTORS + v) * LANES, 256.0f * __builtin_convertvector(signed_high, Floats) +
                                                       __builtin_convertvector(low[r][v], Floats));
        }
}

// Rows of one tile: as many sums as registers hold.
template <int VECTORS> constexpr int most_rows(Format weights) {
    int rows = VECTORS == 4 ? 6 : VECTORS == 2 ? 12 : 16;
    return WHOLE && weights == Format::i8 ? rows / 2 : rows;
}

template <Format WEIGHTS, int ROWS, int VECTORS, class T>
void tile(int rows, const Matrix &m, const Rows<T> &a, size_t row, int p, float *out) {
    if constexpr (ROWS > 1) {
        if (rows < ROWS) return tile<WEIGHTS, ROWS - 1, VECTORS>(rows, m, a, row, p, out);
    }
    const char *panel = m.data + m.panel_bytes() * p;
    if constexpr (WEIGHTS == Format::f32)
        tile_f32<ROWS, VECTORS>(a[row], a.size, reinterpret_cast<const float *>(panel), m.depth, out);
    else if constexpr (WEIGHTS == Format::b16)
        tile_b16<ROWS, VECTORS>(a[row], a.size, reinterpret_cast<const bf16 *>(panel), m.depth, out);
    else if constexpr (WHOLE)
        tile_whole<ROWS, VECTORS>(a.bytes.get() + row * 2 * a.depth, panel, m.sums.get() + p * m.width, m.depth, out);
    else
        tile_i8<ROWS, VECTORS>(a[row], a.size, panel, m.k, out);
}

// `out`: room for 16 * 64 numbers, as everywhere below.
template <Format WEIGHTS, int VECTORS, class T, class Take>
void product_of(const Matrix &m, const Rows<T> &a, int rows, int p, float *out, Take &&take) {
    constexpr int MOST = most_rows<VECTORS>(WEIGHTS);
    int begin = p * m.width, count = std::min(m.width, m.n - begin);
    for (int r = 0; r < rows; r += MOST) {
        int some = std::min(MOST, rows - r);
        tile<WEIGHTS, MOST, VECTORS>(some, m, a, r, p, out);
        for (int i = 0; i < some; i++) {
            float *values = out + i * m.width;
            if constexpr (WEIGHTS == Format::i8) {
                float scale = WHOLE ? a.scales[r + i] : 1;
                for (int c = 0; c < m.width; c += LANES)
                    store(values + c, load<Floats>(values + c) * (scale * load<Floats>(m.scales.get() + begin + c)));
            }
            take(r + i, begin, count, values);
        }
    }
}
template <Format WEIGHTS, class T, class Take>
void product_with(const Matrix &m, const Rows<T> &a, int rows, int p, float *out, Take &&take) {
    if (m.width == 64) product_of<WEIGHTS, 4>(m, a, rows, p, out, take);
    else if (m.width == 32) product_of<WEIGHTS, 2>(m, a, rows, p, out, take);
    else product_of<WEIGHTS, 1>(m, a, rows, p, out, take);
}

// Calls take(row, first output, outputs, values) for panel p of a * m^T over the first `rows` rows of a.
template <class Take> void product(const Matrix &m, const Rows<float> &a, int rows, int p, float *out, Take &&take) {
    product_with<Format::f32>(m, a, rows, p, out, take);
}
template <class Take> void product(const Matrix &m, const Rows<bf16> &a, int rows, int p, float *out, Take &&take) {
    if (m.format == Format::i8) product_with<Format::i8>(m, a, rows, p, out, take);
    else product_with<Format::b16>(m, a, rows, p, out, take);
}

}  // namespace yuan
