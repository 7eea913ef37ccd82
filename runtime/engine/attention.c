/* attention.c - RoPE, the KV cache and attention (SPEC 2.7) over the arena's layouts. */
#include "session.h"

typedef struct {
    qe_session *s;
    uint32_t layer, first, count;
} span;

static void rope(float *restrict x, const float *restrict table, uint32_t head_size,
                 float scale)
{
    for (uint32_t i = 0; i < head_size / 2; i++) {
        const float a = x[2 * i], b = x[2 * i + 1], c = table[2 * i], s = table[2 * i + 1];
        x[2 * i] = (a * c - b * s) * scale;
        x[2 * i + 1] = (a * s + b * c) * scale;
    }
}

static void store_plain(uint8_t *cache, uint32_t position, const float *x, uint32_t head_size,
                        int half)
{
    if (!half) {
        memcpy(cache + (size_t)position * head_size * 4, x, (size_t)head_size * 4);
        return;
    }
    cache += (size_t)position * head_size * 2;
    for (uint32_t i = 0; i < head_size; i++)
        qe_store16(cache + 2 * (size_t)i, qe_float_to_half(x[i]));
}

static void store_key(const qe_kernels *kernels, uint8_t *cache, uint32_t position,
                      const float *x, uint32_t head_size)
{
    uint8_t *block = cache + position / 16 * qe_key_tile_bytes(head_size);
    const uint32_t p = position % 16;
    for (uint32_t b = 0; b < head_size; b += 32) {
        const uint32_t width = head_size - b < 32 ? head_size - b : 32;
        int8_t q[32];
        float d;
        int16_t sums[2];
        kernels->quantize(x + b, width, q, &d, sums);
        qe_store16(block + 2 * p, qe_float_to_half(d));
        for (uint32_t i = 0; i < width; i += 4)
            memcpy(block + 32 + i * 16 + p * 4, q + i, 4);
        block += 32 + (size_t)width * 16;
    }
}

static void store_value(const qe_kernels *kernels, uint8_t *cache, uint32_t position,
                        const float *x, uint32_t head_size)
{
    uint8_t *tile = cache + position / 32 * qe_value_tile_bytes(head_size);
    const uint32_t p = position % 32, blocks = (head_size + 31) / 32;
    uint8_t *values = tile + (size_t)blocks * 64 + p / 4 * (size_t)head_size * 4 + p % 4;
    for (uint32_t b = 0; b < head_size; b += 32) {
        const uint32_t width = head_size - b < 32 ? head_size - b : 32;
        int8_t q[32];
        float d;
        int16_t sums[2];
        kernels->quantize(x + b, width, q, &d, sums);
        qe_store16(tile + b * 2 + 2 * p, qe_float_to_half(d));
        for (uint32_t i = 0; i < width; i++)
            values[(b + i) * 4] = (uint8_t)q[i];
    }
}

/* RoPE on one token's queries and keys; its keys and values go to the cache. */
static void store_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const span *p = argument;
    qe_session *s = p->s;
    const qe_config *c = &s->image->config;
    const uint32_t hs = c->head_size, position = p->first + chunk;
    const float *table = s->image->rope + (size_t)position * hs;
    float *q = qe_floats(s, AT_Q) + (size_t)chunk * qe_ceil(c->heads * hs, 32);
    float *k = qe_floats(s, AT_K) + (size_t)chunk * qe_ceil(c->kv_heads * hs, 32);
    float *v = qe_floats(s, AT_V) + (size_t)chunk * qe_ceil(c->kv_heads * hs, 32);
    const float scale = 1.0f / qe_sqrt((float)hs);
    (void)worker;
    for (uint32_t h = 0; h < c->heads; h++)
        rope(q + h * hs, table, hs, scale);
    for (uint32_t h = 0; h < c->kv_heads; h++, k += hs, v += hs) {
        uint8_t *keys = qe_head_kv(s, AT_KEYS, p->layer, h);
        uint8_t *values = qe_head_kv(s, AT_VALUES, p->layer, h);
        rope(k, table, hs, 1.0f);
        if (s->options.kv != QE_KV_Q8_0) {
            store_plain(keys, position, k, hs, s->options.kv == QE_KV_F16);
            store_plain(values, position, v, hs, s->options.kv == QE_KV_F16);
        } else {
            store_key(qe_set(s), keys, position, k, hs);
            store_value(qe_set(s), values, position, v, hs);
        }
    }
}

static void scale_output(float *out, uint32_t n, float inv)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = out[i] * inv;
}

static void attend_plain(const qe_session *s, const uint8_t *keys, const uint8_t *values,
                         uint32_t n, const float *q, float *out, float *scores)
{
    const qe_kernels *k = qe_set(s);
    const uint32_t hs = s->image->config.head_size;
    const int half = s->options.kv == QE_KV_F16;
    (half ? k->score_f16 : k->score_f32)(keys, n, hs, q, scores);
    const float inv = k->softmax(scores, n);
    (half ? k->mix_f16 : k->mix_f32)(values, n, hs, scores, out);
    scale_output(out, hs, inv);
}

/* out = the values weighed by e (group, context'), for all heads that share them: as many heads
 * and positions at a time as the quantized weights of one head's whole context have room for.
 */
static void mix_group(const qe_session *s, const uint8_t *values, uint32_t n, const float *e,
                      float *out, uint32_t worker)
{
    const qe_kernels *k = qe_set(s);
    const qe_config *c = &s->image->config;
    const uint32_t hs = c->head_size, group = qe_group(c), tiles = (n + 31) / 32;
    const uint32_t context = qe_ceil(s->options.context, 32), most = context / 32;
    const uint32_t heads = group < most ? group : most, step = most / heads;
    int8_t *uq = (int8_t *)qe_at(s, AT_UQ) + (size_t)worker * context;
    float *du = qe_floats(s, AT_DU) + (size_t)worker * most;
    memset(out, 0, (size_t)group * hs * sizeof(float));
    for (uint32_t first = 0; first < group; first += heads) {
        const uint32_t here = group - first < heads ? group - first : heads;
        for (uint32_t tile = 0; tile < tiles; tile += step) {
            const uint32_t now = tiles - tile < step ? tiles - tile : step;
            const uint8_t *v = values + tile * qe_value_tile_bytes(hs);
            for (uint32_t b = 0; b < hs; b += 32) {
                for (uint32_t h = 0; h < here; h++)
                    k->weigh_q8(v, now, hs, b / 32,
                                e + (size_t)(first + h) * context + tile * 32,
                                uq + h * step * 32, du + h * step);
                k->mix_q8(v, now, hs, b / 32, hs - b < 32 ? hs - b : 32, here, uq, du,
                          (size_t)step * 32, out + first * hs + b, hs);
            }
        }
    }
}

/* The query heads of one key-value head together, so that its cache is read once. */
static void attend_q8(const qe_session *s, const uint8_t *keys, const uint8_t *values,
                      uint32_t n, const float *q, float *out, float *scores, uint32_t worker)
{
    const qe_kernels *k = qe_set(s);
    const qe_config *c = &s->image->config;
    const uint32_t hs = c->head_size, group = qe_group(c);
    const uint32_t context = qe_ceil(s->options.context, 32), padded = qe_ceil(hs, 32);
    const size_t first = (size_t)worker * group * padded;
    const qe_act act = {.q = (int8_t *)qe_at(s, AT_HQ) + first,
                        .d = qe_floats(s, AT_HD) + first / 32,
                        .s = (int16_t *)qe_at(s, AT_HS) + first / 16,
                        .stride = padded};
    float inv[QE_MAX_GROUP];
    for (uint32_t h = 0; h < group; h++)
        k->quantize(q + h * hs, hs, act.q + h * padded, act.d + h * (padded / 32),
                    act.s + h * (padded / 16));
    k->score_q8(keys, (n + 15) / 16, hs, &act, group, scores, context);
    for (uint32_t h = 0; h < group; h++)
        inv[h] = k->softmax(scores + (size_t)h * context, n);
    mix_group(s, values, n, scores, out, worker);
    for (uint32_t h = 0; h < group; h++)
        scale_output(out + h * hs, hs, inv[h]);
}

/* One token and one key-value head, with the query heads that share it. */
static void attend_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const span *p = argument;
    const qe_session *s = p->s;
    const qe_config *c = &s->image->config;
    const uint32_t group = qe_group(c), hs = c->head_size,
                   context = qe_ceil(s->options.context, 32);
    /* the longest rows first */
    const uint32_t token = p->count - 1 - chunk / c->kv_heads, head = chunk % c->kv_heads;
    const uint32_t n = p->first + token + 1;
    const size_t row = (size_t)token * qe_ceil(c->heads * hs, 32) + head * group * hs;
    const uint8_t *keys = qe_head_kv(s, AT_KEYS, p->layer, head);
    const uint8_t *values = qe_head_kv(s, AT_VALUES, p->layer, head);
    float *scores = qe_floats(s, AT_SCORES) + (size_t)worker * group * context;
    const float *q = qe_floats(s, AT_Q) + row;
    float *out = qe_floats(s, AT_A) + row;
    if (s->options.kv == QE_KV_Q8_0) {
        attend_q8(s, keys, values, n, q, out, scores, worker);
        return;
    }
    for (uint32_t h = 0; h < group; h++)
        attend_plain(s, keys, values, n, q + h * hs, out + h * hs, scores);
}

void qe_attend(qe_session *s, uint32_t layer, uint32_t first, uint32_t count)
{
    span p = {.s = s, .layer = layer, .first = first, .count = count};
    qe_run(s, store_chunk, &p, count);
    qe_run(s, attend_chunk, &p, count * s->image->config.kv_heads);
}
