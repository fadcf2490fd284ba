// What the kernels take and give: plain structures of pointers and counts, mirrored field by field in native/bindings.py.
//
// Shapes: B edges, N negatives, D dimension, U relations of the batch, P parameters of a relation.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define EXPORTED extern "C" __declspec(dllexport)
#else
#define EXPORTED extern "C" __attribute__((visibility("default")))
#endif

// Enumerations have a fixed size, so that Python can write them.
enum Operator : int64_t { IDENTITY, TRANSLATION, DIAGONAL, COMPLEX_DIAGONAL };
enum Comparator : int64_t { DOT, COSINE, L2, SQUARED_L2 };
enum Loss : int64_t { SOFTMAX, LOGISTIC, RANKING };
enum Reduction : int64_t { SUM, MEAN, ADVERSARIAL };

// Rows of a matrix (n, D), with components (n, C D): those that `rows` names, or without it the first n.
struct Rows {
    const float *matrix;
    const int64_t *rows;
};

// How the similarities of an anchor's components with a candidate's become a score; one component of both is the plain
// case, in which nothing is pooled.
struct Pool {
    int64_t anchor, candidate;  // components, whose vectors lie side by side in a row
    int64_t smooth;             // smoothmax; else the largest
    float sharpness;            // 1 over the temperature of the smoothmax
    float even, rest;           // a positive's score is even * sum + rest * pooled
};

// One question for a batch: scores of every anchor with its own candidate and the shared negatives, the loss, and all
// gradients. What may be null is optional.
struct Contrast {
    int64_t size, negatives, dim, relations, parameters;  // B, N, D, U, P
    Rows anchors, own, drawn;                             // B, B and N of them
    Pool pool;

    Operator op;
    int64_t moves_candidates;  // the operator moves own and drawn ones in place of the anchors; U is 1 then
    const float *block;        // (U, P)
    const float *shift;        // (U, D), may be null: dot(anchor, shift) is added to the anchor's scores
    const int64_t *which;      // (B,) relation of every edge, may be null: all have the first

    Comparator comparator;
    const float *own_bias, *drawn_bias, *anchor_bias;  // (B,), (N,), (B,), may be null
    const float *log_expected;                         // (N,), may be null
    float scale;                                       // scores are multiplied by it

    const int64_t *own_ids, *drawn_ids;  // (B,), (N,): equal ones do not count as negatives
    const int64_t *known_ends;           // (Q,), may be null: where in known_places the known ones of a question end
    const int64_t *known_places;         // negatives that do not count
    const int64_t *questions;            // (B,), may be null: edge i asks question i

    Loss loss;
    Reduction reduction;
    float adversarial, margin, offset;
    const float *weights;  // (B,)

    // What is found of negatives and relations is written, and with `add` what is found of edges is added; else written
    // too.  Losses are always added.
    float *losses;                                              // (B,)
    float *grad_anchors, *grad_own, *grad_drawn;                // (B, D), (B, D), (N, D)
    float *grad_block, *grad_shift;                             // (U, P), (U, D) or null
    float *grad_anchor_bias, *grad_own_bias, *grad_drawn_bias;  // (B,), (B,), (N,) or null
    int64_t add;
    int64_t half;        // bfloat16 products with float32 sums
    int64_t threads;
};

// Adagrad on the rows that gradients name, each once, with the sum of its gradients.
struct Update {
    float *table;      // (V, D)
    float *state;      // (V,), or (V, D) with `elements`
    int64_t dim;
    int64_t elements;  // an accumulator an element
    float rate, max_norm;
    int64_t parts;            // 1 or 2
    const int64_t *rows[2];   // (n,)
    const float *grads[2];    // (n, D)
    int64_t counts[2];
    int64_t threads;
};

// What vectors cost by their size: weight * (l2 * |v|² + n3 * sum |v_i|³), added to losses and gradients.
struct Penalty {
    const float *table;      // (V, D)
    const int64_t *rows;     // (B,)
    const float *weights;    // (B,)
    int64_t size, dim;       // B, D
    float l2, n3;
    int64_t complex_numbers;  // cubes are those of the moduli of (v[d], v[D / 2 + d])
    float *losses;            // (B,)
    float *grads;             // (B, D)
    int64_t threads;
};

// Memory of a call; `pieces` of each thread lie beside each other, so that no cache line is shared.
struct Work {
    float *panels, *rows;            // prepared negatives in the order of either product
    float *inverse, *squares;        // (N,) of the prepared negatives
    uint32_t *ids;                   // (N,)
    char *pieces;                    // of every thread
    size_t piece;                    // bytes of a thread
};

// One instruction set's functions. The dispatcher calls each with all threads, and waits between them.
struct Kernels {
    const char *name;
    bool (*supports)(bool half);
    size_t (*shared_bytes)(const Contrast &);
    size_t (*piece_bytes)(const Contrast &);
    Work (*lay_out)(const Contrast &, char *shared);  // the shared part
    void (*prepare)(const Contrast &, const Work &, int64_t thread);
    void (*edges)(const Contrast &, const Work &, int64_t thread);
    void (*finish)(const Contrast &, const Work &, int64_t thread);
    void (*conclude)(const Contrast &, const Work &);
    size_t (*update_bytes)(const Update &);
    void (*update)(const Update &, char *piece, int64_t thread);
    void (*penalise)(const Penalty &, int64_t thread);
};
