// The two halves of a Llama-like layer around its attention, forward only, in 32-bit floating point.
//
// A stretch of tokens goes through the whole of a half while it lies in the cache, as tiles of LANES tokens: a token per
// lane, its features one below the other. So norms, rotation, SwiGLU and additions are element-wise, and every product is
// blocks of `vectors.hpp` on weights that were laid out in the order they are read in, once per call.

#include "vectors.hpp"

constexpr long TILES = std::max(128 / LANES, 1);  // of a stretch: its states and a block of weights fit in the cache
constexpr long PIECE = 384;                       // features of the MLP that are held at a time

struct Projection {  // of `heads` heads; no bias, no norm of heads: nullptr; `out`: (T, heads, head size)
    const float *weights, *bias, *norm;
    float *out;
    long heads, turns;
    float eps;
};

static long first_of(long n, long panel) { return n * panel / panels(n); }

// Weights as (panel, column, row of the panel). Up to VECTOR floats behind them are written.
struct Laid {
    long rows, columns;
    const float *data;

    Laid(const float *from, long row, long rows, long columns, float *to) : rows(rows), columns(columns), data(to) {
        for (long b = 0; b < panels(rows); b++, from += row) {
            const long height = first_of(rows, b + 1) - first_of(rows, b);
            long c = 0;
#if defined(SHUFFLES)
            for (; c + VECTOR <= columns; c += VECTOR)
                for (long r0 = (height - 1) / VECTOR * VECTOR; r0 >= 0; r0 -= VECTOR) {  // what a row of the square writes
                    Vec square[VECTOR] = {};                                            // too much, a later one writes over
                    for (long r = r0; r < std::min(r0 + VECTOR, height); r++) square[r - r0] = load(from + r * row + c);
                    flip_square<VECTOR / 2>(square);
                    for (long i = 0; i < VECTOR; i++) store(to + (c + i) * height + r0, square[i]);
                }
#endif
            for (; c < columns; c++)
                for (long r = 0; r < height; r++) to[c * height + r] = from[r * row + c];
            from += (height - 1) * row, to += height * columns;
        }
    }

    // out[tile] (+)= weights * in[tile], (columns, LANES) to (rows, LANES); steps between tiles
    void times(const float *in, long in_step, float *out, long out_step, long tiles, bool add) const {
        for (long b = 0; b < panels(rows); b++) {
            const long first = first_of(rows, b), height = first_of(rows, b + 1) - first;
            for (long t = 0; t < tiles; t++)
                BLOCK<1>[height](data + first * columns, 1, height, in + t * in_step, LANES, columns,
                                 out + t * out_step + first * LANES, LANES, add);
        }
    }
};

// y = x / rms(x) * w in each lane; y may be x.
static void norm(const float *x, long D, const float *w, float eps, float *y) {
    for (long half = 0; half < LANES; half += VECTOR) {
        Vec squares = (Vec){};
        for (long d = 0; d < D; d++) squares += load(x + d * LANES + half) * load(x + d * LANES + half);
        for (int lane = 0; lane < VECTOR; lane++) squares[lane] = 1.f / std::sqrt(squares[lane] / D + eps);
        for (long d = 0; d < D; d++) store(y + d * LANES + half, load(x + d * LANES + half) * squares * w[d]);
    }
}

// x * cos + rotate_half(x) * sin, in place
static void turn(float *x, long D, const float *cos, const float *sin) {
    float *other = x + D / 2 * LANES;
    const float *other_cos = cos + D / 2 * LANES, *other_sin = sin + D / 2 * LANES;
    for (long i = 0; i < D / 2 * LANES; i += VECTOR) {
        const Vec a = load(x + i), b = load(other + i);
        store(x + i, a * load(cos + i) - b * load(sin + i));
        store(other + i, b * load(other_cos + i) + a * load(other_sin + i));
    }
}

static void swiglu(float *gate, const float *up, long n) {
    for (long i = 0; i < n; i += VECTOR) store(gate + i, load(gate + i) * sigmoid(load(gate + i)) * load(up + i));
}

// Runs work(room for `floats`, first token, tiles) on every stretch of T tokens.
template <class Stretch> static void stretches(long T, long threads, long floats, Stretch work) {
    constexpr long TOKENS = TILES * LANES;
    parallel((T + TOKENS - 1) / TOKENS, threads, [&](long begin, long stop) {
        Work room(floats);
        for (long t = begin * TOKENS; t < std::min(stop * TOKENS, T); t += TOKENS)
            work(room.begin(), t, std::min(TILES, (T - t + LANES - 1) / LANES));
    });
}

extern "C" {

// The first half: norm(x) times the weights of every projection, heads normed and turned where asked for.
void project(long T, long D, const float *x, const float *w, float eps, long size, const float *cos, const float *sin,
             long count, const Projection *to, long threads) {
    long rows = 0, most = 0;
    for (long p = 0; p < count; p++) rows += to[p].heads * size, most = std::max(most, to[p].heads * size);
    Work weights(rows * D + VECTOR);
    std::vector<Laid> laid;
    float *room = weights.begin();
    for (long p = 0; p < count; room += to[p++].heads * size * D)
        laid.emplace_back(to[p].weights, D, to[p].heads * size, D, room);
    stretches(T, threads, TILES * LANES * (D + most + 2 * size), [&](float *normed, long t0, long tiles) {
        float *made = normed + TILES * LANES * D, *turns = made + TILES * LANES * most;
        for (long i = 0; i < tiles; i++) {
            const long t = t0 + i * LANES, n = std::min((long)LANES, T - t);
            float *states = normed + i * LANES * D;
            to_lanes(x + t * D, D, n, D, states);
            norm(states, D, w, eps, states);
            to_lanes(cos + t * size, size, n, size, turns + 2 * i * LANES * size);
            to_lanes(sin + t * size, size, n, size, turns + (2 * i + 1) * LANES * size);
        }
        for (long p = 0; p < count; p++) {
            const long wide = to[p].heads * size;
            for (long i = 0; to[p].bias && i < tiles * wide; i++)
                std::fill(made + i * LANES, made + (i + 1) * LANES, to[p].bias[i % wide]);
            laid[p].times(normed, LANES * D, made, LANES * wide, tiles, to[p].bias);
            for (long i = 0; i < tiles; i++) {
                const long t = t0 + i * LANES;
                const float *at = turns + 2 * i * LANES * size;
                float *tile = made + i * wide * LANES;
                for (float *head = tile; head < tile + wide * LANES; head += size * LANES) {
                    if (to[p].norm) norm(head, size, to[p].norm, to[p].eps, head);
                    if (to[p].turns) turn(head, size, at, at + LANES * size);
                }
                flip(tile, LANES, wide, std::min((long)LANES, T - t), to[p].out + t * wide, wide);
            }
        }
    });
}

// The second half: x += o * mixed, of `wide` features; out = x + down * (silu(gate * y) * (up * y)), y = norm(x).
void finish(long T, long D, long wide, long F, const float *mixed, const float *o, const float *x, const float *w,
            float eps, const float *gate, const float *up, const float *down, float *out, long threads) {
    const long pieces = (F + PIECE - 1) / PIECE, piece = (F + pieces - 1) / pieces;
    Work weights((wide + 3 * F) * D + VECTOR);
    float *room = weights.begin();
    const Laid mixing(o, wide, D, wide, room);
    room += wide * D;
    std::vector<Laid> gates, ups, downs;
    for (long f = 0; f < F; f += piece) {
        const long n = std::min(piece, F - f);
        gates.emplace_back(gate + f * D, D, n, D, room);
        ups.emplace_back(up + f * D, D, n, D, room + n * D);
        downs.emplace_back(down + f, F, D, n, room + 2 * n * D);
        room += 3 * n * D;
    }
    const long most = std::max(D, wide);
    stretches(T, threads, TILES * LANES * (D + most + 2 * piece), [&](float *states, long t0, long tiles) {
        float *normed = states + TILES * LANES * D;
        float *open = normed + TILES * LANES * most, *beside = open + TILES * LANES * piece;
        for (long i = 0; i < tiles; i++) {
            const long t = t0 + i * LANES, n = std::min((long)LANES, T - t);
            to_lanes(x + t * D, D, n, D, states + i * LANES * D);
            to_lanes(mixed + t * wide, wide, n, wide, normed + i * LANES * wide);
        }
        mixing.times(normed, LANES * wide, states, LANES * D, tiles, true);
        for (long i = 0; i < tiles; i++) norm(states + i * LANES * D, D, w, eps, normed + i * LANES * D);
        for (size_t p = 0; p < gates.size(); p++) {
            const long n = gates[p].rows;
            gates[p].times(normed, LANES * D, open, LANES * n, tiles, false);
            ups[p].times(normed, LANES * D, beside, LANES * n, tiles, false);
            swiglu(open, beside, tiles * LANES * n);
            downs[p].times(open, LANES * n, states, LANES * D, tiles, true);
        }
        for (long i = 0; i < tiles; i++) {
            const long t = t0 + i * LANES;
            flip(states + i * LANES * D, LANES, D, std::min((long)LANES, T - t), out + t * D, D);
        }
    });
}
}
