/* session.h - where each array lies in the arena. Internal: session.c carves, forward.c,
 * attention.c and sampler.c use. */
#ifndef QE_SESSION_H
#define QE_SESSION_H

#include "kernels/kernels.h"

enum array {
    AT_X, /* (batch, dim') f32: the residual stream */
    AT_N, /* (batch, dim') f32: normed input, then a projection's output */
    AT_Q, /* (batch, att) f32; behind attention (batch, dim') quantized: n, for gate and up */
    AT_A, /* (batch, att) f32: attention's output */
    AT_K, /* (batch, kv) f32 */
    AT_V, /* (batch, kv) f32 */
    AT_GATE,    /* (batch, ffn') f32; before (batch, dim') quantized: n, for q, k and v */
    AT_UP,      /* (batch, ffn') f32 */
    AT_ACT,     /* (batch, wide) int8: a or the hidden row, quantized */
    AT_ACT_D,   /* (batch, wide / 32) f32 */
    AT_ACT_S,   /* (batch, wide / 32, 2) i16 */
    AT_LOGITS,  /* (vocab') f32 */
    AT_WEIGHTS, /* (vocab') u32: the sampler's */
    AT_SCORES,  /* (threads, group, context') f32 */
    AT_UQ,      /* (threads, context') int8 */
    AT_DU,      /* (threads, context' / 32) f32 */
    AT_HQ,      /* (threads, group, head') int8: a head group's quantized queries */
    AT_HD,      /* (threads, group, head' / 32) f32 */
    AT_HS,      /* (threads, group, head' / 32, 2) i16 */
    AT_HISTORY, /* (context) u32: the session's tokens */
    AT_KEYS,    /* (layers, kv_heads, keys of a head): SPEC 4 */
    AT_VALUES,  /* (layers, kv_heads, values of a head) */
    AT_END
};

static inline uint32_t qe_group(const qe_config *c)
{
    return c->heads / c->kv_heads;
}

static inline void *qe_at(const qe_session *s, enum array array)
{
    return s->arena + s->at[array];
}

static inline float *qe_floats(const qe_session *s, enum array array)
{
    return (float *)qe_at(s, array);
}

static inline const qe_kernels *qe_set(const qe_session *s)
{
    return s->kernels;
}

/* Bytes of one head's keys (or values) in one layer. */
static inline uint64_t qe_head_kv_bytes(const qe_config *c, const qe_session_options *o)
{
    const uint64_t context = qe_ceil(o->context, 32);
    if (o->kv != QE_KV_Q8_0)
        return context * c->head_size * (o->kv == QE_KV_F16 ? 2 : 4);
    return context / 16 * qe_key_tile_bytes(c->head_size);
}

static inline uint8_t *qe_head_kv(const qe_session *s, enum array array, uint32_t layer,
                                  uint32_t head)
{
    const qe_config *c = &s->image->config;
    return (uint8_t *)qe_at(s, array) +
           ((uint64_t)layer * c->kv_heads + head) * qe_head_kv_bytes(c, &s->options);
}

/* Bytes of `rows` rows of `width` quantized values, by 64 as all arrays. */
static inline uint64_t qe_act_bytes(uint64_t rows, uint64_t width)
{
    return (rows * width + 63) / 64 * 64 + 2 * ((rows * width / 8 + 63) / 64 * 64);
}

/* Rows of `width` quantized values in the place of an array that is free. */
static inline qe_act qe_act_at(void *place, uint64_t rows, uint32_t width)
{
    uint8_t *q = place, *d = q + (rows * width + 63) / 64 * 64;
    return (qe_act){.q = (int8_t *)q,
                    .d = (float *)(void *)d,
                    .s = (int16_t *)(void *)(d + (rows * width / 8 + 63) / 64 * 64),
                    .stride = width};
}

/* The quantized input of a layer's matrix, `width` values a token. None lies where it is read
 * while the step beside it writes its output. */
static inline qe_act qe_act_of(const qe_session *s, enum qe_role role, uint32_t width)
{
    const enum array place = role == QE_O || role == QE_DOWN    ? AT_ACT
                             : role == QE_GATE || role == QE_UP ? AT_Q
                                                                : AT_GATE;
    return qe_act_at(qe_at(s, place), s->options.batch, width);
}

/* A step's rows, cut into chunks: the first `large` of them are 3 shares, the others one. */
typedef struct {
    uint32_t units, share, large, chunks;
} qe_cut;

static inline uint32_t qe_cut_part(const qe_cut *cut, uint32_t chunk, uint32_t *first)
{
    const uint32_t most = chunk < cut->large ? 3 * cut->share : cut->share;
    *first = (chunk < cut->large ? 3 * chunk : chunk + 2 * cut->large) * cut->share;
    return cut->units - *first < most ? cut->units - *first : most;
}

/* What every task of a layer is given: tokens at positions first .. first + count - 1. */
typedef struct {
    qe_session *s;
    const uint32_t *tokens;
    uint32_t layer, first, count;
    uint32_t token_share;         /* tokens of a chunk, where steps go by token */
    uint32_t sections;            /* of key-value heads, in steps that go by head; or 1 */
    qe_cut qkv, dim, ffn, output; /* rows: of q, k and v in a section, of wo and w_down, ... */
    qe_cut positions;             /* a head's, by 16, where attention is split */
    float *logits;                /* of the output matrix: rows logits_stride apart */
    size_t logits_stride;
} qe_pass;

/* Threads that share the work. QE_ONE_THREAD, as firmware is built: there are no workers, and
 * what only several threads need is left out. */
static inline uint32_t qe_threads(const qe_session *s)
{
#ifdef QE_ONE_THREAD
    (void)s;
    return 1;
#else
    return s->workers ? s->workers->threads : 1;
#endif
}

/* Runs the steps on the session's workers, or here. */
static inline void qe_run(const qe_session *s, const qe_step *steps, uint32_t count)
{
    if (qe_threads(s) > 1) {
        s->workers->run(s->workers->self, steps, count);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t chunk = 0; chunk < steps[i].chunks; chunk++)
            steps[i].task(steps[i].argument, chunk, 0);
}

/* forward.c: values first .. first + count - 1 of a token's row, `width` values with its
 * padding, become a part of what the layer's matrix takes, where that takes quantized rows.
 * first is a multiple of 32, and so is count but at the row's end. */
void qe_quantize_input(const qe_pass *p, enum qe_role role, uint32_t token, const float *row,
                       uint32_t width, uint32_t first, uint32_t count);

/* Into how many chunks each of `sections` equal parts of a step is cut, so that the workers
 * have the same number of them: `most` at most. */
uint32_t qe_parts(const qe_session *s, uint32_t sections, uint32_t most);

/* attention.c: adds the steps from q, k, v (RoPE not yet applied) to AT_A, and its quantized
 * form where wo takes one. Returns how many, QE_ATTENTION_STEPS at most. */
enum { QE_ATTENTION_STEPS = 5 };
uint32_t qe_attention_steps(qe_pass *p, qe_step *steps);

#endif
