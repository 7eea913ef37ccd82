/* session.h - where each array lies in the arena. Internal: session.c carves, forward.c,
 * attention.c and sampler.c use. */
#ifndef QE_SESSION_H
#define QE_SESSION_H

#include "kernels/kernels.h"

enum array {
    AT_X,       /* (batch, dim') f32: the residual stream */
    AT_N,       /* (batch, dim') f32: normed input, then a projection's output */
    AT_Q,       /* (batch, att) f32 */
    AT_A,       /* (batch, att) f32: attention's output */
    AT_K,       /* (batch, kv) f32 */
    AT_V,       /* (batch, kv) f32 */
    AT_GATE,    /* (batch, ffn') f32 */
    AT_UP,      /* (batch, ffn') f32 */
    AT_ACT,     /* (batch, wide) int8: a quantized matrix input */
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

/* Runs the chunks on the session's workers, or here. */
static inline void qe_run(const qe_session *s, void (*task)(void *, uint32_t, uint32_t),
                          void *argument, uint32_t chunks)
{
    if (s->workers && chunks > 1) {
        s->workers->run(s->workers->self, task, argument, chunks);
        return;
    }
    for (uint32_t chunk = 0; chunk < chunks; chunk++)
        task(argument, chunk, 0);
}

/* attention.c: attends from `count` tokens at positions first.. whose q, k, v are in the arena
 * (RoPE not yet applied) and leaves the result in AT_A. */
void qe_attend(qe_session *s, uint32_t layer, uint32_t first, uint32_t count);

#endif
