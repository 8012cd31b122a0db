// One step of a Yuan network over the new tokens of many sequences: libs/yuan_model/native/runner.py says what is what.
#include <exception>
#include <memory>
#include <string>
#include "attention.h"
#include "drawing.h"

namespace yuan {

enum Part { CONV1, CONV2, QK, V, O, UP_GATE, DOWN, PARTS };

struct Adapter {  // low-rank additions: y += b (a x), the scale is in b
    int rank[PARTS] = {};
    Memory<float> a[PARTS], b[PARTS];
};

struct Layer {
    Matrix parts[PARTS];
    Memory<float> conv1_bias, conv2_bias, filter_norm, input_norm, mlp_norm;
};

extern "C" struct Shape {
    int layers, hidden, heads, dim, feed_forward, vocabulary, filtering, format, threads;
    int blocks, rows, slots, table_width, tokens, outputs, context, sharded;
    float norm_eps, filter_eps;
};

extern "C" struct Chunks {
    int chunks, tokens, outputs;
    int drawable;          // of the vocabulary, from its beginning, for `likeliest`; 0: it is not wanted
    const int *begins;     // [chunks + 1] where a chunk's tokens begin among all
    const int *positions;  // [chunks] of its first token in its sequence
    const int *rows;       // [chunks]
    const int *adapters;   // [chunks] -1: none
    const int *ids;        // [tokens]
    const int *first_seen; // [tokens] the first position that a token sees
    const int *wanted;     // [outputs] tokens whose logits are wanted
    float *logits;         // [outputs, vocabulary]
    int *likeliest;        // [outputs] the place of the highest logit; -1 where they are no numbers
};

extern "C" typedef int (*Reduce)(float *, int64_t);

struct Base {
    virtual ~Base() = default;
    virtual int step(const Chunks &) = 0;
    Shape shape;
    Arena arena;
    std::vector<Layer> layers;
    Matrix head;
    Memory<float> final_norm, cosine, sine;
    const void *embedding = nullptr;
    int embedding_is_bf16 = 0;
    void *pool = nullptr, *ring = nullptr, *ends = nullptr;
    const int *tables = nullptr;
    Reduce reduce = nullptr;
    std::vector<std::vector<Adapter>> adapters;
};

// What a thread needs of its own.
struct Scratch {
    Memory<float> tile = allocate<float>(16 * 64);
    Memory<float> scores;
    std::vector<float> small;
    std::vector<Highest> highest;  // of each output, among the logits that this thread has computed
    uint64_t highest_of = 0;       // the step
};

template <class T> struct Network : Base {
    BlockShape block;
    std::vector<Scratch> own;
    int hidden, half, inner, feed;  // inner: heads * dim
    Memory<float> residual, filtered, pairs, values, partial;
    Memory<T> queries;
    Rows<T> first, second, normed, filter_out, mixed, gated, last;
    std::vector<int> chunk_of, position;
    struct Item { int chunk, begin, count; };
    std::vector<Item> items;
    // The present step. A thread that is late may look at it when it has gone already, but takes nothing of it then.
    Chunks c{};
    int group = 1;  // tokens that are one item
    uint64_t steps = 0;
    std::atomic<int> failed{0};

    Team team;  // the last: it ends before what its threads use, and they find it until they have ended

    explicit Network(const Shape &s) : block(s.heads, s.dim), team(s.threads) {
        shape = s;
        layers.resize(s.layers);
        hidden = s.hidden, half = s.hidden / 2, inner = s.heads * s.dim, feed = s.feed_forward;
        size_t t = s.tokens;
        residual = allocate<float>(t * hidden);
        filtered = allocate<float>(t * hidden);
        pairs = allocate<float>(t * 2 * inner);
        values = allocate<float>(t * inner);
        if (s.sharded) partial = allocate<float>(t * hidden);
        queries = allocate<T>(t * inner);
        const Format weights = Format(s.format);
        first.make(t, 2 * hidden, weights);
        second.make(t, 2 * half, weights);
        filter_out.make(t, hidden, weights);
        normed.make(t, hidden, weights);
        mixed.make(t, s.heads * block.wide, weights);
        gated.make(t, feed, weights);
        last.make(s.outputs, hidden, weights);
        cosine = allocate<float>(size_t(s.context) * s.dim / 2);
        sine = allocate<float>(size_t(s.context) * s.dim / 2);
        final_norm = allocate<float>(hidden);
        chunk_of.resize(t), position.resize(t);
        items.reserve(t);
        own.resize(s.threads);
        for (auto &scratch : own) {
            scratch.scores = allocate<float>(4 * size_t(s.table_width) * BLOCK);
            scratch.highest.resize(s.outputs);
        }
        team.start([this](Team::Member me) { work(me); });
    }

    static void norm(const float *from, const float *weight, float eps, int size, T *to) {
        float inverse = 1.0f / std::sqrt(dot(from, from, size) / size + eps);
#pragma omp simd
        for (int i = 0; i < size; i++) put(to + i, from[i] * inverse * weight[i]);
    }

    T *ring_at(int layer, int row, int at) {
        size_t slot = (size_t(layer) * shape.rows + row) * shape.slots + at % shape.slots;
        return static_cast<T *>(ring) + slot * (hidden + half);
    }
    T *end_at(int layer, int place) {
        return static_cast<T *>(ends) + (size_t(layer) * shape.blocks + place) * (hidden + half);
    }
    const int *table_of(int chunk) const {
        return tables + size_t(c.rows[chunk]) * shape.table_width;
    }
    // The filter's steps (u, a) of the token before `at`; null where there is none.
    const T *before(int layer, int chunk, int at) {
        if (at == 0) return nullptr;
        if (at % BLOCK == 0) return end_at(layer, table_of(chunk)[at / BLOCK - 1]);
        return ring_at(layer, c.rows[chunk], at - 1);
    }

    // One panel of a product over all tokens, with what adapters add.
    template <class Take>
    void multiply(int layer, Part which, int panel, const Rows<T> &a, int number, Take &&take) {
        const Matrix &m = layers[layer].parts[which];
        if (adapters.empty()) {
            product(m, a, c.tokens, panel, own[number].tile.get(), take);
            return;
        }
        auto &small = own[number].small;
        product(m, a, c.tokens, panel, own[number].tile.get(), [&](int t, int begin, int count, float *out) {
            if (const Adapter *adapter = adapter_of(chunk_of[t], layer, which)) {
                int rank = adapter->rank[which];
                small.assign(rank, 0);
                for (int r = 0; r < rank; r++) small[r] = dot(adapter->a[which].get() + size_t(r) * m.k, a[t], m.k);
                for (int i = 0; i < count; i++)
                    for (int r = 0; r < rank; r++)
                        out[i] += adapter->b[which].get()[size_t(begin + i) * rank + r] * small[r];
            }
            take(t, begin, count, out);
        });
    }
    const Adapter *adapter_of(int chunk, int layer, Part which) const {
        int number = c.adapters[chunk];
        if (number < 0) return nullptr;
        const Adapter &adapter = adapters[number][layer];
        return adapter.rank[which] ? &adapter : nullptr;
    }

    int step(const Chunks &chunks) override {
        c = chunks;
        steps++;
        failed = 0;
        group = c.tokens < 8 ? 1 : 4;
        items.clear();
        for (int chunk = 0; chunk < c.chunks; chunk++)
            for (int t = c.begins[chunk]; t < c.begins[chunk + 1]; t++) {
                chunk_of[t] = chunk;
                position[t] = c.positions[chunk] + t - c.begins[chunk];
                if ((t - c.begins[chunk]) % 4 == 0) items.push_back({chunk, t, std::min(4, c.begins[chunk + 1] - t)});
            }
        team.run();
        return failed;
    }

    // A phase over all tokens.
    template <class F> void tokens(Team::Member &me, F &&work_on) {
        team.phase(me, (c.tokens + group - 1) / group, [&](int item) {
            for (int t = item * group; t < std::min(c.tokens, (item + 1) * group); t++) work_on(t);
        });
    }

    // A phase of its own for rows of which no thread writes a whole one.
    void complete(Team::Member &me, Rows<T> &rows) {
        if (rows.bytes) tokens(me, [&](int t) { rows.complete(t); });
    }

    void work(Team::Member me) {
        for (int layer = 0; layer < shape.layers; layer++) {
            attention(me, layer);
            feed_forward(me, layer);
        }
        team.phase(me, std::max(c.outputs, 1), [&](int o) {
            if (o >= c.outputs) return;
            norm(residual.get() + size_t(c.wanted[o]) * hidden, final_norm.get(), shape.norm_eps, hidden, last[o]);
            last.complete(o);
        });
        team.phase(me, c.outputs ? head.panels : 1, [&](int panel) {
            if (!c.outputs) return;
            Scratch &mine = own[me.number];
            if (mine.highest_of != steps) {
                std::fill_n(mine.highest.begin(), c.outputs, Highest{});
                mine.highest_of = steps;
            }
            product(head, last, c.outputs, panel, mine.tile.get(), [&](int o, int begin, int count, float *out) {
                std::memcpy(c.logits + size_t(o) * shape.vocabulary + begin, out, count * sizeof(float));
                mine.highest[o].take(out, begin, std::min(count, c.drawable - begin));
            });
        });
        team.phase(me, std::max(c.drawable ? c.outputs : 0, 1), [&](int o) {
            if (!c.drawable || o >= c.outputs) return;
            Highest highest;
            for (const Scratch &one : own)
                if (one.highest_of == steps) highest.take(one.highest[o]);
            c.likeliest[o] = highest.found();
        });
    }

    void embed(int t) {
        float *x = residual.get() + size_t(t) * hidden;
        size_t row = size_t(c.ids[t]) * hidden;
        for (int i = 0; i < hidden; i++)
            x[i] = embedding_is_bf16 ? to_float(static_cast<const bf16 *>(embedding)[row + i])
                                     : static_cast<const float *>(embedding)[row + i];
    }

    // The normed input u, and in front of it that of the token before, where the filter wants both.
    void begin_layer(int l, int t) {
        if (l == 0) embed(t);
        T *u = normed[t];
        norm(residual.get() + size_t(t) * hidden, layers[l].input_norm.get(), shape.norm_eps, hidden, u);
        normed.complete(t);
        if (!shape.filtering) return;
        std::memcpy(first[t] + hidden, u, hidden * sizeof(T));
        int chunk = chunk_of[t];
        if (t + 1 < c.begins[chunk + 1]) std::memcpy(first[t + 1], u, hidden * sizeof(T));
        if (t != c.begins[chunk]) return;
        const T *older = before(l, chunk, position[t]);
        T *u_before = first[t], *a_before = second[t];
        if (older) {
            std::memcpy(u_before, older, hidden * sizeof(T));
            std::memcpy(a_before, older + hidden, half * sizeof(T));
        } else {
            std::memset(u_before, 0, hidden * sizeof(T));
            std::memset(a_before, 0, half * sizeof(T));
        }
    }

    void attention(Team::Member &me, const int l) {
        Layer &layer = layers[l];
        const Rows<T> &projected = shape.filtering ? filter_out : normed;
        tokens(me, [&](int t) { begin_layer(l, t); });
        if (shape.filtering) {
            complete(me, first);
            team.phase(me, layer.parts[CONV1].panels, [&](int panel) {
                multiply(l, CONV1, panel, first, me.number, [&](int t, int begin, int count, float *out) {
                    T *a = second[t] + half + begin;
                    for (int i = 0; i < count; i++) put(a + i, out[i] + layer.conv1_bias[begin + i]);
                    if (t + 1 < c.begins[chunk_of[t] + 1])
                        std::memcpy(second[t + 1] + begin, a, count * sizeof(T));
                });
            });
            complete(me, second);
            team.phase(me, layer.parts[CONV2].panels, [&](int panel) {
                multiply(l, CONV2, panel, second, me.number, [&](int t, int begin, int count, float *out) {
                    const T *u = normed[t] + begin;
                    float *f = filtered.get() + size_t(t) * hidden + begin;
                    for (int i = 0; i < count; i++) f[i] = out[i] + layer.conv2_bias[begin + i] + to_float(u[i]);
                });
            });
            tokens(me, [&](int t) {
                norm(filtered.get() + size_t(t) * hidden, layer.filter_norm.get(), shape.filter_eps, hidden,
                     filter_out[t]);
                filter_out.complete(t);
                keep(l, t);
            });
        }
        int pair_panels = layer.parts[QK].panels;
        team.phase(me, pair_panels + layer.parts[V].panels, [&](int panel) {
            if (panel < pair_panels)
                multiply(l, QK, panel, projected, me.number, [&](int t, int begin, int count, float *out) {
                    std::memcpy(pairs.get() + size_t(t) * 2 * inner + begin, out, count * sizeof(float));
                });
            else
                multiply(l, V, panel - pair_panels, normed, me.number,
                         [&](int t, int begin, int count, float *out) {
                             std::memcpy(values.get() + size_t(t) * inner + begin, out, count * sizeof(float));
                         });
        });
        T *layer_pool = static_cast<T *>(pool) + size_t(l) * shape.blocks * block.items();
        tokens(me, [&](int t) {
            for (int head_number = 0; head_number < shape.heads; head_number++) rotate(layer_pool, t, head_number);
        });
        int count = int(items.size());
        team.phase(me, count * shape.heads, [&](int item) {
            attend_item(layer_pool, items[item % count], item / count, own[me.number]);
        });
        complete(me, mixed);
        add(me, l, O, mixed);
    }

    // Keeps (u, a) of a token where a later step may look for it.
    void keep(int layer, int t) {
        int chunk = chunk_of[t], at = position[t];
        const T *u = normed[t], *a = second[t] + half;
        auto write = [&](T *to) {
            std::memcpy(to, u, hidden * sizeof(T));
            std::memcpy(to + hidden, a, half * sizeof(T));
        };
        if (c.begins[chunk + 1] - t <= shape.slots) write(ring_at(layer, c.rows[chunk], at));
        if (at % BLOCK == BLOCK - 1) write(end_at(layer, table_of(chunk)[at / BLOCK]));
    }

    void rotate(T *layer_pool, int t, int head) {
        int at = position[t], dim = shape.dim, middle = dim / 2;
        const float *cos = cosine.get() + size_t(at) * middle, *sin = sine.get() + size_t(at) * middle;
        const float *q = pairs.get() + (size_t(t) * shape.heads + head) * 2 * dim, *k = q + dim;
        T *query = queries.get() + size_t(t) * inner + head * dim;
        float key[1024];
        for (int i = 0; i < middle; i++) {
            put(query + i, q[i] * cos[i] - q[middle + i] * sin[i]);
            put(query + middle + i, q[middle + i] * cos[i] + q[i] * sin[i]);
            key[i] = k[i] * cos[i] - k[middle + i] * sin[i];
            key[middle + i] = k[middle + i] * cos[i] + k[i] * sin[i];
        }
        T *home = layer_pool + table_of(chunk_of[t])[at / BLOCK] * block.items();
        write_key(home + block.key(head), at % BLOCK, dim, key);
        const float *v = values.get() + size_t(t) * inner + head * dim;
        T *value = home + block.value(head) + size_t(at % BLOCK) * block.wide;
        for (int i = 0; i < dim; i++) put(value + i, v[i]);
    }

    void attend_item(const T *layer_pool, const Item &item, int head, Scratch &scratch) {
        const T *q[4];
        T *out[4];
        int low[4], high[4];
        for (int i = 0; i < item.count; i++) {
            int t = item.begin + i;
            q[i] = queries.get() + size_t(t) * inner + head * shape.dim;
            out[i] = mixed[t] + head * block.wide;
            low[i] = c.first_seen[t], high[i] = position[t];
        }
        size_t room = size_t(shape.table_width) * BLOCK;
        const int *table = table_of(item.chunk);
        if (item.count == 4) {
            attend<4, T>(q, layer_pool, block.items(), table, block, head, low, high, scratch.scores.get(), room, out);
            return;
        }
        for (int i = 0; i < item.count; i++)
            attend<1, T>(q + i, layer_pool, block.items(), table, block, head, low + i, high + i,
                         scratch.scores.get(), room, out + i);
    }

    void feed_forward(Team::Member &me, int l) {
        Layer &layer = layers[l];
        tokens(me, [&](int t) {
            norm(residual.get() + size_t(t) * hidden, layer.mlp_norm.get(), shape.norm_eps, hidden, normed[t]);
            normed.complete(t);
        });
        // 16 outputs of up, then the 16 of gate that belong to them.
        team.phase(me, layer.parts[UP_GATE].panels, [&](int panel) {
            multiply(l, UP_GATE, panel, normed, me.number, [&](int t, int begin, int count, float *out) {
                T *g = gated[t] + begin / 2;
                for (int i = 0; i < count; i += 2 * LANES)
                    narrow(g + i / 2, silu(load<Floats>(out + i)) * load<Floats>(out + i + LANES));
            });
        });
        complete(me, gated);
        add(me, l, DOWN, gated);
    }

    // residual += a * m^T, over all ranks
    void add(Team::Member &me, int l, Part which, const Rows<T> &a) {
        team.phase(me, layers[l].parts[which].panels, [&](int panel) {
            multiply(l, which, panel, a, me.number, [&](int t, int begin, int count, float *out) {
                float *x = (shape.sharded ? partial.get() : residual.get()) + size_t(t) * hidden + begin;
                if (shape.sharded) std::memcpy(x, out, count * sizeof(float));
                else for (int i = 0; i < count; i++) x[i] += out[i];
            });
        });
        if (!shape.sharded) return;
        team.phase(me, 1, [&](int) {
            if (!failed && reduce(partial.get(), int64_t(c.tokens) * hidden)) failed = 1;
        });
        tokens(me, [&](int t) {
            for (size_t i = size_t(t) * hidden; i < size_t(t + 1) * hidden; i++) residual[i] += partial[i];
        });
    }
};

std::string failure;

}  // namespace yuan

using namespace yuan;

static Memory<float> copied(const float *from, size_t count) {
    auto held = allocate<float>(count);
    std::memcpy(held.get(), from, count * sizeof(float));
    return held;
}

extern "C" {

const char *yuan_failure() { return failure.c_str(); }

void *yuan_make(const Shape *shape) {
    try {
        if (shape->format == int(Format::f32)) return static_cast<Base *>(new Network<float>(*shape));
        return static_cast<Base *>(new Network<bf16>(*shape));
    } catch (const std::exception &error) {
        failure = error.what();
        return nullptr;
    }
}
void yuan_free(void *network) { delete static_cast<Base *>(network); }

// part: as in Part, or PARTS for the output projection (layer is ignored then)
int yuan_matrix(void *network, int layer, int part, const float *rows, int n, int k) {
    try {
        auto *base = static_cast<Base *>(network);
        Matrix &m = part == PARTS ? base->head : base->layers[layer].parts[part];
        m.pack(Format(base->shape.format), rows, n, k, base->shape.threads, part == UP_GATE ? 32 : 16, base->arena);
        return 0;
    } catch (const std::exception &error) {
        failure = error.what();
        return 1;
    }
}
void yuan_vector(void *network, int layer, int which, const float *from, int64_t count) {
    auto *base = static_cast<Base *>(network);
    Memory<float> held = copied(from, count);
    if (which == 5) base->final_norm = std::move(held);
    else if (which == 6) base->cosine = std::move(held);
    else if (which == 7) base->sine = std::move(held);
    else {
        Layer &l = base->layers[layer];
        (which == 0 ? l.conv1_bias : which == 1 ? l.conv2_bias : which == 2 ? l.filter_norm : which == 3 ? l.input_norm : l.mlp_norm) =
            std::move(held);
    }
}
void yuan_memory(void *network, void *pool, void *ring, void *ends, const int *tables, const void *embedding, int is_bf16,
                 Reduce reduce) {
    auto *base = static_cast<Base *>(network);
    base->pool = pool, base->ring = ring, base->ends = ends, base->tables = tables;
    base->embedding = embedding, base->embedding_is_bf16 = is_bf16, base->reduce = reduce;
}
int yuan_adapter(void *network) {
    auto *base = static_cast<Base *>(network);
    base->adapters.emplace_back(base->shape.layers);
    return int(base->adapters.size()) - 1;
}
void yuan_adapter_part(void *network, int adapter, int layer, int part, const float *a, const float *b, int rank) {
    auto *base = static_cast<Base *>(network);
    const Matrix &m = base->layers[layer].parts[part];
    Adapter &one = base->adapters[adapter][layer];
    one.rank[part] = rank;
    one.a[part] = copied(a, size_t(rank) * m.k);
    one.b[part] = copied(b, size_t(rank) * m.n);
}
void yuan_adapter_free(void *network, int adapter) {
    static_cast<Base *>(network)->adapters[adapter] = std::vector<Adapter>(static_cast<Base *>(network)->shape.layers);
}
int yuan_step(void *network, const Chunks *chunks) { return static_cast<Base *>(network)->step(*chunks); }

// A token for each of some rows of logits; draws: how, null: the likeliest.
void yuan_draw(const float *logits, int64_t stride, const int *rows, int count, int vocabulary, const Draw *draws,
               int threads, int *tokens) {
    for_rows(count, draws ? int64_t(count) * vocabulary : 0, threads, [&](int i) {
        static thread_local std::vector<float> numbers;
        if (draws) numbers.resize(padded(vocabulary));
        tokens[i] = draw_token(logits + rows[i] * stride, vocabulary, draws ? draws + i : nullptr, numbers.data());
    });
}
// By how much each row's logits are above log-probabilities, and which place a token has in it.
void yuan_places(const float *logits, int64_t stride, const int *rows, int count, int vocabulary, const int *tokens,
                 int threads, float *totals, int *ranks) {
    for_rows(count, int64_t(count) * vocabulary, threads, [&](int i) {
        const float *x = logits + rows[i] * stride;
        totals[i] = log_total(x, vocabulary);
        ranks[i] = rank_of(x, vocabulary, x[tokens[i]]);
    });
}

// Reads `bytes` of memory with all threads: what a step that reads all weights once can reach at best.
double yuan_read(void *memory, int64_t bytes, int threads) {
    std::vector<double> sums(threads);
    auto read = [&](int number) {
        int64_t count = bytes / threads / 512 * 512;
        const char *from = static_cast<const char *>(memory) + count * number;
        Floats total[8] = {};
        for (int64_t i = 0; i < count; i += 512)
            for (int v = 0; v < 8; v++) total[v] += load<Floats>(from + i + v * 64);
        for (int v = 0; v < 8; v++) sums[number] += sum(total[v]);
    };
    std::vector<std::thread> others;
    for (int number = 1; number < threads; number++) others.emplace_back(read, number);
    read(0);
    for (auto &other : others) other.join();
    double total = 0;
    for (double one : sums) total += one;
    return total;
}
}
