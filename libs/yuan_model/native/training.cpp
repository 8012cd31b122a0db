// What a training step on a processor does between its matrix products, each in one pass over memory: RMSNorm, SwiGLU,
// rotation, the softmax of causal attention, cross entropy; forward and backward, in fp32 or bf16, computed in fp32.
// torch has an operation, and a pass, for each part of them. Not here: matrix products, which torch does well.
//
// Threads are OpenMP's, of the runtime that torch has loaded: no second set of threads contends for the cores. Work is
// divided into equal runs of rows, so that sums do not depend on which thread was faster.
#include "vectors.h"

#include <omp.h>

using namespace yuan;

namespace {

constexpr float LOWEST = -3.4e38f;

// Calls work(first, last, run) on every thread with its run of `items`; runs are numbered from 0.
template <class F> void divide(int64_t items, int threads, F &&work) {
    if (threads <= 1 || items < 2) { work(int64_t(0), items, int64_t(0)); return; }
#pragma omp parallel num_threads(threads)
    {
        const int64_t number = omp_get_thread_num(), count = omp_get_num_threads();
        const int64_t first = items * number / count, last = items * (number + 1) / count;
        if (first < last) work(first, last, number);
    }
}

template <class T>
void norm_forward(const T *input, const T *scale, T *output, float *inverse, int64_t rows, int64_t size, float eps,
                  int threads) {
    divide(rows, threads, [&](int64_t first, int64_t last, int64_t) {
        for (int64_t row = first; row < last; row++) {
            const T *in = input + row * size;
            T *out = output + row * size;
            Floats squares{};
            for (int64_t i = 0; i < size; i += LANES) { Floats x = widen(in + i); squares += x * x; }
            const float by = 1.0f / std::sqrt(sum(squares) / float(size) + eps);
            inverse[row] = by;
            for (int64_t i = 0; i < size; i += LANES) narrow(out + i, widen(in + i) * by * widen(scale + i));
        }
    });
}

// scale_gradient: fp32 [threads][size], zeroed here; its sum over threads ends in the first row.
template <class T>
void norm_backward(const T *input, const T *scale, const float *inverse, const T *upstream, T *gradient,
                   float *scale_gradient, int64_t rows, int64_t size, int threads) {
    std::memset(scale_gradient, 0, sizeof(float) * size_t(threads * size));
    divide(rows, threads, [&](int64_t first, int64_t last, int64_t run) {
        float *own = scale_gradient + size * run;
        for (int64_t row = first; row < last; row++) {
            const T *in = input + row * size, *up = upstream + row * size;
            T *out = gradient + row * size;
            const float by = inverse[row];
            Floats products{};
            for (int64_t i = 0; i < size; i += LANES) {
                Floats product = widen(up + i) * widen(in + i) * by;
                products += product * widen(scale + i);
                store(own + i, load<Floats>(own + i) + product);
            }
            const float along = sum(products) / float(size) * by;
            for (int64_t i = 0; i < size; i += LANES)
                narrow(out + i, (widen(up + i) * widen(scale + i) - widen(in + i) * along) * by);
        }
    });
    for (int thread = 1; thread < threads; thread++)
        for (int64_t i = 0; i < size; i++) scale_gradient[i] += scale_gradient[thread * size + i];
}

template <class T> void gated_forward(const T *up, const T *gate, T *output, int64_t count, int threads) {
    divide(count / LANES, threads, [&](int64_t first, int64_t last, int64_t) {
        for (int64_t i = first * LANES; i < last * LANES; i += LANES)
            narrow(output + i, silu(widen(up + i)) * widen(gate + i));
    });
}

template <class T>
void gated_backward(const T *up, const T *gate, const T *upstream, T *up_gradient, T *gate_gradient, int64_t count,
                    int threads) {
    divide(count / LANES, threads, [&](int64_t first, int64_t last, int64_t) {
        for (int64_t i = first * LANES; i < last * LANES; i += LANES) {
            const Floats x = widen(up + i), by = widen(upstream + i);
            const Floats open = 1.0f / (1.0f + exponential(-x));
            narrow(gate_gradient + i, x * open * by);
            narrow(up_gradient + i, by * widen(gate + i) * open * (1.0f + x * (1.0f - open)));
        }
    });
}

// pairs [b][s][n][2][d]; queries and keys [b][n][s][d]; cosine and sine fp32 [s][d/2], or [b][s][d/2] with
// `table_batch` numbers between batches.
template <class T, bool back>
void rotate(T *pairs, T *queries, T *keys, const float *cosine, const float *sine, int64_t batch, int64_t length,
            int64_t heads, int64_t dim, int64_t table_batch, int threads) {
    const int64_t half = dim / 2;
    divide(batch * length, threads, [&](int64_t first, int64_t last, int64_t) {
        for (int64_t at = first; at < last; at++) {
            const int64_t b = at / length, s = at % length;
            const float *cos = cosine + b * table_batch + s * half, *sin = sine + b * table_batch + s * half;
            for (int64_t n = 0; n < heads; n++)
                for (int part = 0; part < 2; part++) {
                    T *pair = pairs + ((at * heads + n) * 2 + part) * dim;
                    T *head = (part ? keys : queries) + ((b * heads + n) * length + s) * dim;
                    const T *from = back ? head : pair;
                    T *to = back ? pair : head;
                    for (int64_t i = 0; i < half; i += LANES) {
                        const Floats x = widen(from + i), y = widen(from + half + i);
                        const Floats c = load<Floats>(cos + i), s = back ? -load<Floats>(sin + i) : load<Floats>(sin + i);
                        narrow(to + i, x * c - y * s);
                        narrow(to + half + i, y * c + x * s);
                    }
                }
        }
    });
}

// scores [matrices][rows][columns], in place: softmax(scores * scale) over the first `before + row + 1` of each row,
// zeros behind them. Columns are a multiple of 16.
template <class T>
void causal_softmax(T *scores, int64_t matrices, int64_t rows, int64_t columns, int64_t before, float scale,
                    int threads) {
    divide(matrices * rows, threads, [&](int64_t first, int64_t last, int64_t) {
        std::vector<float> kept(size_t(columns) + LANES);
        Ints lane;
        for (int i = 0; i < LANES; i++) lane[i] = i;
        for (int64_t at = first; at < last; at++) {
            T *row = scores + at * columns;
            const int64_t seen = before + at % rows + 1, whole = seen / LANES * LANES;
            const Ints behind = lane >= int32_t(seen - whole);
            const int64_t end = whole + (seen > whole ? LANES : 0);
            Floats most = all(LOWEST);
            for (int64_t i = 0; i < end; i += LANES) {
                Floats x = widen(row + i) * scale;
                if (i == whole) x = behind ? all(LOWEST) : x;
                store(kept.data() + i, x);
                most = x > most ? x : most;
            }
            const float top = highest(most);
            Floats total{};
            for (int64_t i = 0; i < end; i += LANES) {
                Floats e = exponential(load<Floats>(kept.data() + i) - top);
                store(kept.data() + i, e);
                total += e;
            }
            const float by = 1.0f / sum(total);
            for (int64_t i = 0; i < end; i += LANES) narrow(row + i, load<Floats>(kept.data() + i) * by);
            std::memset(row + end, 0, sizeof(T) * size_t(columns - end));
        }
    });
}

// products [rows][columns], in place: the gradient of the scores before their scale, from that of the weights.
template <class T>
void softmax_backward(const T *weights, T *products, int64_t rows, int64_t columns, float scale, int threads) {
    divide(rows, threads, [&](int64_t first, int64_t last, int64_t) {
        for (int64_t at = first; at < last; at++) {
            const T *weight = weights + at * columns;
            T *product = products + at * columns;
            Floats total{};
            for (int64_t i = 0; i < columns; i += LANES) total += widen(weight + i) * widen(product + i);
            const float along = sum(total);
            for (int64_t i = 0; i < columns; i += LANES)
                narrow(product + i, widen(weight + i) * (widen(product + i) - along) * scale);
        }
    });
}

// sums[m][i] += added[m][i] for i below `count`; the sums of a matrix lie `stride` apart.
template <class T>
void accumulate(float *sums, const T *added, int64_t matrices, int64_t count, int64_t stride, int threads) {
    divide(matrices, threads, [&](int64_t first, int64_t last, int64_t) {
        for (int64_t m = first; m < last; m++)
            for (int64_t i = 0; i < count; i += LANES)
                store(sums + m * stride + i, load<Floats>(sums + m * stride + i) + widen(added + m * count + i));
    });
}

// logits [tokens][vocabulary], in place where gradients are wanted: softmax minus the label, times the token's weight.
// losses [tokens], times the token's weight. `weights` may be null. Vocabulary is a multiple of 16.
template <class T>
void cross_entropy(T *logits, const int64_t *labels, const float *weights, float *losses, int64_t tokens,
                   int64_t vocabulary, int gradients, int threads) {
    divide(tokens, threads, [&](int64_t first, int64_t last, int64_t) {
        std::vector<float> kept(gradients ? size_t(vocabulary) : 0);
        for (int64_t t = first; t < last; t++) {
            T *row = logits + t * vocabulary;
            const float weight = weights ? weights[t] : 1.0f;
            Floats most = all(LOWEST);
            for (int64_t i = 0; i < vocabulary; i += LANES) {
                Floats x = widen(row + i);
                most = x > most || x != x ? x : most;  // what is not a number must be seen in the loss
            }
            const float top = highest(most), target = to_float(row[labels[t]]) - top;
            Floats total{};
            for (int64_t i = 0; i < vocabulary; i += LANES) {
                Floats e = exponential(widen(row + i) - top);
                if (gradients) store(kept.data() + i, e);
                total += e;
            }
            const float sums = sum(total);
            losses[t] = (std::log(sums) - target) * weight;
            if (!gradients) continue;
            const float by = weight / sums;
            kept[size_t(labels[t])] -= sums;
            for (int64_t i = 0; i < vocabulary; i += LANES) narrow(row + i, load<Floats>(kept.data() + i) * by);
        }
    });
}

}  // namespace

#define BOTH(call_float, call_bf16) \
    if (half) call_bf16;            \
    else call_float

extern "C" {

void yuan_norm_forward(int half, const void *input, const void *scale, void *output, float *inverse, int64_t rows,
                       int64_t size, float eps, int threads) {
    auto run = [&](auto kind) {
        typedef decltype(kind) T;
        norm_forward((const T *)input, (const T *)scale, (T *)output, inverse, rows, size, eps, threads);
    };
    BOTH(run(float()), run(bf16()));
}

void yuan_norm_backward(int half, const void *input, const void *scale, const float *inverse, const void *upstream,
                        void *gradient, float *scale_gradient, int64_t rows, int64_t size, int threads) {
    auto run = [&](auto kind) {
        typedef decltype(kind) T;
        norm_backward((const T *)input, (const T *)scale, inverse, (const T *)upstream, (T *)gradient, scale_gradient,
                      rows, size, threads);
    };
    BOTH(run(float()), run(bf16()));
}

void yuan_gated_forward(int half, const void *up, const void *gate, void *output, int64_t count, int threads) {
    auto run = [&](auto kind) {
        typedef decltype(kind) T;
        gated_forward((const T *)up, (const T *)gate, (T *)output, count, threads);
    };
    BOTH(run(float()), run(bf16()));
}

void yuan_gated_backward(int half, const void *up, const void *gate, const void *upstream, void *up_gradient,
                         void *gate_gradient, int64_t count, int threads) {
    auto run = [&](auto kind) {
        typedef decltype(kind) T;
        gated_backward((const T *)up, (const T *)gate, (const T *)upstream, (T *)up_gradient, (T *)gate_gradient,
                       count, threads);
    };
    BOTH(run(float()), run(bf16()));
}

void yuan_rotate(int half, int back, void *pairs, void *queries, void *keys, const float *cosine, const float *sine,
                 int64_t batch, int64_t length, int64_t heads, int64_t dim, int64_t table_batch, int threads) {
    auto run = [&](auto kind) {
        typedef decltype(kind) T;
        auto turn = back ? rotate<T, true> : rotate<T, false>;
        turn((T *)pairs, (T *)queries, (T *)keys, cosine, sine, batch, length, heads, dim, table_batch, threads);
    };
    BOTH(run(float()), run(bf16()));
}

void yuan_causal_softmax(int half, void *scores, int64_t matrices, int64_t rows, int64_t columns, int64_t before,
                         float scale, int threads) {
    auto run = [&](auto kind) {
        typedef decltype(kind) T;
        causal_softmax((T *)scores, matrices, rows, columns, before, scale, threads);
    };
    BOTH(run(float()), run(bf16()));
}

void yuan_softmax_backward(int half, const void *weights, void *products, int64_t rows, int64_t columns, float scale,
                           int threads) {
    auto run = [&](auto kind) {
        typedef decltype(kind) T;
        softmax_backward((const T *)weights, (T *)products, rows, columns, scale, threads);
    };
    BOTH(run(float()), run(bf16()));
}

void yuan_accumulate(int half, float *sums, const void *added, int64_t matrices, int64_t count, int64_t stride,
                     int threads) {
    auto run = [&](auto kind) {
        typedef decltype(kind) T;
        accumulate(sums, (const T *)added, matrices, count, stride, threads);
    };
    BOTH(run(float()), run(bf16()));
}

void yuan_cross_entropy(int half, void *logits, const int64_t *labels, const float *weights, float *losses,
                        int64_t tokens, int64_t vocabulary, int gradients, int threads) {
    auto run = [&](auto kind) {
        typedef decltype(kind) T;
        cross_entropy((T *)logits, labels, weights, losses, tokens, vocabulary, gradients, threads);
    };
    BOTH(run(float()), run(bf16()));
}

}  // extern "C"
