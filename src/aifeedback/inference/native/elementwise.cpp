// The element-wise steps of a Llama-like layer, forward and backward, in 32-bit floating point.

#include "vectors.hpp"

extern "C" {

// y = x / rms(x) * w for n rows of D; `inverse` keeps 1 / rms.
void rms_norm(long n, long D, const float *x, const float *w, float eps, float *y, float *inverse, long threads) {
    parallel(n, threads, [&](long begin, long stop) {
        for (long i = begin; i < stop; i++) {
            const float *from = x + i * D;
            Vec squares = (Vec){};
            long d = 0;
            for (; d + VECTOR <= D; d += VECTOR) squares += load(from + d) * load(from + d);
            float total = sum(squares);
            for (; d < D; d++) total += from[d] * from[d];
            const float r = 1.f / std::sqrt(total / D + eps);
            for (d = 0; d < D; d++) y[i * D + d] = from[d] * r * w[d];
            inverse[i] = r;
        }
    });
}

// dw: one row of D per thread, zeros.
void rms_norm_backward(long n, long D, const float *x, const float *w, const float *inverse, const float *dy, float *dx,
                       float *dw, long threads) {
    threads = std::max(std::min(threads, n), 1L);
    parallel(threads, threads, [&](long t0, long t1) {
        for (long t = t0; t < t1; t++) {
            float *mine = dw + t * D;
            for (long i = n * t / threads; i < n * (t + 1) / threads; i++) {
                const float *from = x + i * D, *given = dy + i * D, r = inverse[i];
                Vec dots = (Vec){};
                long d = 0;
                for (; d + VECTOR <= D; d += VECTOR) dots += load(from + d) * load(given + d) * load(w + d);
                float dot = sum(dots);
                for (; d < D; d++) dot += from[d] * given[d] * w[d];
                const float back = r * r * r * dot / D;
                for (d = 0; d < D; d++) {
                    dx[i * D + d] = r * given[d] * w[d] - back * from[d];
                    mine[d] += given[d] * from[d] * r;
                }
            }
        }
    });
}

// y = silu(gate) * up; n is a number of floats.
void swiglu(long n, const float *gate, const float *up, float *y, long threads) {
    parallel((n + VECTOR - 1) / VECTOR, threads, [&](long begin, long stop) {
        for (long i = begin * VECTOR; i < std::min(stop * VECTOR, n); i += VECTOR) {
            const long count = std::min((long)VECTOR, n - i);
            const Vec g = load(gate + i, count);
            store(y + i, g * sigmoid(g) * load(up + i, count), count);
        }
    });
}

void swiglu_backward(long n, const float *gate, const float *up, const float *dy, float *dgate, float *dup,
                     long threads) {
    parallel((n + VECTOR - 1) / VECTOR, threads, [&](long begin, long stop) {
        for (long i = begin * VECTOR; i < std::min(stop * VECTOR, n); i += VECTOR) {
            const long count = std::min((long)VECTOR, n - i);
            const Vec g = load(gate + i, count), d = load(dy + i, count), s = sigmoid(g);
            store(dgate + i, d * load(up + i, count) * s * (1.f + g * (1.f - s)), count);
            store(dup + i, d * g * s, count);
        }
    });
}

// Rotary positions: y = x * cos + rotate_half(x) * sin over (tokens, heads, D); backward: its transpose.
void rotate(long T, long heads, long D, const float *x, long x_h, long x_t, const float *cos, const float *sin, float *y,
            long backward, long threads) {
    const long half = D / 2;
    parallel(T, threads, [&](long begin, long stop) {
        for (long t = begin; t < stop; t++) {
            const float *c = cos + t * D, *s = sin + t * D;
            for (long h = 0; h < heads; h++) {
                const float *from = x + t * x_t + h * x_h;
                float *to = y + (t * heads + h) * D;
                if (backward)
                    for (long d = 0; d < half; d++) {
                        to[d] = from[d] * c[d] + from[d + half] * s[d + half];
                        to[d + half] = from[d + half] * c[d + half] - from[d] * s[d];
                    }
                else
                    for (long d = 0; d < half; d++) {
                        to[d] = from[d] * c[d] - from[d + half] * s[d];
                        to[d + half] = from[d + half] * c[d + half] + from[d] * s[d + half];
                    }
            }
        }
    });
}

long vector_floats() { return VECTOR; }
}
