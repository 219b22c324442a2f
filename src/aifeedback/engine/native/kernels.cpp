// Attention over a packed tree, and the element-wise steps of a Llama-like layer, in 32-bit floating point.
//
// Tree attention: the query at place i sees key j where j <= i < end[j] (plus the keys of a chain that comes before the
// pack). Places ascend; not every token need be a query. A tile of LANES consecutive queries is one pair of vectors, a
// query per lane, so that the running maximum and sum of a softmax are element-wise operations and every matrix product
// has the one form of `product` below. Keys that no query of a tile sees are skipped a subtree at a time: where no query
// lies in [j, end[j]), none sees any of these keys.
// The online softmax and its backward pass are those of FlashAttention-2 (Dao 2023, arXiv 2307.08691, algorithms 1, 2).
//
// Compiled on first use (build.py); nothing here depends on PyTorch.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
#define TALL
constexpr int VECTOR = 16, ROWS = 12;
#elif defined(__AVX__)
constexpr int VECTOR = 8, ROWS = 6;
#elif defined(__aarch64__)
#define TALL
constexpr int VECTOR = 4, ROWS = 12;
#else
constexpr int VECTOR = 4, ROWS = 6;
#endif
static_assert(sizeof(long) == 8, "places come as 64-bit integers");
constexpr int LANES = 2 * VECTOR;
constexpr long CHUNK = 128;       // keys whose scores are held at a time
constexpr float HIDDEN = -1e30f;  // the score of a key that a query does not see
constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

typedef float Vec __attribute__((vector_size(4 * VECTOR)));
typedef int IntVec __attribute__((vector_size(4 * VECTOR)));
typedef float Loose __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));

static inline Vec load(const float *p) { return *(const Loose *)p; }
static inline void store(float *p, Vec x) { *(Loose *)p = x; }

// The first `count` lanes of a vector at the end of an array.
static inline Vec load(const float *p, long count) {
    if (count == VECTOR) return load(p);
    float held[VECTOR] = {};
    std::memcpy(held, p, 4 * count);
    return load(held);
}
static inline void store(float *p, Vec x, long count) {
    if (count == VECTOR) return store(p, x);
    float held[VECTOR];
    store(held, x);
    std::memcpy(p, held, 4 * count);
}
static inline Vec all(float x) { return x - (Vec){}; }
static inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

// 2^x for x <= 127; relative error below 2e-7; 0 below 2^-126; what is not a number stays so.
static inline Vec exp2(Vec x) {
    const Vec magic = all(12582912.f);
    const Vec low = all(-126.f);
    const IntVec tiny = x < low;
    x = tiny ? low : x;
    const Vec shifted = x + magic;
    const Vec f = x - (shifted - magic);
    Vec p = all(1.5403530e-4f);
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.f;
    const IntVec bits = ((IntVec)shifted - (IntVec)magic) << 23;
    const Vec scaled = (Vec)((IntVec)p + bits);
    return tiny ? (Vec){} : scaled;
}

static inline Vec sigmoid(Vec x) {
    const Vec power = -x * LOG2_E, most = all(126.f);
    return 1.f / (1.f + exp2(power < most ? power : most));
}

static inline float sum(Vec x) {
    float total = 0;
    for (int i = 0; i < VECTOR; i++) total += x[i];
    return total;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES
// Exchanges the off-diagonal blocks of size STEP between two rows of a square.
template <int STEP, int... LANE> static inline void exchange(Vec &a, Vec &b, std::integer_sequence<int, LANE...>) {
    const Vec above = __builtin_shufflevector(a, b, ((LANE & STEP) ? VECTOR + LANE - STEP : LANE)...);
    b = __builtin_shufflevector(a, b, ((LANE & STEP) ? VECTOR + LANE : LANE + STEP)...);
    a = above;
}

template <int STEP> static inline void flip_square(Vec *rows) {
    if constexpr (STEP > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < VECTOR; i++)
            if (!(i & STEP)) exchange<STEP>(rows[i], rows[i + STEP], std::make_integer_sequence<int, VECTOR>());
        flip_square<STEP / 2>(rows);
    }
}
#endif
#endif

// to[column][row] = from[row][column]
static void flip(const float *from, long from_row, long rows, long columns, float *to, long to_row) {
    long whole_rows = 0, whole_columns = 0;
#if defined(SHUFFLES)
    whole_rows = rows / VECTOR * VECTOR, whole_columns = columns / VECTOR * VECTOR;
    for (long r = 0; r < whole_rows; r += VECTOR)
        for (long c = 0; c < whole_columns; c += VECTOR) {
            Vec square[VECTOR];
#pragma GCC unroll 16
            for (int i = 0; i < VECTOR; i++) square[i] = load(from + (r + i) * from_row + c);
            flip_square<VECTOR / 2>(square);
#pragma GCC unroll 16
            for (int i = 0; i < VECTOR; i++) store(to + (c + i) * to_row + r, square[i]);
        }
#endif
    for (long r = 0; r < rows; r++)
        for (long c = r < whole_rows ? whole_columns : 0; c < columns; c++) to[c * to_row + r] = from[r * from_row + c];
}

// c[i][lane] (+)= sum over r < R of a[i * row + r * step] * b[r * b_row + lane], for N rows i.
// ROW: the row where it is known at compile time, else 0; then three rows share a pointer, or there are too many of them.
template <int N, int ROW>
static void block(const float *a, long row, long step, const float *b, long b_row, long R, float *c, long c_row,
                  bool add) {
    Vec left[N], right[N];
    const float *at[(N + 2) / 3];
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) {
        left[i] = add ? load(c + i * c_row) : (Vec){};
        right[i] = add ? load(c + i * c_row + VECTOR) : (Vec){};
        at[i / 3] = a + i / 3 * 3 * row;
    }
    for (long r = 0; r < R; r++) {
        const Vec b0 = load(b), b1 = load(b + VECTOR);
        b += b_row;
#pragma GCC unroll 16
        for (int i = 0; i < N; i++) {
            const float x = ROW ? a[i * ROW] : at[i / 3][i % 3 * row];
            left[i] += x * b0;
            right[i] += x * b1;
        }
        a += step;
#pragma GCC unroll 16
        for (int i = 0; i < N; i += 3) at[i / 3] += step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) {
        store(c + i * c_row, left[i]);
        store(c + i * c_row + VECTOR, right[i]);
    }
}

// The one matrix product: I rows of LANES lanes, in blocks of about equal height.
template <int ROW>
static void product(const float *a, long row, long step, const float *b, long b_row, long I, long R, float *c,
                    long c_row, bool add) {
    typedef void (*Block)(const float *, long, long, const float *, long, long, float *, long, bool);
    static const Block of_height[] = {nullptr,       block<1, ROW>, block<2, ROW>, block<3, ROW>,  block<4, ROW>,
                                      block<5, ROW>, block<6, ROW>,
#if defined(TALL)
                                      block<7, ROW>, block<8, ROW>, block<9, ROW>, block<10, ROW>, block<11, ROW>,
                                      block<12, ROW>
#endif
    };
    for (long i = 0, left = (I + ROWS - 1) / ROWS; left > 0; left--) {
        const long height = (I - i + left - 1) / left;
        of_height[height](a + i * row, row, step, b, b_row, R, c + i * c_row, c_row, add);
        i += height;
    }
}

// Runs work(begin, stop) on up to `threads` threads, or on as many as the system allows.
template <class Work> static void parallel(long n, long threads, Work work) {
    threads = std::min(threads, n);
    if (threads <= 1) return work(0L, n);
    std::vector<std::thread> running;
    running.reserve(threads);
    long t = 1;
    try {
        for (; t < threads; t++) running.emplace_back(work, n * t / threads, n * (t + 1) / threads);
    } catch (const std::system_error &) {
    }
    work(0L, n / threads);
    if (t < threads) work(n * t / threads, n);
    for (auto &one : running) one.join();
}

struct Work {  // room for n floats that starts at a cache line, so that aligned vectors cross none
    std::vector<float> room;
    explicit Work(long n) : room(n + 16) {}
    float *begin() { return (float *)(((size_t)room.data() + 63) / 64 * 64); }
};

struct Run {  // keys begin <= j < stop; `partly`: some query of the tile does not see some of them
    long begin, stop;
    bool partly;
};

struct Queries {  // `at`: the place of each among the keys
    long count;
    const long *at;
};

// For each tile of queries the keys that any of its queries sees.
static std::vector<std::vector<Run>> runs_of(const Queries &queries, const long *end) {
    std::vector<std::vector<Run>> tiles((queries.count + LANES - 1) / LANES);
    for (long tile = 0; tile < (long)tiles.size(); tile++) {
        const long *next = queries.at + tile * LANES, *stop = queries.at + std::min((tile + 1) * LANES, queries.count);
        const long first = *next, last = stop[-1];
        for (long j = 0; j <= last;) {
            next = std::lower_bound(next, stop, j);
            if (*next >= end[j]) {
                j = end[j];
                continue;
            }
            const Run *before = tiles[tile].empty() ? nullptr : &tiles[tile].back();
            const bool partly = j > first || end[j] <= last;
            if (!before || before->stop != j || before->partly != partly || j - before->begin >= CHUNK)
                tiles[tile].push_back({j, j, partly});
            tiles[tile].back().stop = ++j;
        }
    }
    return tiles;
}

// Queries that do not see a key get its score replaced.
static void hide(float *scores, const Run &run, const long *at, long n, const long *end) {
    for (int half = 0; half < LANES; half += VECTOR) {
        IntVec query;
        for (int lane = 0; lane < VECTOR; lane++) query[lane] = half + lane < n ? (int)at[half + lane] : -1;
        for (long j = run.begin; j < run.stop; j++) {
            float *scores_j = scores + (j - run.begin) * LANES + half;
            const IntVec seen = (query >= (int)j) & (query < (int)end[j]);
            store(scores_j, seen ? load(scores_j) : all(HIDDEN));
        }
    }
}

struct Rows {  // (heads, tokens, D) with D contiguous
    float *data;
    long head, token;
    float *at(long h, long t) const { return data + h * head + t * token; }
};

struct Shape {
    long C, heads, kv_heads, D;
    float scale;
};

// The tokens of a tile as (D, LANES); the lanes behind its last token are zero.
static void lanes_of(const Rows &from, long h, long first, long n, long D, float scale, float *out) {
    if (n < LANES) std::fill(out, out + D * LANES, 0.f);
    flip(from.at(h, first), from.token, n, D, out, LANES);
    for (long i = 0; i < D * LANES; i += VECTOR) store(out + i, load(out + i) * scale);
}

struct Softmax {  // running maximum and sum of a tile, base 2
    float top[LANES], total[LANES];
    void take(float *scores, long n, float *out, long D) {
        for (int half = 0; half < LANES; half += VECTOR) {
            const Vec before = load(top + half);
            Vec now = before;
            for (long k = 0; k < n; k++) now = larger(now, load(scores + k * LANES + half));
            const Vec shrink = exp2(before - now);
            Vec part = (Vec){};
            for (long k = 0; k < n; k++) {
                const Vec p = exp2(load(scores + k * LANES + half) - now);
                store(scores + k * LANES + half, p);
                part += p;
            }
            store(top + half, now);
            store(total + half, load(total + half) * shrink + part);
            for (long d = 0; d < D; d++) store(out + d * LANES + half, load(out + d * LANES + half) * shrink);
        }
    }
};

static void forward_tile(const Shape &s, const Queries &queries, long h, long first, const std::vector<Run> &runs,
                         const long *end, const Rows &q, const Rows &k, const Rows &v, const Rows &chain_k, const Rows &chain_v,
                         const Rows &out, float *lse, float *work) {
    const long n = std::min((long)LANES, queries.count - first), kv = h / (s.heads / s.kv_heads);
    float *query = work, *sums = query + s.D * LANES, *scores = sums + s.D * LANES;
    lanes_of(q, h, first, n, s.D, s.scale * LOG2_E, query);
    std::fill(sums, sums + s.D * LANES, 0.f);
    Softmax softmax;
    std::fill(softmax.top, softmax.top + LANES, HIDDEN);
    std::fill(softmax.total, softmax.total + LANES, 0.f);
    auto attend = [&](const Rows &keys, const Rows &values, const Run &run, bool hides) {
        const long count = run.stop - run.begin;
        product<0>(keys.at(kv, run.begin), keys.token, 1, query, LANES, count, s.D, scores, LANES, false);
        if (hides) hide(scores, run, queries.at + first, n, end);
        softmax.take(scores, count, sums, s.D);
        product<1>(values.at(kv, run.begin), 1, values.token, scores, LANES, s.D, count, sums, LANES, true);
    };
    for (long j = 0; j < s.C; j += CHUNK) attend(chain_k, chain_v, {j, std::min(j + CHUNK, s.C), false}, false);
    for (const Run &run : runs) attend(k, v, run, run.partly);
    for (int half = 0; half < LANES; half += VECTOR) {
        const Vec share = 1.f / load(softmax.total + half);
        for (long d = 0; d < s.D; d++) store(sums + d * LANES + half, load(sums + d * LANES + half) * share);
    }
    flip(sums, LANES, s.D, n, out.at(h, first), out.token);
    if (lse)
        for (long lane = 0; lane < n; lane++)
            lse[h * queries.count + first + lane] = (softmax.top[lane] + std::log2(softmax.total[lane])) * LN_2;
}

// dK, dV += (keys, lanes) · (lanes, D)
static void give_back(const float *weights, const float *rows, long count, const Rows &to, long kv, long begin, long D,
                      float *part) {
    const long width = (D + LANES - 1) / LANES * LANES;
    for (long d0 = 0; d0 < D; d0 += LANES) {
        product<LANES>(weights, LANES, 1, rows + d0, width, count, LANES, part, LANES, false);
        const long n = std::min((long)LANES, D - d0);
        for (long i = 0; i < count; i++) {
            float *row = to.at(kv, begin + i) + d0;
            for (long d = 0; d < n; d++) row[d] += part[i * LANES + d];
        }
    }
}

static void backward_tile(const Shape &s, const Queries &queries, long h, long first, const std::vector<Run> &runs,
                          const long *end, const Rows &q, const Rows &k, const Rows &v, const Rows &out, const float *lse,
                          const Rows &grad, const Rows &dq, const Rows &dk, const Rows &dv, float *work) {
    const long n = std::min((long)LANES, queries.count - first), kv = h / (s.heads / s.kv_heads);
    const long width = (s.D + LANES - 1) / LANES * LANES;
    float *query = work, *given = query + s.D * LANES, *found = given + s.D * LANES;
    float *query_rows = found + s.D * LANES, *given_rows = query_rows + width * LANES;
    float *scores = given_rows + width * LANES, *slopes = scores + CHUNK * LANES, *part = slopes + CHUNK * LANES;
    float base[LANES] = {}, delta[LANES] = {};
    lanes_of(q, h, first, n, s.D, s.scale * LOG2_E, query);
    lanes_of(grad, h, first, n, s.D, 1.f, given);
    std::fill(found, found + s.D * LANES, 0.f);
    std::fill(query_rows, query_rows + 2 * width * LANES, 0.f);
    for (long lane = 0; lane < n; lane++) {
        const float *from_q = q.at(h, first + lane), *from_grad = grad.at(h, first + lane);
        const float *from_out = out.at(h, first + lane);
        for (long d = 0; d < s.D; d++) {
            query_rows[lane * width + d] = from_q[d] * s.scale;
            given_rows[lane * width + d] = from_grad[d];
            delta[lane] += from_grad[d] * from_out[d];
        }
        base[lane] = lse[h * queries.count + first + lane] * LOG2_E;
    }
    for (const Run &run : runs) {
        const long count = run.stop - run.begin;
        product<0>(k.at(kv, run.begin), k.token, 1, query, LANES, count, s.D, scores, LANES, false);
        if (run.partly) hide(scores, run, queries.at + first, n, end);
        product<0>(v.at(kv, run.begin), v.token, 1, given, LANES, count, s.D, slopes, LANES, false);
        for (long i = 0; i < count * LANES; i += VECTOR) {
            const long lane = i % LANES;
            const Vec p = exp2(load(scores + i) - load(base + lane));
            store(scores + i, p);
            store(slopes + i, p * (load(slopes + i) - load(delta + lane)));
        }
        product<1>(k.at(kv, run.begin), 1, k.token, slopes, LANES, s.D, count, found, LANES, true);
        give_back(scores, given_rows, count, dv, kv, run.begin, s.D, part);
        give_back(slopes, query_rows, count, dk, kv, run.begin, s.D, part);
    }
    for (long i = 0; i < s.D * LANES; i += VECTOR) store(found + i, load(found + i) * s.scale);
    flip(found, LANES, s.D, n, dq.at(h, first), dq.token);
}

extern "C" {

// Q queries at the places `at`. Strides are (head, token) pairs in floats. chain_k, chain_v: C keys that all queries see.
void tree_attention(long Q, const long *at, long C, long heads, long kv_heads, long D, float scale, const long *end,
                    float *q, long q_h, long q_t, float *k, long k_h, long k_t, float *v, long v_h, long v_t,
                    float *chain_k, long ck_h, long ck_t, float *chain_v, long cv_h, long cv_t, float *out, long o_h,
                    long o_t, float *lse, long threads) {
    const Shape s{C, heads, kv_heads, D, scale};
    const Queries queries{Q, at};
    const auto tiles = runs_of(queries, end);
    parallel(heads, threads, [&](long h0, long h1) {
        Work work(2 * D * LANES + CHUNK * LANES);
        for (long h = h0; h < h1; h++)
            for (long tile = 0; tile < (long)tiles.size(); tile++)
                forward_tile(s, queries, h, tile * LANES, tiles[tile], end, {q, q_h, q_t}, {k, k_h, k_t}, {v, v_h, v_t},
                             {chain_k, ck_h, ck_t}, {chain_v, cv_h, cv_t}, {out, o_h, o_t}, lse, work.begin());
    });
}

// dk and dv come in as zeros.
void tree_attention_backward(long Q, const long *at, long heads, long kv_heads, long D, float scale, const long *end,
                             float *q, long q_h, long q_t, float *k, long k_h, long k_t, float *v, long v_h, long v_t,
                             float *out, long o_h, long o_t, const float *lse, float *grad, long g_h, long g_t,
                             float *dq, float *dk, float *dv, long threads) {
    const Shape s{0, heads, kv_heads, D, scale};
    const Queries queries{Q, at};
    const auto tiles = runs_of(queries, end);
    const long width = (D + LANES - 1) / LANES * LANES, group = heads / kv_heads;
    parallel(kv_heads, threads, [&](long kv0, long kv1) {
        Work work(3 * D * LANES + 2 * width * LANES + 3 * CHUNK * LANES);
        for (long h = kv0 * group; h < kv1 * group; h++)
            for (long tile = 0; tile < (long)tiles.size(); tile++)
                backward_tile(s, queries, h, tile * LANES, tiles[tile], end, {q, q_h, q_t}, {k, k_h, k_t},
                              {v, v_h, v_t}, {out, o_h, o_t}, lse, {grad, g_h, g_t}, {dq, D, heads * D},
                              {dk, D, kv_heads * D}, {dv, D, kv_heads * D}, work.begin());
    });
}

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
