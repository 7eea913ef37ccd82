/* forward.c - the pass of SPEC 2.8, read from top to bottom: what the chunks of each step do,
 * then the steps of a layer. Shapes are in session.h; which token and which row runs where
 * never changes a result. */
#include "layout.h"
#include "session.h"

static qe_tensor layer_tensor(const qe_pass *p, enum qe_role role)
{
    return qe_image_tensor(p->s->image, qe_tensor_index(&p->s->image->config, p->layer, role));
}

static int quantized(const qe_pass *p, enum qe_role role)
{
    return qe_format_of(layer_tensor(p, role).type) != NULL;
}

void qe_quantize_input(const qe_pass *p, enum qe_role role, uint32_t token, const float *row,
                       uint32_t width, uint32_t first, uint32_t count)
{
    const qe_act act = qe_act_of(p->s, role, width);
    const size_t at = (size_t)token * width + first;
    if (quantized(p, role))
        qe_set(p->s)->quantize(row + first, count, act.q + at, act.d + at / 32,
                               act.s + at / 16);
}

/* ---- products ---- */

/* What a role's matrix is multiplied with. */
static float *input_of(const qe_pass *p, enum qe_role role)
{
    return qe_floats(p->s, role == QE_O ? AT_A : role == QE_DOWN ? AT_GATE : AT_N);
}

static float *output_of(const qe_pass *p, enum qe_role role)
{
    switch (role) {
    case QE_OUTPUT: return p->logits;
    case QE_Q: return qe_floats(p->s, AT_Q);
    case QE_K: return qe_floats(p->s, AT_K);
    case QE_V: return qe_floats(p->s, AT_V);
    case QE_GATE: return qe_floats(p->s, AT_GATE);
    case QE_UP: return qe_floats(p->s, AT_UP);
    default: return qe_floats(p->s, AT_N);
    }
}

/* Row groups first .. first + count - 1 of a matrix, for all tokens; a group is 16 rows. */
static void multiply(const qe_pass *p, enum qe_role role, uint32_t first, uint32_t count)
{
    const qe_tensor t = layer_tensor(p, role);
    const uint32_t width = qe_ceil(t.columns, 32);
    const qe_matmul m = {.w = t.data,
                         .type = t.type,
                         .layout = t.layout,
                         .rows = t.rows,
                         .columns = t.columns,
                         .act = qe_act_of(p->s, role, width),
                         .x = input_of(p, role),
                         .x_stride = width,
                         .out = output_of(p, role),
                         .out_stride =
                             role == QE_OUTPUT ? p->logits_stride : qe_ceil(t.rows, 32),
                         .tokens = p->count};
    qe_set(p->s)->matmul(&m, first, count);
}

static void qkv_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    const qe_config *c = &p->s->image->config;
    const uint32_t section = chunk / p->qkv.chunks,
                   q = (c->heads * c->head_size / p->sections + 15) / 16,
                   kv = (c->kv_heads * c->head_size / p->sections + 15) / 16;
    const uint32_t groups[3] = {q, kv, kv};
    uint32_t first, left = qe_cut_part(&p->qkv, chunk % p->qkv.chunks, &first);
    (void)worker;
    for (uint32_t i = 0; i < 3 && left; i++) {
        if (first >= groups[i]) {
            first -= groups[i];
            continue;
        }
        const uint32_t here = groups[i] - first < left ? groups[i] - first : left;
        multiply(p, (enum qe_role)(QE_Q + i), section * groups[i] + first, here);
        left -= here;
        first = 0;
    }
}

/* A worker's flag: it has met a logit that is not finite. */
static uint32_t *not_finite(const qe_session *s, uint32_t worker)
{
    const size_t room = (size_t)qe_group(&s->image->config) * qe_ceil(s->options.context, 32);
    return (uint32_t *)(void *)(qe_floats(s, AT_SCORES) + worker * room);
}

/* Logits, of which the last token's have to be finite. */
static void output_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    const uint32_t vocab = p->s->image->config.vocab_size;
    uint32_t first;
    const uint32_t count = qe_cut_part(&p->output, chunk, &first);
    const float *last = p->logits + (p->count - 1) * p->logits_stride;
    int32_t wrong = 0;
    multiply(p, QE_OUTPUT, first, count);
    for (uint32_t i = 16 * first; i < 16 * (first + count) && i < vocab; i++)
        wrong |= (int32_t)(qe_bits(last[i]) & 0x7FFFFFFFu) >= (int32_t)QE_INF_BITS;
    if (wrong)
        *not_finite(p->s, worker) = 1;
}

/* Matrices with one input, as they follow one another in a layer. */
typedef struct {
    const qe_pass *p;
    enum qe_role from, to;
} roles;

/* Rows of the one matrix `from`, wo or w_down. */
static void product_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const roles *r = argument;
    uint32_t first;
    const uint32_t count = qe_cut_part(&r->p->dim, chunk, &first);
    (void)worker;
    multiply(r->p, r->from, first, count);
}

/* The same rows of gate and up, by 32, and what becomes of them: h = silu(gate) * up. */
static void hidden_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    const uint32_t ffn = p->s->image->config.ffn, width = qe_ceil(ffn, 32);
    uint32_t first, count = qe_cut_part(&p->ffn, chunk, &first);
    const uint32_t groups = (ffn + 15) / 16 - 2 * first;
    (void)worker;
    multiply(p, QE_GATE, 2 * first, groups < 2 * count ? groups : 2 * count);
    multiply(p, QE_UP, 2 * first, groups < 2 * count ? groups : 2 * count);
    first *= 32;
    count = ffn - first < 32 * count ? ffn - first : 32 * count;
    for (uint32_t t = 0; t < p->count; t++) {
        float *h = qe_floats(p->s, AT_GATE) + (size_t)t * width;
        const float *up = qe_floats(p->s, AT_UP) + (size_t)t * width;
        qe_set(p->s)->silu_mul(h + first, up + first, count);
        for (uint32_t i = first + count; i < qe_ceil(first + count, 32); i++)
            h[i] = 0.0f;
        qe_quantize_input(p, QE_DOWN, t, h, width, first, count);
    }
}

/* ---- work on single tokens ---- */

/* x = row `token` of the embedding, dequantized. */
static void embed(const qe_session *s, uint32_t token, float *x)
{
    const qe_tensor t = qe_image_tensor(s->image, QE_EMBED);
    const uint32_t columns = qe_ceil(t.columns, 32), R = t.layout;
    const qe_format *f = qe_format_of(t.type);
    if (!f) {
        const uint8_t *row = t.data + (size_t)token * columns * (t.type == QE_F32 ? 4 : 2);
        for (uint32_t i = 0; i < t.columns; i++)
            x[i] = qe_plain_value(row, i, t.type);
        return;
    }
    const uint8_t *w = t.data + token / R * qe_group_bytes(f, R, columns);
    for (uint32_t b = 0; b < columns / 32; b++) {
        qe_block block;
        qe_block_read(f, w, R, token % R, b, &block);
        for (uint32_t i = 0; i < 32 && 32 * b + i < t.columns; i++)
            x[32 * b + i] = qe_block_value(f, &block, i);
    }
}

/* Of each token of a chunk: x = x + n, n = rmsnorm(x), and that quantized for whom it is. */
static void normalize(const qe_pass *p, uint32_t chunk, enum qe_role norm, int added,
                      enum qe_role user, int quantize)
{
    const qe_config *c = &p->s->image->config;
    const uint32_t dim = qe_ceil(c->dim, 32), first = chunk * p->token_share,
                   end = p->count - first < p->token_share ? p->count : first + p->token_share;
    const float *weights = (const float *)(const void *)layer_tensor(p, norm).data;
    const qe_act act = qe_act_of(p->s, user, dim);
    for (uint32_t t = first; t < end; t++) {
        const size_t at = (size_t)t * dim;
        float *x = qe_floats(p->s, AT_X) + at, *n = qe_floats(p->s, AT_N) + at;
        if (added)
            for (uint32_t i = 0; i < c->dim; i++)
                x[i] = x[i] + n[i];
        qe_set(p->s)->rmsnorm(n, x, weights, c->dim, c->norm_eps);
        for (uint32_t i = c->dim; i < dim; i++)
            n[i] = 0.0f;
        if (quantize)
            qe_set(p->s)->quantize(n, c->dim, act.q + at, act.d + at / 32, act.s + at / 16);
    }
}

static void embed_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    const uint32_t dim = qe_ceil(p->s->image->config.dim, 32), first = chunk * p->token_share;
    (void)worker;
    for (uint32_t t = first; t < p->count && t < first + p->token_share; t++)
        embed(p->s, p->tokens[t], qe_floats(p->s, AT_X) + (size_t)t * dim);
}

static void attn_norm_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    if (!p->layer)
        embed_chunk(argument, chunk, worker);
    normalize(p, chunk, QE_ATTN_NORM, p->layer > 0, QE_Q,
              quantized(p, QE_Q) || quantized(p, QE_K) || quantized(p, QE_V));
}

static void ffn_norm_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    (void)worker;
    normalize(p, chunk, QE_FFN_NORM, 1, QE_GATE, quantized(p, QE_GATE) || quantized(p, QE_UP));
}

static void out_norm_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const qe_pass *p = argument;
    (void)worker;
    normalize(p, chunk, QE_OUT_NORM, 1, QE_OUTPUT, quantized(p, QE_OUTPUT));
}

/* For the observer: a step of its own, behind the one that makes the matrices' input. */
static void observe_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const roles *r = argument;
    const qe_observer *observer = r->p->s->observer;
    (void)chunk;
    (void)worker;
    for (enum qe_role role = r->from; role <= r->to; role++) {
        const qe_tensor t = layer_tensor(r->p, role);
        observer->input(observer->self,
                        qe_tensor_index(&r->p->s->image->config, r->p->layer, role),
                        input_of(r->p, role), qe_ceil(t.columns, 32), t.columns, r->p->count);
    }
}

/* ---- the steps ---- */

uint32_t qe_parts(const qe_session *s, uint32_t sections, uint32_t most)
{
    const uint32_t threads = qe_threads(s);
    uint32_t parts = 1;
    while (threads > 1 && parts < most &&
           (sections * parts < 3 * threads || sections * parts % threads))
        parts++;
    return parts;
}

/* Two chunks for each worker, a large one and then a small one, so that claims are few and a
 * slow worker does not hold up the others for long; of a section's rows equal ones. */
static qe_cut cut(const qe_session *s, uint32_t units, uint32_t sections)
{
    const uint32_t threads = qe_threads(s);
    const uint32_t shares = sections > 1 ? qe_parts(s, sections, units) : threads * 4;
    qe_cut c = {.units = units, .share = units, .chunks = 1};
    if (threads == 1)
        return c;
    c.share = (units + shares - 1) / shares;
    c.chunks = (units + c.share - 1) / c.share;
    c.large = sections == 1 && c.chunks > 3 * threads ? threads : 0;
    c.chunks -= 2 * c.large;
    return c;
}

/* Sections of key-value heads that q, k, v and attention may run through each for itself: whole
 * groups of rows, and no more than a pool keeps apart. */
static uint32_t sections_of(const qe_session *s, uint32_t count)
{
    const qe_config *c = &s->image->config;
    uint32_t sections = c->kv_heads;
    if (count > 1 || qe_threads(s) == 1)
        return 1;
    while (sections > QE_MOST_SECTIONS && sections % 2 == 0)
        sections /= 2;
    const uint32_t rows = c->kv_heads / sections * c->head_size;
    return sections > QE_MOST_SECTIONS || rows % 16 ? 1 : sections;
}

static qe_pass new_pass(qe_session *s, const uint32_t *tokens, uint32_t count)
{
    const qe_config *c = &s->image->config;
    const uint32_t share = (count + 4 * qe_threads(s) - 1) / (4 * qe_threads(s)),
                   sections = sections_of(s, count),
                   q = (c->heads * c->head_size / sections + 15) / 16,
                   kv = (c->kv_heads * c->head_size / sections + 15) / 16;
    return (qe_pass){.s = s,
                     .tokens = tokens,
                     .first = s->position,
                     .count = count,
                     .token_share = share < 8 ? share : 8,
                     .sections = sections,
                     .qkv = cut(s, q + 2 * kv, sections),
                     .dim = cut(s, (c->dim + 15) / 16, 1),
                     .ffn = cut(s, (c->ffn + 31) / 32, 1),
                     .output = cut(s, (c->vocab_size + 15) / 16, 1)};
}

static qe_step step(void (*task)(void *, uint32_t, uint32_t), void *argument, uint32_t chunks)
{
    return (qe_step){.task = task, .argument = argument, .chunks = chunks, .sections = 1};
}

static uint32_t token_chunks(const qe_pass *p)
{
    return (p->count + p->token_share - 1) / p->token_share;
}

/* All tokens of the pass through all layers. */
static void run_layers(qe_pass *p)
{
    const qe_session *s = p->s;
    roles qkv = {p, QE_Q, QE_V}, wo = {p, QE_O, QE_O}, ffn = {p, QE_GATE, QE_UP},
          down = {p, QE_DOWN, QE_DOWN};
    const uint32_t watched = s->observer != NULL, tokens = token_chunks(p);
    qe_step steps[10 + QE_ATTENTION_STEPS];
    uint32_t n = 0;
    steps[n++] = step(attn_norm_chunk, p, tokens);
    steps[n++] = step(observe_chunk, &qkv, watched);
    steps[n] = step(qkv_chunk, p, p->sections * p->qkv.chunks);
    steps[n++].sections = p->sections;
    n += qe_attention_steps(p, steps + n);
    steps[n++] = step(observe_chunk, &wo, watched);
    steps[n++] = step(product_chunk, &wo, p->dim.chunks);
    steps[n++] = step(ffn_norm_chunk, p, tokens);
    steps[n++] = step(observe_chunk, &ffn, watched);
    steps[n++] = step(hidden_chunk, p, p->ffn.chunks);
    steps[n++] = step(observe_chunk, &down, watched);
    steps[n++] = step(product_chunk, &down, p->dim.chunks);
    for (p->layer = 0; p->layer < s->image->config.layers; p->layer++)
        qe_run(s, steps, n);
    p->layer = 0;
}

/* Logits of the pass' tokens from `first` on, whose last layer's output is still in n; whether
 * the last token's are finite. */
static void head(qe_pass *p, uint32_t first, float *out, size_t out_stride)
{
    const size_t dim = qe_ceil(p->s->image->config.dim, 32);
    float *x = qe_floats(p->s, AT_X), *n = qe_floats(p->s, AT_N);
    p->count -= first;
    p->logits = out;
    p->logits_stride = out_stride;
    if (first) {
        memmove(x, x + first * dim, p->count * dim * 4);
        memmove(n, n + first * dim, p->count * dim * 4);
    }
    roles output = {p, QE_OUTPUT, QE_OUTPUT};
    const qe_step steps[] = {step(out_norm_chunk, p, token_chunks(p)),
                             step(observe_chunk, &output, p->s->observer != NULL),
                             step(output_chunk, p, p->output.chunks)};
    for (uint32_t i = 0; i < qe_threads(p->s); i++)
        *not_finite(p->s, i) = 0;
    qe_run(p->s, steps, 3);
    p->s->finite = 1;
    for (uint32_t i = 0; i < qe_threads(p->s); i++)
        if (*not_finite(p->s, i))
            p->s->finite = 0;
}

int qe_session_eval(qe_session *s, const uint32_t *tokens, uint32_t count, float *all_logits)
{
    const qe_config *c = &s->image->config;
    const size_t stride = qe_ceil(c->vocab_size, 32);
    float *logits = qe_floats(s, AT_LOGITS);
    if (!count)
        return QE_ERR_USAGE;
    if (count > s->options.context - s->position)
        return QE_ERR_CONTEXT;
    for (uint32_t i = 0; i < count; i++)
        if (tokens[i] >= c->vocab_size)
            return QE_ERR_USAGE;
    memmove(qe_session_tokens(s), tokens, (size_t)count * 4);

    for (uint32_t done = 0, now; done < count; done += now) {
        now = count - done < s->options.batch ? count - done : s->options.batch;
        qe_pass pass = new_pass(s, tokens + done, now);
        run_layers(&pass);
        s->position += now;
        if (all_logits) {
            head(&pass, 0, all_logits, stride);
            all_logits += now * stride;
        } else if (done + now == count) {
            head(&pass, now - 1, logits, 0);
        }
    }
    if (all_logits)
        memcpy(logits, all_logits - stride, (size_t)c->vocab_size * 4);
    return s->finite ? QE_OK : QE_ERR_NUMERIC;
}
