// Attention over a packed tree, forward and backward, in 32-bit floating point.
//
// The query at place i sees key j where j <= i < end[j] (plus the keys of a chain that comes before the pack). Places
// ascend; not every token need be a query. A tile of LANES consecutive queries is one pair of vectors, a query per lane,
// so that the running maximum and sum of a softmax are element-wise operations and every matrix product has the one form
// of `product`. Keys that no query of a tile sees are skipped a subtree at a time: where no query lies in [j, end[j]),
// none sees any of these keys. Keys and values that many tiles read are first copied into the order they are read in.
// The online softmax and its backward pass are those of FlashAttention-2 (Dao 2023, arXiv 2307.08691, algorithms 1, 2).

#include "vectors.hpp"

constexpr long CHUNK = 120;       // keys whose scores are held at a time
constexpr long OFTEN = 6;         // tiles that read a key, on average, from which copying pays
constexpr float HIDDEN = -1e30f;  // the score of a key that a query does not see
static_assert(CHUNK % ROWS == 0, "a chunk is whole panels");

struct Run {  // keys begin <= j < stop; `partly`: some query of the tile does not see some of them
    long begin, stop;
    bool partly;
};

struct Queries {  // `at`: the place of each among the keys
    long count;
    const long *at;
};

// For each tile of queries the keys that any of its queries sees. Neighbours with the same end are taken together.
static std::vector<std::vector<Run>> runs_of(const Queries &queries, const long *end) {
    std::vector<std::vector<Run>> tiles((queries.count + LANES - 1) / LANES);
    const long T = queries.count ? queries.at[queries.count - 1] + 1 : 0;
    std::vector<long> alike(T, T);  // where the stretch of the same end stops
    for (long j = T - 2; j >= 0; j--) alike[j] = end[j] == end[j + 1] ? alike[j + 1] : j + 1;
    for (long tile = 0; tile < (long)tiles.size(); tile++) {
        const long *from = queries.at + tile * LANES, *stop = queries.at + std::min((tile + 1) * LANES, queries.count);
        const long first = *from, last = stop[-1];
        for (long j = 0; j <= last;) {
            const long *beyond = std::lower_bound(from, stop, end[j]);
            if (beyond == from || beyond[-1] < j) {
                j = end[j];
                continue;
            }
            const bool partly = j > first || end[j] <= last;
            long until = std::min(alike[j], beyond[-1] + 1);
            if (j <= first) until = std::min(until, first + 1);
            for (; j < until; j = std::min(until, (j / CHUNK + 1) * CHUNK)) {
                const Run *before = tiles[tile].empty() ? nullptr : &tiles[tile].back();
                if (!before || before->stop != j || before->partly != partly || j % CHUNK == 0)
                    tiles[tile].push_back({j, j, partly});
                tiles[tile].back().stop = std::min(until, (j / CHUNK + 1) * CHUNK);
            }
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
    to_lanes(from.at(h, first), from.token, n, D, out);
    for (long i = 0; i < D * LANES; i += VECTOR) store(out + i, load(out + i) * scale);
}

struct Softmax {  // running maximum and sum of a tile, base 2
    float top[LANES], total[LANES];
    Softmax() {
        std::fill(top, top + LANES, HIDDEN);
        std::fill(total, total + LANES, 0.f);
    }
    // Scores of n keys become weights; what was mixed before shrinks.
    void take(float *scores, long n, float *out, long D) {
        for (int half = 0; half < LANES; half += VECTOR) take_half(half, scores + half, n, out + half, D);
    }
    // Two rows at a time, for the latency of a maximum and a sum.
    void take_half(int half, float *scores, long n, float *out, long D) {
        float *const even = scores + n / 2 * 2 * LANES, *const stop = scores + n * LANES;
        const Vec before = load(top + half);
        Vec now = before, other = before;
        for (const float *row = scores; row < even; row += 2 * LANES) {
            now = larger(now, load(row));
            other = larger(other, load(row + LANES));
        }
        if (even < stop) now = larger(now, load(even));
        now = larger(now, other);
        Vec part = {}, rest = {};
        for (float *row = scores; row < even; row += 2 * LANES) {
            const Vec p = exp2(load(row) - now), q = exp2(load(row + LANES) - now);
            store(row, p), store(row + LANES, q);
            part += p, rest += q;
        }
        if (even < stop) {
            const Vec p = exp2(load(even) - now);
            store(even, p);
            part += p;
        }
        const Vec shrink = exp2(before - now);
        store(top + half, now);
        store(total + half, load(total + half) * shrink + (part + rest));
        for (float *row = out; row < out + D * LANES; row += LANES) store(row, load(row) * shrink);
    }
};

// The keys and values of one head: as they came, or copied into panels, so that a product reads one piece of memory:
// keys as (panel, D, ROWS keys), values as (panel, token, `height` of the D).
struct Source {
    Rows keys, values;
    long head, D, tokens, height, value_step;
    const float *key_panels = nullptr, *value_panels = nullptr;

    Source(const Rows &keys, const Rows &values, long head, long D, long tokens)
        : keys(keys), values(values), head(head), D(D), tokens(tokens), height((D + panels(D) - 1) / panels(D)),
          value_step(height * tokens + VECTOR) {}
    long key_room() const { return panels(tokens) * ROWS * D; }
    long room() const { return key_room() + panels(D) * value_step; }

    void copy(float *to) {
        constexpr long WIDE = 4 * ROWS;
        std::vector<float> turned(D * WIDE);
        for (long t = 0; t < tokens; t += WIDE) {
            flip(keys.at(head, t), keys.token, std::min(WIDE, tokens - t), D, turned.data(), WIDE);
            for (long i = 0; i < WIDE && t + i < tokens; i += ROWS)
                for (long d = 0; d < D; d++)
                    std::memcpy(to + (t + i) * D + d * ROWS, turned.data() + d * WIDE + i, 4 * ROWS);
        }
        key_panels = to;
        to += key_room();
        value_panels = to;
        const long whole = values.token >= VECTOR ? tokens - 1 : 0;  // so many may be read beyond their D
        for (long t = 0; t < tokens; t++) {                          // what is written too much the next one writes over
            float *panel = to + t * height;
            for (long p = 0; p < D; p += height, panel += value_step)
                for (long d = 0; d < height && p + d < D; d += VECTOR) {
                    const float *from = values.at(head, t) + p + d;
                    store(panel + d, t < whole ? load(from) : load(from, std::min((long)VECTOR, D - p - d)));
                }
        }
    }

    // (keys of the run, LANES) = keys * query
    void scores(const Run &run, const float *query, float *out) const {
        if (!key_panels)
            return product<0>(keys.at(head, run.begin), keys.token, 1, query, LANES, run.stop - run.begin, D, out, LANES,
                              false);
        for (long j = run.begin; j < run.stop;) {
            const long n = std::min(ROWS - j % ROWS, run.stop - j);
            BLOCK<1>[n](key_panels + j / ROWS * ROWS * D + j % ROWS, 1, ROWS, query, LANES, D, out, LANES, false);
            out += n * LANES, j += n;
        }
    }

    // (D, LANES) += values of the run, turned * weights
    void mix(const Run &run, const float *weights, float *out) const {
        const long count = run.stop - run.begin;
        if (!value_panels)
            return product<1>(values.at(head, run.begin), 1, values.token, weights, LANES, D, count, out, LANES, true);
        const float *from = value_panels + run.begin * height;
        for (long d = 0; d < D; d += height, from += value_step)
            BLOCK<1>[std::min(height, D - d)](from, 1, height, weights, LANES, count, out + d * LANES, LANES, true);
    }
};

static void forward_tile(const Shape &s, const Queries &queries, long h, long first, const std::vector<Run> &runs,
                         const long *end, const Rows &q, const Source &own, const Source &chain, const Rows &out, float *lse,
                         float *work) {
    const long n = std::min((long)LANES, queries.count - first);
    float *query = work, *sums = query + s.D * LANES, *scores = sums + s.D * LANES;
    lanes_of(q, h, first, n, s.D, s.scale * LOG2_E, query);
    std::fill(sums, sums + s.D * LANES, 0.f);
    Softmax softmax;
    auto attend = [&](const Source &to, const Run &run, bool hides) {
        to.scores(run, query, scores);
        if (hides) hide(scores, run, queries.at + first, n, end);
        softmax.take(scores, run.stop - run.begin, sums, s.D);
        to.mix(run, scores, sums);
    };
    for (long j = 0; j < s.C; j += CHUNK) attend(chain, {j, std::min(j + CHUNK, s.C), false}, false);
    for (const Run &run : runs) attend(own, run, run.partly);
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
    const long T = Q ? at[Q - 1] + 1 : 0;
    long reads = tiles.size() * C;
    for (const auto &tile : tiles)
        for (const Run &run : tile) reads += run.stop - run.begin;
    const bool copies = reads > OFTEN * (T + C);
    parallel(heads, threads, [&](long h0, long h1) {
        Work work(2 * D * LANES + CHUNK * LANES), room(0);
        for (long h = h0; h < h1;) {
            const long kv = h / (heads / kv_heads);
            Source own({k, k_h, k_t}, {v, v_h, v_t}, kv, D, T);
            Source chain({chain_k, ck_h, ck_t}, {chain_v, cv_h, cv_t}, kv, D, C);
            if (copies) {
                if (h == h0) room = Work(own.room() + chain.room());
                own.copy(room.begin()), chain.copy(room.begin() + own.room());
            }
            for (; h < h1 && h / (heads / kv_heads) == kv; h++)
                for (long tile = 0; tile < (long)tiles.size(); tile++)
                    forward_tile(s, queries, h, tile * LANES, tiles[tile], end, {q, q_h, q_t}, own, chain,
                                 {out, o_h, o_t}, lse, work.begin());
        }
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
}
