/* qedge.h - the engine's one public header: a quantized Llama-family forward pass, tokenizer
 * and sampler over a flash image, in a fixed arena. It is not an allocator, a thread pool or a
 * file reader: the caller brings memory, workers and the mapped image.
 *
 * Conventions
 * - The caller owns all memory. Nothing is allocated, so nothing needs to be closed.
 * - Pointers are not NULL unless a function says what NULL means.
 * - Contents of a structure that is called private are read by functions only.
 * - This folder can be copied as it is into another firmware: it needs nothing outside.
 * - Results: 0 is success, QE_ERR_* are negative, counts are positive.
 * - Needs <stddef.h>, <stdint.h> and <string.h> only: no libm, no stdio, no globals that
 * change.
 * - Numbers are little endian in the image; SPEC.md describes every byte and every rounding.
 * - Public names are documented here, once.
 */
#ifndef QEDGE_H
#define QEDGE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum qe_error {
    QE_OK = 0,
    QE_ERR_IMAGE = -1,    /* a section, table or field of the image is broken */
    QE_ERR_VERSION = -2,  /* an image of a version that this engine does not know */
    QE_ERR_HASH = -3,     /* a hash of the image does not match */
    QE_ERR_ARENA = -4,    /* the arena is smaller than qe_session_size says */
    QE_ERR_CONTEXT = -5,  /* more tokens than the session's context holds */
    QE_ERR_TEXT = -6,     /* a text is not UTF-8 */
    QE_ERR_SPACE = -7,    /* a buffer given by the caller is too small */
    QE_ERR_NUMERIC = -8,  /* a logit is not finite */
    QE_ERR_USAGE = -9,    /* an argument is out of its range */
    QE_ERR_KERNELS = -10, /* no such kernel set on this machine */
    QE_ERR_STOPPED = -11  /* the caller's poll asked for it */
};

#include "text/vocab.h"

#define QE_VERSION 2u /* of the image */

/* Of tensors: SPEC 2.4. The numbers below 256 are GGML's, the others this format's own. */
enum qe_type {
    QE_F32 = 0,
    QE_F16 = 1,
    QE_Q4_0 = 2,
    QE_Q4_1 = 3,
    QE_Q5_0 = 6,
    QE_Q5_1 = 7,
    QE_Q8_0 = 8,
    QE_Q2_K = 10,
    QE_Q3_K = 11,
    QE_Q4_K = 12,
    QE_Q5_K = 13,
    QE_Q6_K = 14,
    QE_IQ4_NL = 20,
    QE_IQ4_XS = 23,
    QE_BF16 = 30,
    QE_TQ2_0 = 35,
    QE_MXFP4 = 39,
    QE_Q1_0 = 41,
    QE_Q2_0 = 42,
    QE_A2 = 258,
    QE_A3 = 259,
    QE_A4 = 260,
    QE_A5 = 261,
    QE_A6 = 262
};

enum qe_kv { QE_KV_F32 = 0, QE_KV_F16 = 1, QE_KV_Q8_0 = 8 };

enum qe_section {
    QE_SECTION_CONFIG = 1,
    QE_SECTION_PLAN,
    QE_SECTION_VOCAB,
    QE_SECTION_TEMPLATE,
    QE_SECTION_ROPE,
    QE_SECTION_TENSORS,
    QE_SECTION_WEIGHTS,
    QE_SECTION_GOLDEN,
    QE_SECTION_PROVENANCE,
    QE_SECTION_CHAT
};

/* Kinds of tensors: SPEC 3.5. From QE_ATTN_NORM on each layer has its own. */
enum qe_role {
    QE_EMBED,
    QE_OUT_NORM,
    QE_OUTPUT,
    QE_ATTN_NORM,
    QE_Q,
    QE_K,
    QE_V,
    QE_O,
    QE_FFN_NORM,
    QE_GATE,
    QE_UP,
    QE_DOWN,
    QE_ROLES
};

/* ---- SHA-256 (FIPS 180-4) ---- */

typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
} qe_sha256;

void qe_sha256_init(qe_sha256 *hash);
void qe_sha256_update(qe_sha256 *hash, const void *data, size_t bytes);
/* Writes the digest; the hash goes on as if it had not been asked. */
void qe_sha256_digest(const qe_sha256 *hash, uint8_t digest[32]);

/* ---- image ---- */

typedef struct {
    uint32_t dim, layers, heads, kv_heads, head_size, ffn, vocab_size, trained_context, tied;
    float norm_eps;
} qe_config;

typedef struct {
    uint32_t context; /* tokens */
    uint32_t batch;   /* tokens evaluated at a time, 1 .. 512 */
    uint32_t threads; /* 1 .. 64 */
    uint32_t kv;      /* enum qe_kv */
} qe_session_options;

/* An opened image: a view of `base`, which must stay mapped and aligned to 64 bytes. */
typedef struct {
    const uint8_t *base;
    uint64_t bytes;
    qe_config config;
    qe_session_options plan;
    uint64_t plan_arena_bytes;
    char board[33];
    uint8_t id[32]; /* image_id: the root of the hash tree */
    qe_vocab vocab;
    const uint8_t *tensors; /* first entry of the tensor table */
    const float *rope;
    uint32_t rope_context;
} qe_image;

typedef struct {
    const uint8_t *data;
    uint32_t kind, layer, type, layout, rows, columns;
    uint64_t bytes;
} qe_tensor;

/* Opens an image in place: checks the header, every table's bounds, the hashes of all that is
 * small, and that the plan's arena bytes are what qe_session_size gives. Touches no weight.
 * QE_ERR_IMAGE, _VERSION, _HASH; QE_ERR_USAGE when base is not aligned to 64. */
int qe_image_open(qe_image *image, const void *base, uint64_t bytes);

/* Bytes at the start that qe_image_open verifies and that offsets and texts are read from
 * later: who maps a file that others may write to has to keep a copy of them. 0: not an image.
 */
uint64_t qe_image_front(const void *base, uint64_t bytes);

/* Verifies leaves first .. first + count - 1 of the hash tree (clipped to the last). Returns
 * the number verified, 0 beyond the end, or QE_ERR_HASH. Call it in steps to show progress. */
int32_t qe_image_verify(const qe_image *image, uint32_t first, uint32_t count);

/* A section's bytes, or NULL when the image has none of this type. */
const uint8_t *qe_image_section(const qe_image *image, uint32_t type, uint64_t *bytes);

/* Whether what follows the image's last byte (`bytes` of it, as far as the caller has them) is
 * its signature by an Ed25519 key (SPEC 3.8); the counter is the signature's own, 0 without
 * one. Takes some 2 KiB of stack. */
enum { QE_SIGNATURE_BYTES = 80 };
enum qe_signed { QE_UNSIGNED, QE_SIGNED, QE_SIGNED_BY_ANOTHER /* or damaged */ };
int qe_image_signature(const qe_image *image, const void *trailer, uint64_t bytes,
                       const uint8_t key[32], uint32_t *counter);

/* What the image promises of itself (SPEC 3.6): greedy tokens behind a prompt, and the hash of
 * the logits that they are drawn from. QE_ERR_IMAGE when it has none that can be run. */
typedef struct {
    const uint32_t *prompt, *expected; /* ids, all of them tokens */
    uint32_t prompt_count, expected_count;
    const uint8_t *digest; /* 32 bytes */
} qe_golden;
int qe_image_golden(const qe_image *image, qe_golden *golden);

/* Tensor number index of the table (SPEC 3.5). */
qe_tensor qe_image_tensor(const qe_image *image, uint32_t index);
uint32_t qe_image_tensor_count(const qe_image *image);

/* ---- session ---- */

/* A step of the engine's work: task(argument, chunk, worker) once for every chunk in 0 ..
 * chunks - 1. With `sections` > 1 the chunks are so many equal parts, one behind another. */
enum { QE_MOST_SECTIONS = 16 };
typedef struct {
    void (*task)(void *argument, uint32_t chunk, uint32_t worker);
    void *argument;
    uint32_t chunks, sections;
} qe_step;

/* Who runs the engine's steps, one behind another: a chunk begins when the step before is done,
 * or, where both have the same number of sections, may begin when all steps before that have it
 * too are done in its own section. worker is in 0 .. threads - 1, no two calls of one worker at
 * once; run returns when all is done. threads: at most the session's. NULL workers: the engine
 * runs the chunks itself, in order. */
typedef struct {
    void *self;
    uint32_t threads;
    void (*run)(void *self, const qe_step *steps, uint32_t count);
} qe_workers;

/* Who sees what matrices are multiplied with: `tokens` rows of x, `stride` floats apart, before
 * tensor number `tensor` (qe_image_tensor) is multiplied with them; of those that share x,
 * each. Called by any of the workers, by one at a time, in the order of the pass. */
typedef struct {
    void *self;
    void (*input)(void *self, uint32_t tensor, const float *x, size_t stride, uint32_t columns,
                  uint32_t tokens);
} qe_observer;

/* One inference timeline. Visible so that the caller can place it; its fields are private. */
typedef struct {
    const qe_image *image;
    const void *kernels;
    const qe_workers *workers;
    const qe_observer *observer; /* or NULL */
    qe_session_options options;
    uint8_t *arena;
    uint64_t arena_bytes;
    uint32_t position; /* tokens held */
    int finite;        /* so are all logits */
    uint64_t at[24];   /* offsets of the arrays in the arena: SPEC 4 */
} qe_session;

/* Bytes of arena a session needs. Exact: qe_session_init with one byte less returns
 * QE_ERR_ARENA. The same on every machine. 0 when the options are out of range. */
uint64_t qe_session_size(const qe_config *config, const qe_session_options *options);

/* Carves the arena (aligned to 64). `kernels` is from qe_kernels_find. The context may not
 * exceed the image's rope table. QE_ERR_USAGE, QE_ERR_ARENA. */
int qe_session_init(qe_session *session, const qe_image *image,
                    const qe_session_options *options, const void *kernels,
                    const qe_workers *workers, void *arena, uint64_t arena_bytes);

/* Appends count tokens and leaves the logits of the last in qe_session_logits. With all_logits,
 * rows for every token, (count, ceil(vocab_size, 32)) f32, are written there as well.
 * QE_ERR_CONTEXT when they do not fit (nothing is evaluated then), QE_ERR_USAGE for an id out
 * of range, QE_ERR_NUMERIC. */
int qe_session_eval(qe_session *session, const uint32_t *tokens, uint32_t count,
                    float *all_logits);

/* From now on; NULL: nobody. To see how a model uses its weights, as calibration does. */
static inline void qe_session_observe(qe_session *session, const qe_observer *observer)
{
    session->observer = observer;
}

/* Where the session's next tokens will be kept: room for those that the context still holds. A
 * caller without memory of its own may write them here and pass this to qe_session_eval. */
uint32_t *qe_session_tokens(const qe_session *session);

const float *qe_session_logits(const qe_session *session); /* (vocab_size) */

/* Tokens held, tokens that there is room for in all, tokens evaluated at once. */
static inline uint32_t qe_session_position(const qe_session *session)
{
    return session->position;
}
static inline uint32_t qe_session_context(const qe_session *session)
{
    return session->options.context;
}
static inline uint32_t qe_session_batch(const qe_session *session)
{
    return session->options.batch;
}

/* Forgets all tokens from position on. */
int qe_session_rewind(qe_session *session, uint32_t position);

/* The arena's part that is free between evaluations, as scratch for qe_vocab_encode. */
void *qe_session_scratch(const qe_session *session, uint64_t *bytes);

/* ---- sampling: SPEC 2.11 ---- */

typedef struct {
    float temperature;    /* 0: greedy */
    uint32_t top_k;       /* 0: off */
    float top_p;          /* 1: off */
    float min_p;          /* 0: off */
    float repeat_penalty; /* 1: off */
    uint64_t random;      /* state: starts as the seed */
} qe_sampler;

/* QE_ERR_USAGE for a value out of its range: temperature 0 to 1e6, top_k 0 to 2^31, top_p and
 * min_p 0 to 1, repeat_penalty 1e-6 to 1e6. */
int qe_sampler_check(const qe_sampler *sampler);

/* Draws the next token from the session's logits; returns its id, QE_ERR_USAGE for a sampler
 * value out of range or before any token, QE_ERR_NUMERIC when a logit is not finite, by itself
 * or by a penalty, until the next evaluation. Does not append it. */
int32_t qe_session_sample(qe_session *session, qe_sampler *sampler);

/* ---- kernel sets ---- */

/* Features a machine offers, as found by the host or stated by the firmware. */
enum {
    QE_HAS_AVX2 = 1,   /* and F16C */
    QE_HAS_AVX512 = 2, /* F, BW, DQ, VL and VNNI */
    QE_HAS_NEON = 4,   /* 64-bit Arm; 32-bit Arm with VFPv4 too */
    QE_HAS_DOTPROD = 8,
    QE_HAS_I8MM = 16,
    QE_HAS_AMX = 32,    /* TILE and INT8, with the system's leave */
    QE_HAS_AVXVNNI = 64 /* VNNI in 256 bits */
};

/* The set called name, or the fastest one for NULL; NULL when there is none on this machine. */
const void *qe_kernels_find(const char *name, uint32_t features);
const char *qe_kernels_name(const void *kernels);
/* Name of the i-th set compiled in, NULL past the last; `usable` tells whether features allow
 * it. */
const char *qe_kernels_list(uint32_t i, uint32_t features, int *usable);
/* A few products of a set that this machine can run (4 KiB of stack, microseconds) against
 * plain C's: QE_ERR_KERNELS when a bit differs. Floats must round as IEEE's defaults say. */
int qe_kernels_check(const void *kernels);
/* The name of the first set for which that fails, of all that features allow; else NULL. */
const char *qe_kernels_wrong(uint32_t features);

/* What an error code means, in a few words. */
const char *qe_error_text(int error);

#endif
