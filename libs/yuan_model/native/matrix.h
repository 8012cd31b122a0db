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

// A matrix [n, k] in panels of `width` outputs; in a panel lie, one input after the other (bfloat16 and int8: two inputs
// side by side), the weights of all its outputs.
struct Matrix {
    Format format = Format::f32;
    int n = 0, k = 0, width = 0, panels = 0, depth = 0;  // depth: k, even
    Memory<char> data;
    Memory<float> scales;  // int8: one for each output

    size_t panel_bytes() const {
        return size_t(depth) * width * (format == Format::f32 ? 4 : format == Format::b16 ? 2 : 1);
    }
    void pack(Format as, const float *rows, int outputs, int inputs, int threads, int least = 16) {
        format = as, n = outputs, k = inputs;
        depth = as == Format::f32 ? k : (k + 1) / 2 * 2;
        width = 64;
        while (width > least && (n + width - 1) / width < 2 * threads) width /= 2;
        panels = (n + width - 1) / width;
        data = allocate<char>(panel_bytes() * panels);
        if (as == Format::i8) scales = allocate<float>(size_t(panels) * width);
        for (int o = 0; o < n; o++) {
            const float *row = rows + size_t(o) * k;
            char *panel = data.get() + panel_bytes() * (o / width);
            int column = o % width;
            float scale = 1;
            if (as == Format::i8) {
                float most = 0;
                for (int i = 0; i < k; i++) most = std::max(most, std::fabs(row[i]));
                scale = most > 0 ? most / 127 : 1;
                scales[o] = scale;
            }
            for (int i = 0; i < k; i++) {
                size_t pair = (size_t(i / 2) * width + column) * 2 + i % 2;
                if (as == Format::f32) reinterpret_cast<float *>(panel)[size_t(i) * width + column] = row[i];
                else if (as == Format::b16) reinterpret_cast<bf16 *>(panel)[pair] = to_bf16(row[i]);
                else reinterpret_cast<int8_t *>(panel)[pair] = int8_t(std::lrint(row[i] / scale));
            }
        }
    }
};

// acc += (a0, a1) * 16 pairs of weights
#if defined(__AVX512BF16__)
inline Floats add_pairs(Floats acc, uint32_t a, Words weights) {
    return (Floats)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)weights);
}
#else
inline Floats add_pairs(Floats acc, uint32_t a, Words weights) {
    acc += all(to_float(bf16(a & 0xffff))) * (Floats)(weights << 16);
    return acc + all(to_float(bf16(a >> 16))) * (Floats)(weights & 0xffff0000u);
}
#endif

inline Words bytes_as_pairs(const int8_t *from) {  // whole numbers up to 256 are exact in bfloat16
    Floats low = widen(from), high = widen(from + LANES);
#if defined(__AVX512BF16__)
    return (Words)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#else
    bf16 pairs[32];
    narrow(pairs, low);
    narrow(pairs + 16, high);
    return load<Words>(pairs);
#endif
}

// ROWS x (VECTORS * 16) elements of the product, over the whole depth.
template <int ROWS, int VECTORS>
void tile_f32(const float *a, size_t stride, const float *panel, int depth, float *out) {
    Floats acc[ROWS][VECTORS] = {};
    for (int i = 0; i < depth; i++) {
        Floats weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) weights[v] = load<Floats>(panel + (size_t(i) * VECTORS + v) * LANES);
        for (int r = 0; r < ROWS; r++) {
            Floats input = all(a[r * stride + i]);
            for (int v = 0; v < VECTORS; v++) acc[r][v] += input * weights[v];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) store(out + (r * VECTORS + v) * LANES, acc[r][v]);
}
template <int ROWS, int VECTORS, bool BYTES>
void tile_pairs(const bf16 *a, size_t stride, const char *panel, int depth, float *out) {
    Floats acc[ROWS][VECTORS] = {};
    for (int i = 0; i < depth / 2; i++) {
        Words weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            size_t place = (size_t(i) * VECTORS + v) * LANES * 2;
            weights[v] = BYTES ? bytes_as_pairs(reinterpret_cast<const int8_t *>(panel) + place)
                               : load<Words>(panel + place * 2);
        }
        for (int r = 0; r < ROWS; r++) {
            uint32_t input;
            std::memcpy(&input, a + r * stride + 2 * i, 4);
            for (int v = 0; v < VECTORS; v++) acc[r][v] = add_pairs(acc[r][v], input, weights[v]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) store(out + (r * VECTORS + v) * LANES, acc[r][v]);
}

template <int VECTORS> constexpr int most_rows() { return VECTORS == 4 ? 6 : VECTORS == 2 ? 12 : 16; }

template <int ROWS, int VECTORS>
void tile(const Matrix &m, const void *a, size_t stride, const char *panel, bool widened, float *out) {
    if (m.format == Format::f32)
        tile_f32<ROWS, VECTORS>(static_cast<const float *>(a), stride, reinterpret_cast<const float *>(panel), m.depth, out);
    else if (m.format == Format::b16 || widened)
        tile_pairs<ROWS, VECTORS, false>(static_cast<const bf16 *>(a), stride, panel, m.depth, out);
    else
        tile_pairs<ROWS, VECTORS, true>(static_cast<const bf16 *>(a), stride, panel, m.depth, out);
}

template <int ROWS, int VECTORS>
void tile_of(int rows, const Matrix &m, const void *a, size_t stride, const char *panel, bool widened, float *out) {
    if constexpr (ROWS == 1) tile<1, VECTORS>(m, a, stride, panel, widened, out);
    else if (rows == ROWS) tile<ROWS, VECTORS>(m, a, stride, panel, widened, out);
    else tile_of<ROWS - 1, VECTORS>(rows, m, a, stride, panel, widened, out);
}

// What a thread needs of its own.
struct Scratch {
    Memory<float> tile = allocate<float>(16 * 64);
    Memory<float> scores;
    std::vector<float> small;
    Memory<char> panel;  // an int8 panel as bfloat16, where many rows use it
};

template <int VECTORS, class Take>
void product_of(const Matrix &m, const void *a, size_t stride, size_t item, int rows, int p, Scratch &own, Take &&take) {
    constexpr int MOST = most_rows<VECTORS>();
    const char *panel = m.data.get() + m.panel_bytes() * p;
    bool widened = m.format == Format::i8 && rows > MOST;
    if (widened) {
        auto *wide = own.panel.get();
        for (size_t i = 0; i < size_t(m.depth) * m.width; i += 32)
            store(wide + i * 2, bytes_as_pairs(reinterpret_cast<const int8_t *>(panel) + i));
        panel = wide;
    }
    float *out = own.tile.get();
    int begin = p * m.width, count = std::min(m.width, m.n - begin);
    for (int r = 0; r < rows; r += MOST) {
        int some = std::min(MOST, rows - r);
        tile_of<MOST, VECTORS>(some, m, static_cast<const char *>(a) + r * stride * item, stride, panel, widened, out);
        for (int i = 0; i < some; i++) {
            float *values = out + i * m.width;
            if (m.format == Format::i8)
                for (int c = 0; c < m.width; c += LANES)
                    store(values + c, load<Floats>(values + c) * load<Floats>(m.scales.get() + begin + c));
            take(r + i, begin, count, values);
        }
    }
}

// Calls take(row, first output, outputs, values) for panel p of a * m^T; `a` has `rows` rows of `stride` items.
template <class A, class Take>
void product(const Matrix &m, const A *a, size_t stride, int rows, int p, Scratch &own, Take &&take) {
    if (m.width == 64) product_of<4>(m, a, stride, sizeof(A), rows, p, own, take);
    else if (m.width == 32) product_of<2>(m, a, stride, sizeof(A), rows, p, own, take);
    else product_of<1>(m, a, stride, sizeof(A), rows, p, own, take);
}

}  // namespace yuan
