/* forward.c - the pass of SPEC 2.8, read from top to bottom. Shapes are in session.h; which
 * token and which row runs where never changes a result. */
#include "layout.h"
#include "session.h"

typedef struct {
    qe_session *s;
    qe_matmul m[3]; /* matrices with one input, run together */
    uint32_t groups[3], matrices;
    uint32_t share, large; /* the first `large` chunks are 3 shares of groups, the others one */
} products;

static void product_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const products *p = argument;
    uint32_t left = chunk < p->large ? 3 * p->share : p->share,
             first = (chunk < p->large ? 3 * chunk : chunk + 2 * p->large) * p->share;
    (void)worker;
    for (uint32_t i = 0; i < p->matrices && left; i++) {
        if (first >= p->groups[i]) {
            first -= p->groups[i];
            continue;
        }
        const uint32_t here = p->groups[i] - first < left ? p->groups[i] - first : left;
        qe_set(p->s)->matmul(&p->m[i], first, here);
        left -= here;
        first = 0;
    }
}

/* Adds out = W x for the tensor; x and its quantized form are shared by all of p. */
static void add_product(products *p, uint32_t tensor, const float *x, size_t x_stride,
                        float *out, size_t out_stride, uint32_t tokens)
{
    const qe_tensor t = qe_image_tensor(p->s->image, tensor);
    const qe_act act = {.q = qe_at(p->s, AT_ACT),
                        .d = qe_at(p->s, AT_ACT_D),
                        .s = qe_at(p->s, AT_ACT_S),
                        .stride = qe_ceil(t.columns, 32)};
    p->m[p->matrices] = (qe_matmul){.w = t.data,
                                    .type = t.type,
                                    .layout = t.layout,
                                    .rows = t.rows,
                                    .columns = t.columns,
                                    .act = act,
                                    .x = x,
                                    .x_stride = x_stride,
                                    .out = out,
                                    .out_stride = out_stride,
                                    .tokens = tokens};
    p->groups[p->matrices++] = (t.rows + 15) / 16;
    if (p->s->observer)
        p->s->observer->input(p->s->observer->self, tensor, x, x_stride, t.columns, tokens);
}

/* Two chunks for each worker, a large one and then a small one, so that claims are few and a
 * slow worker does not hold up the others for long. */
static void run_products(products *p)
{
    const uint32_t threads = p->s->workers ? p->s->options.threads : 1;
    uint32_t groups = 0;
    for (uint32_t i = 0; i < p->matrices; i++)
        groups += p->groups[i];
    const uint32_t shares = threads == 1 ? 1 : threads * 4;
    p->share = (groups + shares - 1) / shares;
    uint32_t chunks = (groups + p->share - 1) / p->share;
    p->large = threads > 1 && chunks > 3 * threads ? threads : 0;
    chunks -= 2 * p->large;
    qe_run(p->s, product_chunk, p, chunks);
    p->matrices = 0;
}

static int quantized(const qe_session *s, uint32_t tensor)
{
    return qe_format_of(qe_image_tensor(s->image, tensor).type) != NULL;
}

static const float *norm_weights(const qe_session *s, uint32_t tensor)
{
    return (const float *)(const void *)qe_image_tensor(s->image, tensor).data;
}

/* ---- work on single tokens, in chunks of tokens ---- */

typedef struct {
    qe_session *s;
    const float *norm;          /* rmsnorm x to n with it, or NULL */
    const float *added;         /* add these rows to x first, or NULL */
    float *input;               /* rows to quantize */
    uint32_t n, stride, tokens; /* of input */
    int silu, quantize;
} token_step;

static void token_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    const token_step *p = argument;
    const qe_config *c = &p->s->image->config;
    const qe_kernels *k = qe_set(p->s);
    const uint32_t dim = qe_ceil(c->dim, 32),
                   end = chunk * 8 + 8 < p->tokens ? chunk * 8 + 8 : p->tokens;
    (void)worker;
    for (uint32_t t = chunk * 8; t < end; t++) {
        float *x = qe_floats(p->s, AT_X) + (size_t)t * dim,
              *in = p->input + (size_t)t * p->stride;
        if (p->added)
            for (uint32_t i = 0; i < c->dim; i++)
                x[i] = x[i] + p->added[(size_t)t * dim + i];
        if (p->norm)
            k->rmsnorm(in, x, p->norm, c->dim, c->norm_eps);
        if (p->silu)
            k->silu_mul(in, qe_floats(p->s, AT_UP) + (size_t)t * p->stride, c->ffn);
        for (uint32_t i = p->n; i < p->stride; i++)
            in[i] = 0.0f;
        if (p->quantize) {
            const size_t row = (size_t)t * p->stride;
            k->quantize(in, p->n, (int8_t *)qe_at(p->s, AT_ACT) + row,
                        qe_floats(p->s, AT_ACT_D) + row / 32,
                        (int16_t *)qe_at(p->s, AT_ACT_S) + row / 16);
        }
    }
}

static void run_tokens(token_step *step)
{
    qe_run(step->s, token_chunk, step, (step->tokens + 7) / 8);
}

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

static int is_finite(const float *x, uint32_t n)
{
    uint32_t worst = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = qe_bits(x[i]) & 0x7FFFFFFFu;
        worst = bits > worst ? bits : worst;
    }
    return worst < QE_INF_BITS;
}

/* Logits of tokens first .. first + rows - 1 of the batch, whose last layer's output is still
 * in n: x = x + n, n = rmsnorm(x), out = W_output n. */
static void head(qe_session *s, uint32_t first, uint32_t rows, float *out, size_t out_stride)
{
    const qe_config *c = &s->image->config;
    const uint32_t dim = qe_ceil(c->dim, 32), output = qe_tensor_index(c, 0, QE_OUTPUT);
    float *x = qe_floats(s, AT_X), *n = qe_floats(s, AT_N);
    products p = {.s = s};
    if (first) {
        memmove(x, x + (size_t)first * dim, (size_t)rows * dim * 4);
        memmove(n, n + (size_t)first * dim, (size_t)rows * dim * 4);
    }
    token_step step = {.s = s,
                       .norm = norm_weights(s, QE_OUT_NORM),
                       .added = n,
                       .input = n,
                       .n = c->dim,
                       .stride = dim,
                       .tokens = rows,
                       .quantize = quantized(s, output)};
    run_tokens(&step);
    add_product(&p, output, n, dim, out, out_stride, rows);
    run_products(&p);
}

static void layer_pass(qe_session *s, uint32_t layer, uint32_t first, uint32_t tokens)
{
    const qe_config *c = &s->image->config;
    const uint32_t dim = qe_ceil(c->dim, 32), att = qe_ceil(c->heads * c->head_size, 32),
                   kv = qe_ceil(c->kv_heads * c->head_size, 32), ffn = qe_ceil(c->ffn, 32);
    /* where this layer's tensors stand */
    const uint32_t attn_norm = qe_tensor_index(c, layer, QE_ATTN_NORM),
                   wq = qe_tensor_index(c, layer, QE_Q), wk = qe_tensor_index(c, layer, QE_K),
                   wv = qe_tensor_index(c, layer, QE_V), wo = qe_tensor_index(c, layer, QE_O),
                   ffn_norm = qe_tensor_index(c, layer, QE_FFN_NORM),
                   w_gate = qe_tensor_index(c, layer, QE_GATE),
                   w_up = qe_tensor_index(c, layer, QE_UP),
                   w_down = qe_tensor_index(c, layer, QE_DOWN);
    float *n = qe_floats(s, AT_N), *a = qe_floats(s, AT_A), *gate = qe_floats(s, AT_GATE);
    products p = {.s = s};

    token_step norm = {.s = s,
                       .norm = norm_weights(s, attn_norm),
                       .added = layer ? n : NULL,
                       .input = n,
                       .n = c->dim,
                       .stride = dim,
                       .tokens = tokens,
                       .quantize = quantized(s, wq) || quantized(s, wk) || quantized(s, wv)};
    run_tokens(&norm);
    add_product(&p, wq, n, dim, qe_floats(s, AT_Q), att, tokens);
    add_product(&p, wk, n, dim, qe_floats(s, AT_K), kv, tokens);
    add_product(&p, wv, n, dim, qe_floats(s, AT_V), kv, tokens);
    run_products(&p);

    qe_attend(s, layer, first, tokens);
    token_step mixed = {.s = s,
                        .input = a,
                        .n = c->heads * c->head_size,
                        .stride = att,
                        .tokens = tokens,
                        .quantize = quantized(s, wo)};
    run_tokens(&mixed);
    add_product(&p, wo, a, att, n, dim, tokens);
    run_products(&p);

    token_step norm2 = {.s = s,
                        .norm = norm_weights(s, ffn_norm),
                        .added = n,
                        .input = n,
                        .n = c->dim,
                        .stride = dim,
                        .tokens = tokens,
                        .quantize = quantized(s, w_gate) || quantized(s, w_up)};
    run_tokens(&norm2);
    add_product(&p, w_gate, n, dim, gate, ffn, tokens);
    add_product(&p, w_up, n, dim, qe_floats(s, AT_UP), ffn, tokens);
    run_products(&p);

    token_step hidden = {.s = s,
                         .input = gate,
                         .n = c->ffn,
                         .stride = ffn,
                         .tokens = tokens,
                         .silu = 1,
                         .quantize = quantized(s, w_down)};
    run_tokens(&hidden);
    add_product(&p, w_down, gate, ffn, n, dim, tokens);
    run_products(&p);
}

int qe_session_eval(qe_session *s, const uint32_t *tokens, uint32_t count, float *all_logits)
{
    const qe_config *c = &s->image->config;
    const uint32_t dim = qe_ceil(c->dim, 32);
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
        for (uint32_t t = 0; t < now; t++)
            embed(s, tokens[done + t], qe_floats(s, AT_X) + (size_t)t * dim);
        for (uint32_t layer = 0; layer < c->layers; layer++)
            layer_pass(s, layer, s->position, now);
        s->position += now;
        if (all_logits) {
            head(s, 0, now, all_logits, stride);
            all_logits += now * stride;
        } else if (done + now == count) {
            head(s, now - 1, 1, logits, 0);
        }
    }
    if (all_logits)
        memcpy(logits, all_logits - stride, (size_t)c->vocab_size * 4);
    s->finite = is_finite(logits, c->vocab_size);
    return s->finite ? QE_OK : QE_ERR_NUMERIC;
}
