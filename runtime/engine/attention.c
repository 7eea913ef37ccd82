/* attention.c - RoPE, the KV cache and attention (SPEC 2.7) over the arena's layouts. */
#include "session.h"

/* Positions before a lone token's from which its attention may be split: SPEC says nothing of
 * it. */
enum { QE_SPLIT_FROM = 256 };

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

static size_t row_of(const qe_pass *p, uint32_t token, uint32_t heads)
{
    return (size_t)token * qe_ceil(heads * p->s->image->config.head_size, 32);
}

/* RoPE on one token's query heads of a key-value head and on its key; key and value go to the
 * cache. */
static void store_head(const qe_pass *p, uint32_t token, uint32_t head)
{
    const qe_session *s = p->s;
    const qe_config *c = &s->image->config;
    const uint32_t hs = c->head_size, group = qe_group(c), position = p->first + token;
    const float *table = s->image->rope + (size_t)position * hs;
    float *q = qe_floats(s, AT_Q) + row_of(p, token, c->heads) + head * group * hs;
    float *k = qe_floats(s, AT_K) + row_of(p, token, c->kv_heads) + head * hs;
    float *v = qe_floats(s, AT_V) + row_of(p, token, c->kv_heads) + head * hs;
    uint8_t *keys = qe_head_kv(s, AT_KEYS, p->layer, head);
    uint8_t *values = qe_head_kv(s, AT_VALUES, p->layer, head);
    const float scale = 1.0f / qe_sqrt((float)hs);
    for (uint32_t h = 0; h < group; h++)
        rope(q + h * hs, table, hs, scale);
    rope(k, table, hs, 1.0f);
    if (s->options.kv != QE_KV_Q8_0) {
        store_plain(keys, position, k, hs, s->options.kv == QE_KV_F16);
        store_plain(values, position, v, hs, s->options.kv == QE_KV_F16);
    } else {
        store_key(qe_set(s), keys, position, k, hs);
        store_value(qe_set(s), values, position, v, hs);
    }
}

static void store_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    const uint32_t first = chunk * p->token_share;
    (void)worker;
    for (uint32_t t = first; t < p->count && t < first + p->token_share; t++)
        for (uint32_t head = 0; head < p->s->image->config.kv_heads; head++)
            store_head(p, t, head);
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

/* Value block b of out: the values weighed by e (group, context'), for all heads that share
 * them: as many heads and positions at a time as the quantized weights of one head's whole
 * context have room for. */
static void mix_block(const qe_session *s, const uint8_t *values, uint32_t n, const float *e,
                      uint32_t b, float *out, uint32_t worker)
{
    const qe_kernels *k = qe_set(s);
    const qe_config *c = &s->image->config;
    const uint32_t hs = c->head_size, group = qe_group(c), tiles = (n + 31) / 32;
    const uint32_t context = qe_ceil(s->options.context, 32), most = context / 32;
    const uint32_t heads = group < most ? group : most, step = most / heads;
    const uint32_t width = hs - 32 * b < 32 ? hs - 32 * b : 32;
    int8_t *uq = (int8_t *)qe_at(s, AT_UQ) + (size_t)worker * context;
    float *du = qe_floats(s, AT_DU) + (size_t)worker * most;
    for (uint32_t h = 0; h < group; h++)
        memset(out + h * hs + 32 * b, 0, width * sizeof(float));
    for (uint32_t first = 0; first < group; first += heads) {
        const uint32_t here = group - first < heads ? group - first : heads;
        for (uint32_t tile = 0; tile < tiles; tile += step) {
            const uint32_t now = tiles - tile < step ? tiles - tile : step;
            const uint8_t *v = values + tile * qe_value_tile_bytes(hs);
            for (uint32_t h = 0; h < here; h++)
                k->weigh_q8(v, now, hs, b, e + (size_t)(first + h) * context + tile * 32,
                            uq + h * step * 32, du + h * step);
            k->mix_q8(v, now, hs, b, width, here, uq, du, (size_t)step * 32,
                      out + first * hs + 32 * b, hs);
        }
    }
}

/* The query heads of one key-value head, quantized. */
static void quantize_queries(const qe_session *s, const float *q, const qe_act *act)
{
    const uint32_t hs = s->image->config.head_size, group = qe_group(&s->image->config);
    for (uint32_t h = 0; h < group; h++)
        qe_set(s)->quantize(q + h * hs, hs, act->q + h * act->stride,
                            act->d + h * act->stride / 32, act->s + h * act->stride / 16);
}

/* The query heads of one key-value head together, so that its cache is read once. */
static void attend_q8(const qe_session *s, const uint8_t *keys, const uint8_t *values,
                      uint32_t n, const float *q, float *out, float *scores, uint32_t worker)
{
    const qe_config *c = &s->image->config;
    const uint32_t hs = c->head_size, group = qe_group(c);
    const uint32_t context = qe_ceil(s->options.context, 32), padded = qe_ceil(hs, 32);
    const size_t first = (size_t)worker * group * padded;
    const qe_act act = {.q = (int8_t *)qe_at(s, AT_HQ) + first,
                        .d = qe_floats(s, AT_HD) + first / 32,
                        .s = (int16_t *)qe_at(s, AT_HS) + first / 16,
                        .stride = padded};
    float inv[QE_MAX_GROUP];
    quantize_queries(s, q, &act);
    qe_set(s)->score_q8(keys, (n + 15) / 16, hs, &act, group, scores, context);
    for (uint32_t h = 0; h < group; h++)
        inv[h] = qe_set(s)->softmax(scores + (size_t)h * context, n);
    for (uint32_t b = 0; 32 * b < hs; b++)
        mix_block(s, values, n, scores, b, out, worker);
    for (uint32_t h = 0; h < group; h++)
        scale_output(out + h * hs, hs, inv[h]);
}

/* Whether blocks of 32 in a token's row of AT_A belong to one head each, so that a head's part
 * is quantized as soon as it is there. */
static int whole_blocks(const qe_session *s)
{
    return s->image->config.head_size % 32 == 0;
}

static void quantize_output(const qe_pass *p, uint32_t token, uint32_t first, uint32_t count)
{
    const qe_config *c = &p->s->image->config;
    qe_quantize_input(p, QE_O, token, qe_floats(p->s, AT_A) + row_of(p, token, c->heads),
                      qe_ceil(c->heads * c->head_size, 32), first, count);
}

/* One token and one key-value head, with the query heads that share it. */
static void attend_head(const qe_pass *p, uint32_t token, uint32_t head, uint32_t worker)
{
    const qe_session *s = p->s;
    const qe_config *c = &s->image->config;
    const uint32_t group = qe_group(c), hs = c->head_size, n = p->first + token + 1,
                   part = head * group * hs;
    const size_t row = row_of(p, token, c->heads) + part;
    const uint8_t *keys = qe_head_kv(s, AT_KEYS, p->layer, head);
    const uint8_t *values = qe_head_kv(s, AT_VALUES, p->layer, head);
    float *scores =
        qe_floats(s, AT_SCORES) + (size_t)worker * group * qe_ceil(s->options.context, 32);
    const float *q = qe_floats(s, AT_Q) + row;
    float *out = qe_floats(s, AT_A) + row;
    if (s->options.kv == QE_KV_Q8_0)
        attend_q8(s, keys, values, n, q, out, scores, worker);
    else
        for (uint32_t h = 0; h < group; h++)
            attend_plain(s, keys, values, n, q + h * hs, out + h * hs, scores);
    if (whole_blocks(s))
        quantize_output(p, token, part, group * hs);
}

static void attend_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    const uint32_t heads = p->s->image->config.kv_heads;
    /* the longest rows first */
    attend_head(p, p->count - 1 - chunk / heads, chunk % heads, worker);
}

/* A lone token's head: all at once, as nobody else needs its key. */
static void lone_chunk(void *argument, uint32_t head, uint32_t worker)
{
    store_head(argument, 0, head);
    attend_head(argument, 0, head, worker);
}

/* Whole rows of AT_A, where heads do not end with blocks. */
static void rows_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    const qe_config *c = &p->s->image->config;
    const uint32_t n = c->heads * c->head_size, first = chunk * p->token_share;
    (void)worker;
    for (uint32_t t = first; t < p->count && t < first + p->token_share; t++) {
        float *a = qe_floats(p->s, AT_A) + row_of(p, t, c->heads);
        for (uint32_t i = n; i < qe_ceil(n, 32); i++)
            a[i] = 0.0f;
        quantize_output(p, t, 0, n);
    }
}

/* ---- a lone token's attention, split by positions and value blocks ---- */

/* Scores of all heads, in the place of the logits and of the workers' scores. */
static float *split_scores(const qe_session *s, uint32_t query_head)
{
    return qe_floats(s, AT_LOGITS) + (size_t)query_head * qe_ceil(s->options.context, 32);
}

/* Queries of a key-value head, quantized, in the place of up. */
static qe_act split_queries(const qe_session *s, uint32_t head)
{
    const qe_config *c = &s->image->config;
    qe_act act = qe_act_at(qe_at(s, AT_UP), c->heads, qe_ceil(c->head_size, 32));
    const size_t first = head * qe_group(c) * act.stride;
    act.q += first;
    act.d += first / 32;
    act.s += first / 16;
    return act;
}

/* Whether it pays: many positions, and a number of heads that leaves workers without; and
 * whether there is room. */
static int is_split(const qe_pass *p)
{
    const qe_session *s = p->s;
    const qe_config *c = &s->image->config;
    const uint32_t threads = qe_threads(s),
                   turns = (c->kv_heads + threads - 1) / threads; /* of the busiest worker */
    const uint64_t scores = (uint64_t)c->heads * qe_ceil(s->options.context, 32) * 4,
                   queries = qe_act_bytes(c->heads, qe_ceil(c->head_size, 32));
    return p->count == 1 && p->first >= QE_SPLIT_FROM &&
           8 * turns * threads > 9 * c->kv_heads && scores <= s->at[AT_UQ] - s->at[AT_LOGITS] &&
           queries <= s->at[AT_ACT] - s->at[AT_UP];
}

static void prepare_chunk(void *argument, uint32_t head, uint32_t worker)
{
    const qe_pass *p = argument;
    const qe_config *c = &p->s->image->config;
    const qe_act act = split_queries(p->s, head);
    (void)worker;
    store_head(p, 0, head);
    if (p->s->options.kv == QE_KV_Q8_0)
        quantize_queries(p->s, qe_floats(p->s, AT_Q) + head * qe_group(c) * c->head_size, &act);
}

static void score_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    const qe_session *s = p->s;
    const qe_config *c = &s->image->config;
    const uint32_t hs = c->head_size, group = qe_group(c), head = chunk / p->positions.chunks;
    uint32_t first;
    const uint32_t tiles = qe_cut_part(&p->positions, chunk % p->positions.chunks, &first);
    const uint32_t position = 16 * first, left = p->first + 1 - position,
                   n = left < 16 * tiles ? left : 16 * tiles;
    const uint8_t *keys = qe_head_kv(s, AT_KEYS, p->layer, head);
    const qe_kernels *k = qe_set(s);
    (void)worker;
    if (s->options.kv == QE_KV_Q8_0) {
        const qe_act act = split_queries(s, head);
        k->score_q8(keys + first * qe_key_tile_bytes(hs), tiles, hs, &act, group,
                    split_scores(s, head * group) + position, qe_ceil(s->options.context, 32));
        return;
    }
    const int half = s->options.kv == QE_KV_F16;
    keys += (size_t)position * hs * (half ? 2 : 4);
    for (uint32_t h = head * group; h < (head + 1) * group; h++)
        (half ? k->score_f16 : k->score_f32)(keys, n, hs, qe_floats(s, AT_Q) + h * hs,
                                             split_scores(s, h) + position);
}

/* A query head's. The query is no longer needed: 1 / z takes its place. */
static void softmax_chunk(void *argument, uint32_t h, uint32_t worker)
{
    const qe_pass *p = argument;
    (void)worker;
    qe_floats(p->s, AT_Q)[h * p->s->image->config.head_size] =
        qe_set(p->s)->softmax(split_scores(p->s, h), p->first + 1);
}

/* A key-value head's value block. */
static void mix_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    const qe_session *s = p->s;
    const qe_config *c = &s->image->config;
    const uint32_t hs = c->head_size, group = qe_group(c), blocks = (hs + 31) / 32,
                   head = chunk / blocks, b = chunk % blocks,
                   width = hs - 32 * b < 32 ? hs - 32 * b : 32;
    float *out = qe_floats(s, AT_A) + head * group * hs;
    mix_block(s, qe_head_kv(s, AT_VALUES, p->layer, head), p->first + 1,
              split_scores(s, head * group), b, out, worker);
    for (uint32_t h = head * group; h < (head + 1) * group; h++) {
        scale_output(qe_floats(s, AT_A) + h * hs + 32 * b, width, qe_floats(s, AT_Q)[h * hs]);
        if (whole_blocks(s))
            quantize_output(p, 0, h * hs + 32 * b, 32);
    }
}

/* f16 and f32: a query head's values. */
static void mix_plain_chunk(void *argument, uint32_t h, uint32_t worker)
{
    const qe_pass *p = argument;
    const qe_session *s = p->s;
    const uint32_t hs = s->image->config.head_size;
    float *out = qe_floats(s, AT_A) + h * hs;
    (void)worker;
    (s->options.kv == QE_KV_F16 ? qe_set(s)->mix_f16 : qe_set(s)->mix_f32)(
        qe_head_kv(s, AT_VALUES, p->layer, h / qe_group(&s->image->config)), p->first + 1, hs,
        split_scores(s, h), out);
    scale_output(out, hs, qe_floats(s, AT_Q)[h * hs]);
    if (whole_blocks(s))
        quantize_output(p, 0, h * hs, hs);
}

uint32_t qe_attention_steps(qe_pass *p, qe_step *steps)
{
    const qe_config *c = &p->s->image->config;
    const uint32_t tokens = (p->count + p->token_share - 1) / p->token_share;
    uint32_t n = 0;
    if (qe_threads(p->s) > 1 && is_split(p)) {
        const uint32_t tiles = (p->first + 16) / 16, parts = qe_parts(p->s, c->kv_heads, tiles),
                       share = (tiles + parts - 1) / parts;
        p->positions =
            (qe_cut){.units = tiles, .share = share, .chunks = (tiles + share - 1) / share};
        const int q8 = p->s->options.kv == QE_KV_Q8_0;
        steps[n++] = (qe_step){prepare_chunk, p, c->kv_heads, p->sections};
        steps[n++] = (qe_step){score_chunk, p, c->kv_heads * p->positions.chunks, p->sections};
        steps[n++] = (qe_step){softmax_chunk, p, c->heads, p->sections};
        steps[n++] =
            q8 ? (qe_step){mix_chunk, p, c->kv_heads * ((c->head_size + 31) / 32), p->sections}
               : (qe_step){mix_plain_chunk, p, c->heads, p->sections};
    } else if (qe_threads(p->s) > 1 && p->count == 1) {
        steps[n++] = (qe_step){lone_chunk, p, c->kv_heads, p->sections};
    } else {
        steps[n++] = (qe_step){store_chunk, p, tokens, 1};
        steps[n++] = (qe_step){attend_chunk, p, p->count * c->kv_heads, 1};
    }
    if (!whole_blocks(p->s))
        steps[n++] = (qe_step){rows_chunk, p, tokens, 1};
    return n;
}
