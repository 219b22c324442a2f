// Vectors of the processor's own width in 32-bit floating point: loads and stores, powers, turning a matrix, the one
// matrix product and threads. Compiled on first use (build.py); nothing here depends on PyTorch.

#pragma once
#if defined(__AVX__)
#include <immintrin.h>
#endif
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
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
constexpr int FAR = 16;  // rows ahead that a product asks for
constexpr float LEAST = -100.f;  // the smallest power of 2 that exp2 gives: nothing beside 1, and far from denormal
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

// a > b ? a : b; b where one is not a number.
static inline Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

// 2^x for x <= 127; relative error below 2e-7; 2^LEAST below; what is not a number stays so.
static inline Vec exp2(Vec x) {
    const Vec magic = all(12582912.f);  // added, it leaves the nearest integer in the low bits
    x = larger(all(LEAST), x);
    const Vec shifted = x + magic;
    const Vec f = x - (shifted - magic);
    Vec p = all(1.32746331e-3f);
    p = p * f + 9.67196189e-3f;
    p = p * f + 5.55067845e-2f;
    p = p * f + 2.40222350e-1f;
    p = p * f + 6.93147063e-1f;
    p = p * f + 1.f;
    return (Vec)((IntVec)p + ((IntVec)shifted << 23));
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
static inline void flip(const float *from, long from_row, long rows, long columns, float *to, long to_row) {
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

// Rows of D, `row` apart, as (D, LANES); the lanes behind the last of n rows are zero.
static inline void to_lanes(const float *from, long row, long n, long D, float *to) {
    if (n < LANES) std::fill(to, to + D * LANES, 0.f);
    flip(from, row, n, D, to, LANES);
}

// How many blocks of up to ROWS rows n rows are.
static inline long panels(long n) { return (n + ROWS - 1) / ROWS; }

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
#pragma GCC unroll 2
    for (long r = 0; r < R; r++) {
        const Vec b0 = load(b), b1 = load(b + VECTOR);
        __builtin_prefetch(b + FAR * b_row), __builtin_prefetch(b + FAR * b_row + VECTOR);
        if (ROW == 1) __builtin_prefetch(a + 2 * FAR * step);
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

typedef void (*Block)(const float *, long, long, const float *, long, long, float *, long, bool);
template <int ROW>
constexpr Block BLOCK[] = {nullptr,       block<1, ROW>, block<2, ROW>, block<3, ROW>,  block<4, ROW>,  block<5, ROW>,
                           block<6, ROW>,
#if defined(TALL)
                           block<7, ROW>, block<8, ROW>, block<9, ROW>, block<10, ROW>, block<11, ROW>, block<12, ROW>
#endif
};

// The one matrix product: I rows of LANES lanes, in blocks of about equal height.
template <int ROW>
static void product(const float *a, long row, long step, const float *b, long b_row, long I, long R, float *c,
                    long c_row, bool add) {
    for (long i = 0, left = panels(I); left > 0; left--) {
        const long height = (I - i + left - 1) / left;
        BLOCK<ROW>[height](a + i * row, row, step, b, b_row, R, c + i * c_row, c_row, add);
        i += height;
    }
}

// Runs work(begin, stop) on up to `threads` threads, or on as many as the system allows.
template <class Work> static inline void parallel(long n, long threads, Work work) {
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

struct Work {  // room for n floats, not filled, that starts at a cache line, so that aligned vectors cross none
    std::unique_ptr<float[]> room;
    explicit Work(long n) : room(new float[n + 16]) {}
    float *begin() { return (float *)(((size_t)room.get() + 63) / 64 * 64); }
};
