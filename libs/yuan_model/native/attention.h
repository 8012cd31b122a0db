// Attention of one query over a sequence's blocks. A block holds 16 tokens of all heads: keys with the tokens side by side
// (bfloat16: two dimensions of each), so that a block's 16 scores come as one vector; values token by token.
#pragma once
#include <limits>
#include "matrix.h"

namespace yuan {

constexpr int BLOCK = 16;

// Where a head lies in a block of one layer, in items.
struct BlockShape {
    int heads, dim, wide;  // wide: dim, a multiple of 16
    BlockShape(int heads_, int dim_) : heads(heads_), dim(dim_), wide((dim_ + 15) / 16 * 16) {}
    size_t key(int head) const { return size_t(head) * dim * BLOCK; }
    size_t value(int head) const { return size_t(heads) * dim * BLOCK + size_t(head) * wide * BLOCK; }
    size_t items() const { return size_t(heads) * (dim + wide) * BLOCK; }
};

inline void write_key(float *keys, int slot, int dim, const float *key) {
    for (int d = 0; d < dim; d++) keys[d * BLOCK + slot] = key[d];
}
inline void write_key(bf16 *keys, int slot, int dim, const float *key) {
    for (int d = 0; d < dim; d++) keys[(d / 2 * BLOCK + slot) * 2 + d % 2] = to_bf16(key[d]);
}

template <int QUERIES, int BLOCKS>
void score(const float *const *queries, const float *const *keys, int dim, Floats (*out)[BLOCKS]) {
    for (int q = 0; q < QUERIES; q++)
        for (int b = 0; b < BLOCKS; b++) out[q][b] = Floats{};
    for (int d = 0; d < dim; d++)
        for (int b = 0; b < BLOCKS; b++) {
            Floats key = load<Floats>(keys[b] + d * BLOCK);
            for (int q = 0; q < QUERIES; q++) out[q][b] = add_product(out[q][b], all(queries[q][d]), key);
        }
}
template <int QUERIES, int BLOCKS>
void score(const bf16 *const *queries, const bf16 *const *keys, int dim, Floats (*out)[BLOCKS]) {
    for (int q = 0; q < QUERIES; q++)
        for (int b = 0; b < BLOCKS; b++) out[q][b] = Floats{};
    for (int d = 0; d < dim / 2; d++)
        for (int b = 0; b < BLOCKS; b++) {
            Words key = load<Words>(keys[b] + d * BLOCK * 2);
            for (int q = 0; q < QUERIES; q++) {
                uint32_t pair;
                std::memcpy(&pair, queries[q] + 2 * d, 4);
                out[q][b] = add_pairs(out[q][b], pair, key);
            }
        }
}

template <int QUERIES, int VECTORS, class T>
void mix(const float *const *weights, const T *pool, size_t block_items, const int *table, size_t offset, int wide,
         const int *first, const int *last, int begin, T *const *outs, const float *scale) {
    Floats acc[QUERIES][VECTORS] = {};
    int low = first[0], high = last[0];
    for (int q = 1; q < QUERIES; q++) low = std::min(low, first[q]), high = std::max(high, last[q]);
    for (int t = low; t <= high; t++) {
        const T *row = pool + table[t / BLOCK] * block_items + offset + size_t(t % BLOCK) * wide + begin;
        Floats values[VECTORS];
        for (int v = 0; v < VECTORS; v++) values[v] = widen(row + v * LANES);
        for (int q = 0; q < QUERIES; q++) {
            if (t < first[q] || t > last[q]) continue;  // not times 0: what lies there may be no number
            Floats weight = all(weights[q][t]);
            for (int v = 0; v < VECTORS; v++) acc[q][v] = add_product(acc[q][v], weight, values[v]);
        }
    }
    for (int q = 0; q < QUERIES; q++)
        for (int v = 0; v < VECTORS; v++) narrow(outs[q] + begin + v * LANES, acc[q][v] * scale[q]);
}

// Attention of QUERIES queries of one sequence and head, each over the tokens first..last of its own.
// scores: QUERIES rows of `room` floats; outs: `wide` items each.
template <int QUERIES, class T>
void attend(const T *const *queries, const T *pool, size_t block_items, const int *table, const BlockShape &shape,
            int head, const int *first, const int *last, float *scores, size_t room, T *const *outs) {
    float factor = 1.0f / std::sqrt(float(shape.dim));
    int low = first[0] / BLOCK, high = last[0] / BLOCK;
    for (int q = 1; q < QUERIES; q++) low = std::min(low, first[q] / BLOCK), high = std::max(high, last[q] / BLOCK);
    constexpr int AT_ONCE = QUERIES == 1 ? 4 : 1;  // enough sums at once that none waits for the one before
    for (int b = low; b <= high; b += AT_ONCE) {
        const T *keys[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++)
            keys[i] = pool + table[std::min(b + i, high)] * block_items + shape.key(head);
        if constexpr (QUERIES == 1)
            for (int i = 0; i < AT_ONCE; i++) {
                const T *next = pool + table[std::min(b + AT_ONCE + i, high)] * block_items;
                fetch(next + shape.key(head), size_t(shape.dim) * BLOCK * sizeof(T));
                fetch(keys[i] - shape.key(head) + shape.value(head), size_t(shape.wide) * BLOCK * sizeof(T));
            }
        Floats out[QUERIES][AT_ONCE];
        score<QUERIES, AT_ONCE>(queries, keys, shape.dim, out);
        for (int q = 0; q < QUERIES; q++)
            for (int i = 0; i < AT_ONCE && b + i <= high; i++)
                store(scores + q * room + (b + i) * BLOCK, out[q][i] * factor);
    }
    const float *weights[QUERIES];
    float scale[QUERIES];
    for (int q = 0; q < QUERIES; q++) {
        float *row = scores + q * room;
        weights[q] = row;
        const float none = -std::numeric_limits<float>::infinity();
        int begin = first[q] / BLOCK * BLOCK, end = (last[q] / BLOCK + 1) * BLOCK;
        for (int t = begin; t < first[q]; t++) row[t] = none;
        for (int t = last[q] + 1; t < end; t++) row[t] = none;
        Floats most = all(none);
        for (int t = begin; t < end; t += LANES) {
            Floats v = load<Floats>(row + t);
            most = v > most ? v : most;
        }
        float top = highest(most);
        Floats total = {};
        for (int t = begin; t < end; t += LANES) {
            Floats v = exponential(load<Floats>(row + t) - top);
            store(row + t, v);
            total += v;
        }
        scale[q] = 1.0f / sum(total);
    }
    size_t offset = shape.value(head);
    int begin = 0;
    for (; begin + 4 * LANES <= shape.wide; begin += 4 * LANES)
        mix<QUERIES, 4>(weights, pool, block_items, table, offset, shape.wide, first, last, begin, outs, scale);
    for (; begin < shape.wide; begin += LANES)
        mix<QUERIES, 1>(weights, pool, block_items, table, offset, shape.wide, first, last, begin, outs, scale);
}

}  // namespace yuan
