// The kernels of one instruction set; compiled once for each, with WIDTH floats a vector register and ISA as its name.
//
// A question of a batch is answered in tiles of edges that stay in the cache: products of the tile's anchors with all
// negatives (1), the loss of each row and its gradient in place (2), the product of that with the negatives for the
// anchors' gradients (3), and with the anchors for the negatives' (4).  The three products do all but a few of the
// 6 * N * D operations an edge; what they read is laid out as they read it.  In bfloat16, pairs of neighbours along
// the summed axis lie in one 32-bit word, as the processor's pair products want them.
//
// Nothing from the standard library's headers that could be shared with code for other processors is used here.
#include "kernels.hpp"

#include <math.h>
#include <string.h>

#if defined(HALF)
#include <immintrin.h>
#endif

#ifndef WIDTH
#define WIDTH 4
#endif
#ifndef ISA
#define ISA generic
#endif
#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)
#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)

namespace {

constexpr int64_t W = WIDTH;
constexpr int M = WIDTH >= 16 ? 8 : 4;  // rows of a product that are held in registers
constexpr int64_t TILE = 64;            // edges whose scores are in the cache at once
constexpr int64_t DEPTH = 256;          // of a product whose operand would not fit in the first cache
constexpr float FLOOR = 1e-12f;         // below this norm a vector stays as it is
constexpr float NONE = -__builtin_inff();

typedef float Vector __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));

inline Vector load(const float *from) {
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}
inline void store(float *to, Vector v) { memcpy(to, &v, sizeof v); }
inline Vector all(float x) { return x - Vector{}; }
inline Vector select(Ints mask, Vector a, Vector b) {
    return (Vector)((mask & (Ints)a) | (~mask & (Ints)b));
}
inline Vector largest(Vector a, Vector b) { return select(a > b, a, b); }
inline float sum(Vector v) {
    float total = 0;
    for (int i = 0; i < W; i++) total += v[i];
    return total;
}
inline int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// e^x of x at most 0, to 2 units in the last place; 0 below -87.
inline Vector exponential(Vector x) {
    const Ints tiny = x < all(-87.0f);
    x = select(tiny, all(0.0f), x);
    const Vector shifted = x * 1.44269504f + 12582912.0f;  // rounds to a whole number in the last bits
    const Vector whole = shifted - 12582912.0f;
    Vector r = x - whole * 0.693359375f;
    r = r - whole * -2.12194440e-4f;
    Vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const Ints power = ((Ints)shifted - (Ints)all(12582912.0f) + 127) << 23;
    return select(tiny, all(0.0f), p * (Vector)power);
}

// log(1 + u) for u in [0, 1], by 2 artanh(u / (2 + u)).
inline Vector log1p_of(Vector u) {
    const Vector z = u / (u + 2.0f), s = z * z;
    Vector p = all(1.0f / 15);
#pragma GCC unroll 7
    for (int k = 13; k > 0; k -= 2) p = p * s + 1.0f / k;
    return 2.0f * z * p;
}

inline float sigmoid(float x) {
    const float e = expf(-fabsf(x));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}
inline float softplus(float x) { return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x))); }

// -- products -------------------------------------------------------------------------------------------------------

// What a product is made of: an element of a for all columns, elements of a row of b, and their products' sum.
inline Vector left_of(const float *a) { return all(*a); }
inline Vector right_of(const float *b) { return load(b); }
inline Vector with_product(Vector sum, Vector left, Vector right) { return sum + left * right; }

#if defined(HALF)
// The same with pairs (2k, 2k + 1) of bfloat16 in the words of a and b.
inline __m512bh left_of(const uint32_t *a) { return (__m512bh)_mm512_set1_epi32((int)*a); }
inline __m512bh right_of(const uint32_t *b) { return (__m512bh)_mm512_loadu_si512(b); }
inline Vector with_product(Vector sum, __m512bh left, __m512bh right) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, left, right);
}
#endif

// c (M, NV * W) = [c +] a (M, K) b (K, NV * W); element (m, k) of a is at m * am + k * ak.
template <int NV, typename T>
inline void product(const T *a, int64_t ak, int64_t am, const T *b, int64_t ldb, int64_t K, float *c, int64_t ldc,
                    bool add) {
    Vector sums[M][NV];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) sums[m][v] = add ? load(c + m * ldc + v * W) : Vector{};
    for (int64_t k = 0; k < K; k++) {
        decltype(right_of(b)) right[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) right[v] = right_of(b + k * ldb + v * W);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            const auto left = left_of(a + k * ak + m * am);
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) sums[m][v] = with_product(sums[m][v], left, right[v]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) store(c + m * ldc + v * W, sums[m][v]);
}

// The columns of a row are cut into blocks of 2 W, the last one maybe of W.
inline int64_t width_of_block(int64_t start, int64_t columns) { return smaller(2 * W, columns - start); }

// c (M, columns) = [c +] a (M, K) b (K, columns), whose rows are ldb apart.
template <typename T>
inline void multiply_rows(const T *a, int64_t ak, int64_t am, const T *b, int64_t ldb, int64_t K, float *c,
                          int64_t columns, bool add) {
    for (int64_t start = 0; start < columns; start += 2 * W) {
        if (width_of_block(start, columns) == 2 * W)
            product<2>(a, ak, am, b + start, ldb, K, c + start, columns, add);
        else
            product<1>(a, ak, am, b + start, ldb, K, c + start, columns, add);
    }
}

// c (rows, columns) = a (rows, K) b (K, columns): rows of a are lda apart, b lies block of columns after block.
template <typename T>
inline void multiply_blocks(const T *a, int64_t lda, const T *b, int64_t K, float *c, int64_t ldc, int64_t rows,
                            int64_t columns) {
    for (int64_t k = 0; k < K; k += DEPTH) {
        const int64_t depth = smaller(DEPTH, K - k);
        for (int64_t start = 0; start < columns; start += 2 * W) {
            const int64_t width = width_of_block(start, columns);
            const T *block = b + start * K + k * width;
            for (int64_t t = 0; t < rows; t += M) {
                if (width == 2 * W)
                    product<2>(a + t * lda + k, 1, lda, block, width, depth, c + t * ldc + start, ldc, k > 0);
                else
                    product<1>(a + t * lda + k, 1, lda, block, width, depth, c + t * ldc + start, ldc, k > 0);
            }
        }
    }
}

#if defined(HALF)
inline uint32_t bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
// The nearest bfloat16, ties to even; numbers alone.
inline uint32_t half_of(float x) {
    const uint32_t u = bits(x);
    return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
inline uint32_t pair(float low, float high) { return half_of(low) | half_of(high) << 16; }

inline __m512i halves(const float *low, const float *high) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(high), _mm512_loadu_ps(low));
}
// Two rows of n floats, a multiple of W, to words of one from each.
inline void interleave(const float *low, const float *high, uint32_t *to, int64_t n) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t i = 0; i < n; i += W)
        _mm512_storeu_si512(to + i, _mm512_permutexvar_epi16(order, halves(low + i, high + i)));
}
// A row of n floats, a multiple of W, to words of neighbours.
inline void narrow(const float *from, uint32_t *to, int64_t n) {
    for (int64_t i = 0; i < n; i += W)
        _mm256_storeu_si256((__m256i *)(to + i / 2), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
}
#endif

// -- rows of vectors ------------------------------------------------------------------------------------------------

inline const float *row(const Rows &of, int64_t i, int64_t width) {
    return of.matrix + (of.rows ? of.rows[i] : i) * width;
}
inline void fetch(const float *vector, int64_t dim) {
    for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(vector + d, 0, 2);
}
// Copies (D,) to a place of Dp floats; the rest is 0.
inline void copy(const float *from, float *to, int64_t dim, int64_t padded) {
    memcpy(to, from, dim * sizeof(float));
    for (int64_t d = dim; d < padded; d++) to[d] = 0;
}
// a and b have Dp floats.
inline float dot(const float *a, const float *b, int64_t padded) {
    Vector total{};
    for (int64_t d = 0; d < padded; d += W) total += load(a + d) * load(b + d);
    return sum(total);
}
inline float inverse_norm(float square) {
    const float norm = sqrtf(square);
    return norm < FLOOR ? 1.0f : 1.0f / norm;
}
inline void scale_by(float *v, float factor, int64_t padded) {
    for (int64_t d = 0; d < padded; d += W) store(v + d, load(v + d) * factor);
}
// y += factor * x.
inline void add_to(float *y, const float *x, float factor, int64_t padded) {
    for (int64_t d = 0; d < padded; d += W) store(y + d, load(y + d) + load(x + d) * factor);
}
// x / |x|: the part of the gradient along x is lost, the rest shrinks with |x|.
inline void unnormalise(float *grad, const float *prepared, float inverse, int64_t padded) {
    add_to(grad, prepared, -dot(grad, prepared, padded), padded);
    scale_by(grad, inverse, padded);
}
// Writes (D,) from Dp floats, or adds it to what is there.
inline void put(const float *from, float *to, int64_t dim, bool add) {
    if (!add) {
        memcpy(to, from, dim * sizeof(float));
        return;
    }
    int64_t d = 0;
    for (; d + W <= dim; d += W) store(to + d, load(to + d) + load(from + d));
    for (; d < dim; d++) to[d] += from[d];
}

// -- how memory is laid out -------------------------------------------------------------------------------------------

// With components a negative has several vectors: the first ones of all negatives, padded to Np, then the second ones.
struct Shape {
    int64_t N, D, Np, Dp;    // padded to W
    int64_t A, C, V, Vp;     // components of anchors and of candidates; vectors of all negatives, padded to W
    int64_t Mp, stride;      // V padded to M; floats from a row of scores to the next
    bool half;

    explicit Shape(const Contrast &c)
        : N(c.negatives), D(c.dim), Np(rounded(N, W)), Dp(rounded(D, W)), A(c.pool.anchor), C(c.pool.candidate),
          V(C == 1 ? N : C * Np), Vp(C * Np), Mp(rounded(V, M)), stride(Vp + 16), half(c.half) {}

    int64_t negative(int64_t vector) const { return C == 1 ? vector : vector % Np; }
    const float *drawn(const Contrast &c, int64_t vector) const {
        return row(c.drawn, negative(vector), C * D) + (C == 1 ? 0 : vector / Np * D);
    }
};

struct Piece {  // of a thread
    float *moved_from, *queries, *own, *grad_queries, *grad_own;  // (T, Dp), T vectors; those of own ones (T C, Dp)
    float *scores;                                                // (T, stride)
    float *distances, *weights;                                   // (Np,) of one row
    float *pooled, *value, *top, *share;                          // (Np,) of one edge, see `pool`
    float *own_pulls;                                             // (T, C) gradients of an edge's own similarities
    float *inverse, *own_inverse, *squares;                       // (T,)
    float *apart;                                                 // (T,) of own candidates: minus the distances
    float *grad_positive, *grad_offset, *pulls;                   // (T,)
    uint32_t *query_words, *query_pairs;                          // (T, Dp / 2), (T / 2, Dp)
    uint32_t *grad_words, *grad_pairs;                            // (T, stride / 2), (T / 2, stride)
    float *grad_drawn;                                            // (Mp, Dp)
    float *column_sums, *column_pulls;                            // (Np,) of the scores' gradients, of the distances'
    float *grad_block, *grad_shift;                               // (U, P), (U, D)
    size_t bytes;

    Piece(const Contrast &c, char *base) {
        const Shape s(c);
        char *at = base;
        auto take = [&at](int64_t count) {
            float *got = reinterpret_cast<float *>(at);
            at += rounded(count * 4, 128);
            return got;
        };
        moved_from = take(TILE * s.C * s.Dp), queries = take(TILE * s.Dp), own = take(TILE * s.C * s.Dp);
        grad_queries = take(TILE * s.Dp), grad_own = take(TILE * s.C * s.Dp);
        scores = take(TILE * s.stride), distances = take(s.Np), weights = take(s.Np);
        const int64_t several = s.A * s.C > 1 ? 1 : 0;
        pooled = take(several * s.Np), value = take(several * s.Np), top = take(several * s.Np);
        share = take(several * s.Np), own_pulls = take(several * TILE * s.C);
        inverse = take(TILE), own_inverse = take(TILE * s.C), squares = take(TILE), apart = take(TILE);
        grad_positive = take(TILE), grad_offset = take(TILE), pulls = take(TILE);
        const int64_t words = s.half ? 1 : 0;
        query_words = reinterpret_cast<uint32_t *>(take(words * TILE * s.Dp));
        query_pairs = reinterpret_cast<uint32_t *>(take(words * TILE * s.Dp));
        grad_words = reinterpret_cast<uint32_t *>(take(words * TILE * s.stride));
        grad_pairs = reinterpret_cast<uint32_t *>(take(words * TILE * s.stride));
        grad_drawn = take(s.Mp * s.Dp), column_sums = take(s.Np), column_pulls = take(s.Np);
        grad_block = take(c.relations * c.parameters), grad_shift = take(c.shift ? c.relations * c.dim : 0);
        bytes = at - base;
    }
};

size_t piece_bytes(const Contrast &c) { return Piece(c, nullptr).bytes + 4096; }

Work lay_out(const Contrast &c, char *base) {
    const Shape s(c);
    float *at = reinterpret_cast<float *>(base);
    auto take = [&at](int64_t count) {
        float *got = at;
        at += rounded(count, 32);
        return got;
    };
    Work work{};
    work.inverse = take(s.Vp), work.squares = take(s.Vp), work.ids = reinterpret_cast<uint32_t *>(take(s.Np));
    work.panels = take(s.Vp * (s.D + 1)), work.rows = take((s.V + 1) * s.Dp);
    work.pieces = reinterpret_cast<char *>(at);
    return work;
}
size_t shared_bytes(const Contrast &c) { return size_t(lay_out(c, nullptr).pieces); }

inline bool is_distance(const Contrast &c) { return c.comparator == L2 || c.comparator == SQUARED_L2; }
inline int64_t first_of(int64_t n, int64_t thread, int64_t threads) { return n * thread / threads; }

// -- relations ----------------------------------------------------------------------------------------------------------

inline int64_t relation(const Contrast &c, int64_t edge) { return c.which ? c.which[edge] : 0; }

// Moves an anchor (Dp,) by its relation.
void move(const Contrast &c, const float *x, const float *r, float *y) {
    const int64_t D = c.dim, half = D / 2;
    switch (c.op) {
    case IDENTITY:
        memcpy(y, x, D * sizeof(float));
        break;
    case TRANSLATION:
        for (int64_t d = 0; d < D; d++) y[d] = x[d] + r[d];
        break;
    case DIAGONAL:
        for (int64_t d = 0; d < D; d++) y[d] = x[d] * r[d];
        break;
    case COMPLEX_DIAGONAL:
        for (int64_t d = 0; d < half; d++) {
            y[d] = x[d] * r[d] - x[half + d] * r[half + d];
            y[half + d] = x[d] * r[half + d] + x[half + d] * r[d];
        }
    }
}

// Turns the gradient g (Dp,) of a moved anchor into that of the anchor, in place, and adds that of the relation.
void move_back(const Contrast &c, const float *x, const float *r, float *g, float *grad_r) {
    const int64_t D = c.dim, half = D / 2;
    switch (c.op) {
    case IDENTITY:
        break;
    case TRANSLATION:
        for (int64_t d = 0; d < D; d++) grad_r[d] += g[d];
        break;
    case DIAGONAL:
        for (int64_t d = 0; d < D; d++) {
            grad_r[d] += g[d] * x[d];
            g[d] *= r[d];
        }
        break;
    case COMPLEX_DIAGONAL:
        for (int64_t d = 0; d < half; d++) {
            const float a = g[d], b = g[half + d];
            grad_r[d] += a * x[d] + b * x[half + d];
            grad_r[half + d] += b * x[d] - a * x[half + d];
            g[d] = a * r[d] + b * r[half + d];
            g[half + d] = b * r[d] - a * r[half + d];
        }
    }
}

// -- before the edges: the negatives, in the two orders of the products -------------------------------------------------

void prepare(const Contrast &c, const Work &work, int64_t thread) {
    const Shape s(c);
    // Threads share whole panels.
    const int64_t panels = (s.Vp + 2 * W - 1) / (2 * W);
    const int64_t first = first_of(panels, thread, c.threads) * 2 * W;
    const int64_t end = smaller(first_of(panels, thread + 1, c.threads) * 2 * W, s.Vp);
    float *prepared = Piece(c, work.pieces + thread * work.piece).queries;  // 2W vectors at a time
    const auto there = [&](int64_t v) { return s.negative(v) < s.N; };
    for (int64_t v = first; v < smaller(first + 8, s.V); v++)
        if (there(v)) fetch(s.drawn(c, v), s.D);
    for (int64_t start = first; start < end; start += 2 * W) {
        const int64_t width = width_of_block(start, s.Vp), count = smaller(width, s.V - start);
        memset(prepared, 0, width * s.Dp * sizeof(float));
        for (int64_t i = 0; i < count; i++) {
            const int64_t v = start + i;
            if (v + 8 < s.V && v + 8 < end && there(v + 8)) fetch(s.drawn(c, v + 8), s.D);
            work.squares[v] = 0;
            if (!there(v)) continue;
            float *vector = prepared + i * s.Dp;
            if (c.moves_candidates)
                move(c, s.drawn(c, v), c.block, vector);
            else
                memcpy(vector, s.drawn(c, v), s.D * sizeof(float));
            float square = dot(vector, vector, s.Dp), inverse = 1.0f;
            if (c.comparator == COSINE) {
                inverse = inverse_norm(square);
                scale_by(vector, inverse, s.Dp);
            }
            work.inverse[v] = inverse, work.squares[v] = square;
            if (v < s.N) work.ids[v] = uint32_t(c.drawn_ids[v]);
        }
        for (int64_t i = count; i < width; i++) work.squares[start + i] = 0;
#if defined(HALF)
        if (s.half) {
            const int64_t pairs = (s.D + 1) / 2, rows = (s.V + 1) / 2;
            uint32_t *panel = reinterpret_cast<uint32_t *>(work.panels) + start * pairs;
            for (int64_t i = 0; i < width; i++) {
                const float *vector = prepared + i * s.Dp;
                for (int64_t k = 0; k < pairs; k++) panel[k * width + i] = pair(vector[2 * k], vector[2 * k + 1]);
            }
            for (int64_t d = 0; d < s.Dp; d += 2 * W) {
                const int64_t block = width_of_block(d, s.Dp);
                uint32_t *to = reinterpret_cast<uint32_t *>(work.rows) + d * rows;
                for (int64_t i = 0; i < width && start + i < s.V; i += 2)
                    interleave(prepared + i * s.Dp + d, prepared + (i + 1) * s.Dp + d, to + (start + i) / 2 * block,
                               block);
            }
            continue;
        }
#endif
        float *panel = work.panels + start * s.D;
        for (int64_t i = 0; i < width; i++)
            for (int64_t k = 0; k < s.D; k++) panel[k * width + i] = prepared[i * s.Dp + k];
        for (int64_t d = 0; d < s.Dp; d += 2 * W) {
            const int64_t block = width_of_block(d, s.Dp);
            for (int64_t i = 0; i < count; i++)
                memcpy(work.rows + d * s.V + (start + i) * block, prepared + i * s.Dp + d, block * sizeof(float));
        }
    }
}

// -- losses of one row --------------------------------------------------------------------------------------------------

struct Row {
    float value, grad_positive, sum;  // the gradients with the scale of the scores
};

inline float maximum(const float *s, int64_t n) {
    Vector top = all(NONE);
    for (int64_t i = 0; i < n; i += W) top = largest(load(s + i), top);
    float most = NONE;
    for (int i = 0; i < W; i++) most = top[i] > most ? top[i] : most;
    return most;
}

// -s_i + log(e^{s_i} + sum_j e^{s_j}); scores (n,), none above `most`, become their gradient times `scale`.
Row softmax(float positive, float *s, int64_t n, float most, float weight, float scale) {
    const float top = most > positive ? most : positive;
    Vector total{};
    for (int64_t i = 0; i < n; i += W) {
        const Vector e = exponential(load(s + i) - top);
        store(s + i, e);
        total += e;
    }
    const float others = sum(total), all_of_them = others + expf(positive - top), share = weight * scale / all_of_them;
    scale_by(s, share, n);
    return {weight * (logf(all_of_them) + (top - positive)), -others * share, others * share};
}

// Weights (n,) of the negatives under "adversarial", or one for all of them.
float weigh(const Contrast &c, const float *s, int64_t n, float most, float *weights) {
    if (c.reduction == SUM) return 1.0f;
    if (c.reduction == MEAN) {
        int64_t count = 0;
        for (int64_t i = 0; i < n; i++) count += s[i] > NONE;
        return 1.0f / (count ? count : 1);
    }
    Vector total{};
    for (int64_t i = 0; i < n; i += W) {
        Vector e{};
        if (most > NONE) e = exponential((load(s + i) - most) * c.adversarial);
        store(weights + i, e);
        total += e;
    }
    const float whole = sum(total);
    return whole > 0 ? 1.0f / whole : 0.0f;
}

// softplus(-(s_i + offset)) + sum_j w_j softplus(s_j + offset)
Row logistic(const Contrast &c, float positive, float *s, int64_t n, float most, float weight, float *weights) {
    const float common = weigh(c, s, n, most, weights);
    const bool own = c.reduction == ADVERSARIAL;
    Vector value{}, total{};
    for (int64_t i = 0; i < n; i += W) {
        const Vector x = load(s + i) + c.offset, size = select(x < all(0.0f), -x, x), e = exponential(-size);
        const Vector w = own ? load(weights + i) * common : all(common);
        const Vector sigma = select(x < all(0.0f), e, all(1.0f)) / (e + 1.0f);
        value += select(x < all(-87.0f), all(0.0f), largest(x, all(0.0f)) + log1p_of(e)) * w;
        const Vector g = sigma * w * (weight * c.scale);
        store(s + i, g);
        total += g;
    }
    const float x = positive + c.offset, grad = -sigmoid(-x) * weight * c.scale;
    return {weight * (softplus(-x) + sum(value)), grad, sum(total)};
}

// sum_j w_j max(0, margin - s_i + s_j)
Row ranking(const Contrast &c, float positive, float *s, int64_t n, float most, float weight, float *weights) {
    const float common = weigh(c, s, n, most, weights), shift = c.margin - positive;
    const bool own = c.reduction == ADVERSARIAL;
    Vector value{}, total{};
    for (int64_t i = 0; i < n; i += W) {
        const Vector excess = load(s + i) + shift;
        const Vector w = own ? load(weights + i) * common : all(common);
        const Ints counts = excess > all(0.0f);
        value += select(excess <= all(0.0f), all(0.0f), excess * w);  // NaN stays NaN
        const Vector g = select(counts, w * (weight * c.scale), all(0.0f));
        store(s + i, g);
        total += g;
    }
    const float grad = sum(total);
    return {weight * sum(value), -grad, grad};
}

// -- a tile of edges ----------------------------------------------------------------------------------------------------

struct Tile {
    const Contrast &c;
    const Work &work;
    const Shape s;
    const Piece p;
    const bool distance;
    int64_t start = 0, count = 0;              // edges
    int64_t vectors = 0, padded = 0;           // of their anchors, and with those of zeros
    bool first = true;                         // nothing is in grad_drawn and columns yet

    Tile(const Contrast &c, const Work &work, int64_t thread)
        : c(c), work(work), s(c), p(c, work.pieces + thread * work.piece), distance(is_distance(c)) {
        memset(p.grad_block, 0, c.relations * c.parameters * sizeof(float));
        if (c.shift) memset(p.grad_shift, 0, c.relations * c.dim * sizeof(float));
        memset(p.column_sums, 0, s.Np * sizeof(float));
        memset(p.column_pulls, 0, s.Np * sizeof(float));
    }

    void fetch_ends(int64_t from, int64_t until) const {
        for (int64_t e = from; e < until; e++) {
            fetch(row(c.anchors, e, s.A * s.D), s.A * s.D);
            fetch(row(c.own, e, s.C * s.D), s.C * s.D);
        }
    }

    void gather() {
        vectors = count * s.A, padded = rounded(vectors, M);
        for (int64_t t = 0; t < vectors; t++) {
            const int64_t e = start + t / s.A;
            float *q = p.queries + t * s.Dp;
            take(row(c.anchors, e, s.A * s.D) + t % s.A * s.D, e, p.moved_from + t * s.Dp, q, !c.moves_candidates);
            p.squares[t] = dot(q, q, s.Dp);
            p.inverse[t] = c.comparator == COSINE ? normalise(q, p.squares[t]) : 1.0f;
        }
        for (int64_t t = 0; t < count * s.C; t++) {
            const int64_t e = start + t / s.C;
            float *o = p.own + t * s.Dp;
            take(row(c.own, e, s.C * s.D) + t % s.C * s.D, e, p.moved_from + t * s.Dp, o, c.moves_candidates);
            p.own_inverse[t] = c.comparator == COSINE ? normalise(o, dot(o, o, s.Dp)) : 1.0f;
        }
        // Rows of zeros, up to an even number of whole blocks.
        memset(p.queries + vectors * s.Dp, 0, (padded - vectors) * s.Dp * sizeof(float));
    }

    // A vector of an edge to its place; what moves is kept, for the way back.
    void take(const float *vector, int64_t edge, float *kept, float *to, bool moves) const {
        if (!moves) return copy(vector, to, s.D, s.Dp);
        copy(vector, kept, s.D, s.Dp);
        copy(kept, to, s.Dp, s.Dp);
        move(c, kept, c.block + relation(c, edge) * c.parameters, to);
    }
    float normalise(float *vector, float square) const {
        const float inverse = inverse_norm(square);
        scale_by(vector, inverse, s.Dp);
        return inverse;
    }

    void score() {
#if defined(HALF)
        if (s.half) {
            const int64_t pairs = (s.D + 1) / 2, ld = s.Dp / 2;
            for (int64_t t = 0; t < padded; t++) narrow(p.queries + t * s.Dp, p.query_words + t * ld, s.Dp);
            for (int64_t t = 0; t < padded; t += 2)
                interleave(p.queries + t * s.Dp, p.queries + (t + 1) * s.Dp, p.query_pairs + t / 2 * s.Dp, s.Dp);
            const uint32_t *panels = reinterpret_cast<const uint32_t *>(work.panels);
            multiply_blocks(p.query_words, ld, panels, pairs, p.scores, s.stride, padded, s.Vp);
            return;
        }
#endif
        multiply_blocks(p.queries, s.Dp, work.panels, s.D, p.scores, s.stride, padded, s.Vp);
    }

    // Products (Np,) to what goes into the loss; what does not count becomes minus infinity.  Returns the largest.
    float finish_scores(int64_t t, float *x, float offset) {
        const int64_t e = start + t;
        if (distance) be_distances(t, x);
        const Ints own = (int32_t)(uint32_t)c.own_ids[e] - Ints{};
        Vector most = all(NONE);
        // The last vector may hold places beyond N, of which biases and logarithms have none.
        const int64_t whole = s.N / W * W;
        for (int64_t n = 0; n < whole; n += W) {
            Vector v = load(x + n) + offset;
            if (c.drawn_bias) v += load(c.drawn_bias + n);
            v *= c.scale;
            if (c.log_expected) v -= load(c.log_expected + n);
            Ints ids;
            memcpy(&ids, work.ids + n, sizeof ids);
            v = select(ids == own, all(NONE), v);
            most = largest(v, most);
            store(x + n, v);
        }
        float top = NONE;
        for (int i = 0; i < W; i++) top = most[i] > top ? most[i] : top;
        for (int64_t n = whole; n < s.N; n++) {
            x[n] = (x[n] + offset + (c.drawn_bias ? c.drawn_bias[n] : 0)) * c.scale;
            if (c.log_expected) x[n] -= c.log_expected[n];
            if (work.ids[n] == uint32_t(c.own_ids[e])) x[n] = NONE;
            top = x[n] > top ? x[n] : top;
        }
        for (int64_t n = s.N; n < s.Np; n++) x[n] = NONE;
        if (!c.known_ends) return top;
        const int64_t question = c.questions ? c.questions[e] : e;
        for (int64_t k = question ? c.known_ends[question - 1] : 0; k < c.known_ends[question]; k++)
            x[c.known_places[k]] = NONE;
        return maximum(x, s.Np);
    }

    // Products (Np,) to minus the distances, which are kept; what is below the rounding of their sums is 0.
    void be_distances(int64_t t, float *x) {
        const float square = p.squares[t], rounding = 8 * 1.1920929e-7f;
        for (int64_t n = 0; n < s.Np; n += W) {
            const Vector sizes = load(work.squares + n) + square;
            Vector apart = sizes - 2.0f * load(x + n);
            apart = select(apart <= sizes * rounding, all(0.0f), apart);
            if (c.comparator == L2)
                for (int i = 0; i < W; i++) apart[i] = sqrtf(apart[i]);
            store(p.distances + n, apart);
            store(x + n, -apart);
        }
    }

    float own_score(int64_t t) {
        const float *q = p.queries + t * s.Dp, *o = p.own + t * s.Dp;
        if (!distance) return dot(q, o, s.Dp);
        Vector total{};
        for (int64_t d = 0; d < s.Dp; d += W) {
            const Vector between = load(q + d) - load(o + d);
            total += between * between;
        }
        p.apart[t] = c.comparator == L2 ? sqrtf(sum(total)) : sum(total);
        return -p.apart[t];
    }

    // Gradients (Np,) of minus the distances to what is pulled along the vectors between; returns their sum.
    float pull(float *x) {
        Vector total{};
        for (int64_t n = 0; n < s.Np; n += W) {
            Vector g = load(x + n);
            if (c.comparator == L2) {
                const Vector length = load(p.distances + n);
                g = select(length > all(0.0f), g / length, all(0.0f));
            } else {
                g *= 2.0f;
            }
            store(x + n, g);
            store(p.column_pulls + n, load(p.column_pulls + n) + g);
            total += g;
        }
        return sum(total);
    }

    // Similarities of all pairs of components of an edge and the negatives (A, C, Np) to scores (Np,), keeping what the
    // way back needs.
    void pool(int64_t t) {
        const float *x = p.scores + t * s.A * s.stride;
        for (int64_t n = 0; n < s.Np; n += W) {
            Vector top = load(x + n);
            for (int64_t a = 0; a < s.A; a++)
                for (int64_t b = 0; b < s.C; b++) top = largest(load(x + a * s.stride + b * s.Np + n), top);
            store(p.top + n, top);
            Vector value = top;
            if (c.pool.smooth) {
                Vector total{}, weighed{};
                for (int64_t a = 0; a < s.A; a++)
                    for (int64_t b = 0; b < s.C; b++) {
                        const Vector m = load(x + a * s.stride + b * s.Np + n);
                        const Vector e = exponential((m - top) * c.pool.sharpness);
                        total += e, weighed += e * m;
                    }
                value = weighed / total;
                store(p.share + n, 1.0f / total);
            }
            store(p.value + n, value), store(p.pooled + n, value);
        }
    }

    // Gradients (Np,) of the scores to those of the similarities, in their place.
    void unpool(int64_t t) {
        float *x = p.scores + t * s.A * s.stride;
        for (int64_t n = 0; n < s.Np; n += W) {
            const Vector grad = load(p.pooled + n), top = load(p.top + n), value = load(p.value + n);
            Vector share{};
            if (c.pool.smooth) share = load(p.share + n) * grad;
            Ints open = all(0.0f) == all(0.0f);  // where the largest has not come yet
            for (int64_t a = 0; a < s.A; a++)
                for (int64_t b = 0; b < s.C; b++) {
                    float *at = x + a * s.stride + b * s.Np + n;
                    const Vector m = load(at);
                    if (c.pool.smooth) {
                        const Vector e = exponential((m - top) * c.pool.sharpness);
                        store(at, e * share * (1.0f + (m - value) * c.pool.sharpness));
                    } else {
                        const Ints here = (m == top) & open;
                        open &= ~here;
                        store(at, select(here, grad, all(0.0f)));
                    }
                }
        }
    }

    // An edge's own similarities to its score; in own_pulls stays the gradient of that by each.
    float own_pooled(int64_t t) {
        const int64_t pairs = s.A * s.C;
        float *m = p.own_pulls + t * pairs, top = NONE, sum = 0, total = 0, weighed = 0;
        for (int64_t a = 0; a < s.A; a++)
            for (int64_t b = 0; b < s.C; b++) {
                const float x = dot(p.queries + (t * s.A + a) * s.Dp, p.own + (t * s.C + b) * s.Dp, s.Dp);
                m[a * s.C + b] = x, sum += x, top = x > top ? x : top;
            }
        for (int64_t k = 0; c.pool.smooth && k < pairs; k++) {
            const float e = expf((m[k] - top) * c.pool.sharpness);
            total += e, weighed += e * m[k];
        }
        const float value = c.pool.smooth ? weighed / total : top;
        bool open = true;
        for (int64_t k = 0; k < pairs; k++) {
            float pull = open && m[k] == top ? 1.0f : 0.0f;
            open = open && m[k] != top;
            if (c.pool.smooth)
                pull = expf((m[k] - top) * c.pool.sharpness) / total * (1 + (m[k] - value) * c.pool.sharpness);
            m[k] = c.pool.even + c.pool.rest * pull;
        }
        return c.pool.even * sum + c.pool.rest * value;
    }

    // From products to losses and the gradients of the products, edge by edge.
    void lose() {
        const bool several = s.A * s.C > 1;
        for (int64_t t = 0; t < count; t++) {
            const int64_t e = start + t;
            float *x = several ? p.pooled : p.scores + t * s.stride, offset = c.anchor_bias ? c.anchor_bias[e] : 0;
            if (several) pool(t);
            if (c.shift) {
                const float *shift = c.shift + relation(c, e) * s.D, *from = p.moved_from + t * s.Dp;
                for (int64_t d = 0; d < s.D; d++) offset += from[d] * shift[d];
            }
            const float own = several ? own_pooled(t) : own_score(t);
            const float positive = (own + offset + (c.own_bias ? c.own_bias[e] : 0)) * c.scale;
            const float most = finish_scores(t, x, offset);
            const Row done = c.loss == SOFTMAX    ? softmax(positive, x, s.Np, most, c.weights[e], c.scale)
                             : c.loss == LOGISTIC ? logistic(c, positive, x, s.Np, most, c.weights[e], p.weights)
                                                  : ranking(c, positive, x, s.Np, most, c.weights[e], p.weights);
            c.losses[e] += done.value;
            p.grad_positive[t] = done.grad_positive;
            // Where a number added to all scores changes no loss its gradient is 0, which a sum of rounded terms is not.
            p.grad_offset[t] = c.loss == LOGISTIC ? done.grad_positive + done.sum : 0.0f;
            if (c.grad_drawn_bias) add_to(p.column_sums, x, 1.0f, s.Np);
            if (distance) p.pulls[t] = pull(x);
            if (several) unpool(t);
        }
        for (int64_t t = vectors; t < padded; t++) memset(p.scores + t * s.stride, 0, s.Vp * sizeof(float));
    }

    // The gradients' products with the negatives and with the anchors.
    void multiply_back() {
        if (s.N == 0) memset(p.grad_queries, 0, padded * s.Dp * sizeof(float));  // no product writes it
#if defined(HALF)
        if (s.half) {
            const int64_t pairs = (s.V + 1) / 2, ld = s.stride / 2;
            for (int64_t t = 0; t < padded; t++) narrow(p.scores + t * s.stride, p.grad_words + t * ld, s.Vp);
            for (int64_t t = 0; t < padded; t += 2)
                interleave(p.scores + t * s.stride, p.scores + (t + 1) * s.stride, p.grad_pairs + t / 2 * s.stride, s.Vp);
            const uint32_t *rows = reinterpret_cast<const uint32_t *>(work.rows);
            multiply_blocks(p.grad_words, ld, rows, pairs, p.grad_queries, s.Dp, padded, s.Dp);
            for (int64_t n = 0; n < s.Mp; n += M)
                multiply_rows(p.grad_pairs + n, s.stride, 1, p.query_pairs, s.Dp, padded / 2, p.grad_drawn + n * s.Dp,
                              s.Dp, !first);
            return;
        }
#endif
        multiply_blocks(p.scores, s.stride, work.rows, s.V, p.grad_queries, s.Dp, padded, s.Dp);
        for (int64_t n = 0; n < s.Mp; n += M)
            multiply_rows(p.scores + n, s.stride, 1, p.queries, s.Dp, padded, p.grad_drawn + n * s.Dp, s.Dp, !first);
    }

    void write() {
        if (s.A * s.C > 1) return write_components();
        for (int64_t t = 0; t < count; t++) {
            const int64_t e = start + t;
            const float *x = p.moved_from + t * s.Dp, *q = p.queries + t * s.Dp, *o = p.own + t * s.Dp;
            float *grad = p.grad_queries + t * s.Dp, *grad_own = p.grad_own + t * s.Dp, own = p.grad_positive[t];
            if (distance) {
                own = c.comparator == L2 ? (p.apart[t] > 0 ? own / p.apart[t] : 0.0f) : 2 * own;
                for (int64_t d = 0; d < s.Dp; d += W) {
                    const Vector along = (load(o + d) - load(q + d)) * own;
                    store(grad_own + d, -along);
                    store(grad + d, load(grad + d) - load(q + d) * p.pulls[t] + along);
                }
            } else {
                for (int64_t d = 0; d < s.Dp; d += W) {
                    store(grad_own + d, load(q + d) * own);
                    store(grad + d, load(grad + d) + load(o + d) * own);
                }
            }
            if (c.comparator == COSINE) {
                unnormalise(grad, q, p.inverse[t], s.Dp);
                unnormalise(grad_own, o, p.own_inverse[t], s.Dp);
            }
            const int64_t r = relation(c, e);
            move_back(c, x, c.block + r * c.parameters, c.moves_candidates ? grad_own : grad,
                      p.grad_block + r * c.parameters);
            if (c.shift) {
                const float *shift = c.shift + r * s.D;
                float *grad_shift = p.grad_shift + r * s.D;
                for (int64_t d = 0; d < s.D; d++) {
                    grad_shift[d] += p.grad_offset[t] * x[d];
                    grad[d] += p.grad_offset[t] * shift[d];
                }
            }
            put(grad, c.grad_anchors + e * s.D, s.D, c.add);
            put(grad_own, c.grad_own + e * s.D, s.D, c.add);
            if (c.grad_anchor_bias) put(p.grad_offset + t, c.grad_anchor_bias + e, 1, c.add);
            if (c.grad_own_bias) put(p.grad_positive + t, c.grad_own_bias + e, 1, c.add);
        }
    }

    void write_components() {
        for (int64_t t = 0; t < count; t++) {
            const int64_t e = start + t, r = relation(c, e);
            const float *block = c.block + r * c.parameters, *pulls = p.own_pulls + t * s.A * s.C;
            float *grad_block = p.grad_block + r * c.parameters;
            const float *queries = p.queries + t * s.A * s.Dp, *own = p.own + t * s.C * s.Dp;
            for (int64_t a = 0; a < s.A; a++) {
                const int64_t v = t * s.A + a;
                float *grad = p.grad_queries + v * s.Dp;
                for (int64_t b = 0; b < s.C; b++)
                    add_to(grad, own + b * s.Dp, p.grad_positive[t] * pulls[a * s.C + b], s.Dp);
                if (c.comparator == COSINE) unnormalise(grad, p.queries + v * s.Dp, p.inverse[v], s.Dp);
                if (!c.moves_candidates) move_back(c, p.moved_from + v * s.Dp, block, grad, grad_block);
                put(grad, c.grad_anchors + (e * s.A + a) * s.D, s.D, c.add);
            }
            for (int64_t b = 0; b < s.C; b++) {
                const int64_t v = t * s.C + b;
                float *grad = p.grad_own + v * s.Dp;
                memset(grad, 0, s.Dp * sizeof(float));
                for (int64_t a = 0; a < s.A; a++)
                    add_to(grad, queries + a * s.Dp, p.grad_positive[t] * pulls[a * s.C + b], s.Dp);
                if (c.comparator == COSINE) unnormalise(grad, p.own + v * s.Dp, p.own_inverse[v], s.Dp);
                if (c.moves_candidates) move_back(c, p.moved_from + v * s.Dp, block, grad, grad_block);
                put(grad, c.grad_own + (e * s.C + b) * s.D, s.D, c.add);
            }
            if (c.grad_anchor_bias) put(p.grad_offset + t, c.grad_anchor_bias + e, 1, c.add);
            if (c.grad_own_bias) put(p.grad_positive + t, c.grad_own_bias + e, 1, c.add);
        }
    }
};

void edges(const Contrast &c, const Work &work, int64_t thread) {
    const int64_t begin = first_of(c.size, thread, c.threads), end = first_of(c.size, thread + 1, c.threads);
    Tile tile(c, work, thread);
    const int64_t most = TILE / c.pool.anchor;  // edges
    tile.fetch_ends(begin, smaller(begin + most, end));
    for (tile.start = begin; tile.start < end; tile.start += most) {
        tile.count = smaller(most, end - tile.start);
        tile.gather();
        tile.fetch_ends(tile.start + most, smaller(tile.start + 2 * most, end));
        tile.score();
        tile.lose();
        tile.multiply_back();
        tile.write();
        tile.first = false;
    }
}

// -- after the edges: the threads' sums ---------------------------------------------------------------------------------

// Adds up what the threads have that had edges, 0 where none had; `part` says where.
template <typename Part> inline void add_up(const Contrast &c, const Work &work, int64_t n, float *to, Part part) {
    bool first = true;
    for (int64_t thread = 0; thread < c.threads; thread++) {
        if (first_of(c.size, thread, c.threads) == first_of(c.size, thread + 1, c.threads)) continue;
        const float *from = part(Piece(c, work.pieces + thread * work.piece));
        put(from, to, n, !first);
        first = false;
    }
    if (first) memset(to, 0, n * sizeof(float));
}

void finish(const Contrast &c, const Work &work, int64_t thread) {
    const Shape s(c);
    const Piece mine(c, work.pieces + thread * work.piece);
    float *grad = mine.queries, *vector = mine.own;  // (Dp,)
    const int64_t end = first_of(s.N, thread + 1, c.threads);
    for (int64_t at = first_of(s.N, thread, c.threads) * s.C; at < end * s.C; at++) {
        const int64_t n = at / s.C, v = at % s.C * s.Np + n;  // a negative, and one of its vectors
        const float *from = s.drawn(c, v);
        add_up(c, work, s.Dp, grad, [&](const Piece &p) { return p.grad_drawn + v * s.Dp; });
        if (c.grad_drawn_bias && v == n)
            add_up(c, work, 1, c.grad_drawn_bias + n, [&](const Piece &p) { return p.column_sums + n; });
        if (c.comparator != DOT) {
            copy(from, vector, s.D, s.Dp);
            if (c.moves_candidates) move(c, from, c.block, vector);
        }
        if (is_distance(c)) {
            float pull = 0;
            add_up(c, work, 1, &pull, [&](const Piece &p) { return p.column_pulls + n; });
            add_to(grad, vector, -pull, s.Dp);
        } else if (c.comparator == COSINE) {
            scale_by(vector, work.inverse[v], s.Dp);
            unnormalise(grad, vector, work.inverse[v], s.Dp);
        }
        if (c.moves_candidates) move_back(c, from, c.block, grad, mine.grad_block);
        memcpy(c.grad_drawn + at * s.D, grad, s.D * sizeof(float));
    }
}

// Sums what the relations have got from every thread; one that had no edge may have had negatives.
void conclude(const Contrast &c, const Work &work) {
    if (c.parameters) memset(c.grad_block, 0, c.relations * c.parameters * sizeof(float));
    if (c.shift) memset(c.grad_shift, 0, c.relations * c.dim * sizeof(float));
    for (int64_t thread = 0; thread < c.threads; thread++) {
        const Piece p(c, work.pieces + thread * work.piece);
        put(p.grad_block, c.grad_block, c.relations * c.parameters, true);
        if (c.shift) put(p.grad_shift, c.grad_shift, c.relations * c.dim, true);
    }
}

// -- the optimizer ------------------------------------------------------------------------------------------------------

constexpr int64_t AHEAD = 12;  // rows that are fetched before their turn
constexpr float EPSILON = 1e-10f;

// Where the gradients of a row are: a list that goes through `next`, in the order of their positions.
struct Touched {
    int64_t row;
    int32_t head, tail;
};

int64_t slots(const Update &u) {
    int64_t n = 16;
    while (n < 2 * (u.counts[0] + (u.parts > 1 ? u.counts[1] : 0))) n *= 2;
    return n;
}
size_t update_bytes(const Update &u) {
    const int64_t n = u.counts[0] + (u.parts > 1 ? u.counts[1] : 0);
    return slots(u) * 4 + n * (4 + sizeof(Touched)) + rounded(u.dim, W) * 4 + 1024;
}

inline const float *gradient(const Update &u, int64_t at) {
    return at < u.counts[0] ? u.grads[0] + at * u.dim : u.grads[1] + (at - u.counts[0]) * u.dim;
}

void apply(const Update &u, int64_t row, const float *g) {
    float *x = u.table + row * u.dim;
    const int64_t D = u.dim;
    if (u.elements) {
        float *state = u.state + row * D;
        for (int64_t d = 0; d < D; d++) {
            state[d] += g[d] * g[d];
            x[d] -= u.rate * g[d] / (sqrtf(state[d]) + EPSILON);
        }
    } else {
        Vector total{};
        int64_t d = 0;
        for (; d + W <= D; d += W) total += load(g + d) * load(g + d);
        float square = sum(total);
        for (; d < D; d++) square += g[d] * g[d];
        const float state = u.state[row] + square / D;
        u.state[row] = state;
        const float rate = u.rate / (sqrtf(state) + EPSILON);
        for (d = 0; d + W <= D; d += W) store(x + d, load(x + d) - load(g + d) * rate);
        for (; d < D; d++) x[d] -= rate * g[d];
    }
    if (u.max_norm > 0) {
        float square = 0;
        for (int64_t d = 0; d < D; d++) square += x[d] * x[d];
        const float norm = sqrtf(square);
        if (norm > u.max_norm)
            for (int64_t d = 0; d < D; d++) x[d] *= u.max_norm / (norm + 1e-7f);
    }
}

// Every thread has the rows of its own share of hashes, so that no two touch the same.
void update(const Update &u, char *piece, int64_t thread) {
    const int64_t n = u.counts[0] + (u.parts > 1 ? u.counts[1] : 0), size = slots(u), D = u.dim;
    Touched *touched = reinterpret_cast<Touched *>(piece);
    int32_t *table = reinterpret_cast<int32_t *>(touched + n), *next = table + size;
    float *total = reinterpret_cast<float *>(piece + rounded((char *)(next + n) - piece, 64));
    memset(table, 0xff, size * sizeof(int32_t));
    int32_t found = 0;
    for (int64_t at = 0; at < n; at++) {
        const int64_t row = at < u.counts[0] ? u.rows[0][at] : u.rows[1][at - u.counts[0]];
        const uint64_t hash = uint64_t(row) * 0x9e3779b97f4a7c15u;
        if (int64_t((hash >> 40) * uint64_t(u.threads) >> 24) != thread) continue;
        int64_t slot = (hash >> 20) & (size - 1);
        while (table[slot] >= 0 && touched[table[slot]].row != row) slot = (slot + 1) & (size - 1);
        next[at] = -1;
        if (table[slot] < 0) {
            table[slot] = found;
            touched[found++] = {row, int32_t(at), int32_t(at)};
        } else {
            Touched &known = touched[table[slot]];
            next[known.tail] = int32_t(at);
            known.tail = int32_t(at);
        }
    }
    for (int32_t i = 0; i < found; i++) {
        if (i + AHEAD < found) {
            const int64_t later = touched[i + AHEAD].row;
            for (int64_t d = 0; d < D; d += 16) __builtin_prefetch(u.table + later * D + d, 1, 2);
            __builtin_prefetch(u.state + later * (u.elements ? D : 1), 1, 2);
        }
        const float *g = gradient(u, touched[i].head);
        if (next[touched[i].head] >= 0) {
            memcpy(total, g, D * sizeof(float));
            for (int32_t at = next[touched[i].head]; at >= 0; at = next[at]) put(gradient(u, at), total, D, true);
            g = total;
        }
        apply(u, touched[i].row, g);
    }
}

// Every thread has a run of the edges.
void penalise(const Penalty &p, int64_t thread) {
    constexpr int64_t CHUNK = 64, AHEAD = 4;
    const int64_t D = p.dim, numbers = p.complex_numbers ? D / 2 : D;
    const int64_t end = p.size * (thread + 1) / p.threads;
    for (int64_t i = p.size * thread / p.threads; i < end; i++) {
        if (i + AHEAD < end) fetch(p.table + p.rows[i + AHEAD] * D, D);
        const float *v = p.table + p.rows[i] * D, weight = p.weights[i];
        float *g = p.grads + i * D;
        Vector squares{}, cubes{};
        for (int64_t from = 0; from < numbers; from += CHUNK) {
            const int64_t n = smaller(CHUNK, numbers - from);
            const float *real = v + from, *imaginary = real + numbers;
            float square[CHUNK] = {}, modulus[CHUNK];
            for (int64_t k = 0; k < n; k++) square[k] = real[k] * real[k];
            if (p.complex_numbers)
                for (int64_t k = 0; k < n; k++) square[k] += imaginary[k] * imaginary[k];
            for (int64_t k = 0; k < CHUNK; k++) modulus[k] = sqrtf(square[k]);
            for (int64_t k = 0; k < CHUNK; k += W) {
                squares += load(square + k);
                cubes += load(square + k) * load(modulus + k);
            }
            for (int64_t k = 0; k < n; k++) {
                const float factor = weight * (2 * p.l2 + 3 * p.n3 * modulus[k]);
                g[from + k] += factor * real[k];
                if (p.complex_numbers) g[numbers + from + k] += factor * imaginary[k];
            }
        }
        p.losses[i] += weight * (p.l2 * sum(squares) + p.n3 * sum(cubes));
    }
}

bool supports(bool half) {
#if defined(HALF)
    (void)half;
    return true;
#else
    return !half;
#endif
}

}  // namespace

extern const Kernels JOIN(kernels_, ISA);
const Kernels JOIN(kernels_, ISA) = {NAME(ISA), supports, shared_bytes, piece_bytes, lay_out, prepare,
                                     edges,     finish,   conclude,     update_bytes, update, penalise};
