/* lanes.h - the float kernels of SPEC 2 on vectors of the machine's own width. Included by each
 * SIMD set after it has defined: W                              floats in a vector: 4, 8 or 16
 *   vf, vi                         vectors of W floats, of W int32 (GCC vector types)
 *   half_load(p)                   W f16 at p, as floats
 *   most(a, b), most_of(v)         the larger lanes, the largest lane (of int32 >= 0)
 *   larger(a, b), largest_of(v)    a > b ? a : b of floats, the largest lane (none is NaN)
 *   sum_of(v)                      the sum of the lanes, small enough for an int32_t
 *   low_bytes(v, q)                the low bytes of 32 lanes to q
 *   vec_sqrt is not needed: rmsnorm takes one scalar root.
 * GCC's and clang's vector types round like scalars, so this text is one for all machines. */

#define PARTS (16 / W)

typedef uint32_t vu __attribute__((vector_size(4 * W)));

static inline vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

static inline vf splat(float x)
{
    return x - (vf){0}; /* x - 0 is x, -0 included */
}

static inline vf choose(vi mask, vf a, vf b)
{
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

/* The end of lanes() in SPEC 2.2: the sum of sixteen lanes by halves. */
static inline float halves(const vf part[PARTS])
{
    vf sum[PARTS];
    float s[W];
    memcpy(sum, part, sizeof sum);
    for (int width = PARTS / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            sum[i] = sum[i] + sum[i + width];
    store(s, sum[0]);
    for (int width = W / 2; width; width /= 2)
        for (int l = 0; l < width; l++)
            s[l] = s[l] + s[l + width];
    return s[0];
}

/* Of x that are not above QE_EXP_LIMIT. */
static inline vf vec_exp_below(vf x)
{
    const vf magic = splat(QE_MAGIC);
    const vi live = (vi)(x > -splat(QE_EXP_LIMIT));
    vf t = x * splat(QE_LOG2E) + magic, n = t - magic;
    vf r = (x - n * splat(QE_LN2_HIGH)) - n * splat(QE_LN2_LOW);
    vf p = splat(QE_EXP_C4) * r + splat(QE_EXP_C3);
    p = p * r + splat(QE_EXP_C2);
    p = p * r + splat(QE_EXP_C1);
    p = p * r + splat(QE_EXP_C0);
    vf y = ((p * r) * r + r) + splat(1.0f);
    vi e = (vi)(((vu)t - (uint32_t)QE_MAGIC_BITS + 127u) << 23); /* wraps where live is 0 */
    return (vf)((vi)(y * (vf)e) & live);
}

static inline vf vec_exp(vf x)
{
    const vf limit = splat(QE_EXP_LIMIT);
    return vec_exp_below(choose((vi)(x > limit), limit, x));
}

/* 32 values to one block: SPEC 2.3. */
static inline void quantize_block(const vf x[32 / W], int8_t *q, float *d, int16_t s[2])
{
    vi top = {0}, v[32 / W];
    vu sum[2] = {{0}};
    float r;
    for (int i = 0; i < 32 / W; i++)
        top = most(top, (vi)x[i] & 0x7FFFFFFF);
    if (!qe_block_scale((uint32_t)most_of(top), d, &r)) {
        memset(q, 0, 32);
        s[0] = s[1] = 0;
        return;
    }
    for (int i = 0; i < 32 / W; i++) {
        v[i] = (vi)(x[i] * splat(r) + splat(QE_MAGIC)); /* the low byte is q */
        sum[i / PARTS] += (vu)v[i];
    }
    low_bytes(v, q);
    for (int half = 0; half < 2; half++) /* it wraps and back */
        s[half] = (int16_t)sum_of((vi)(sum[half] - PARTS * (uint32_t)QE_MAGIC_BITS));
}

static void quantize(const float *x, uint32_t n, int8_t *q, float *d, int16_t *s)
{
    float padded[32];
    for (uint32_t b = 0; b * 32 < n; b++, x += 32, q += 32) {
        const float *in = x;
        if (n - b * 32 < 32) {
            memset(padded, 0, sizeof padded);
            memcpy(padded, x, (n - b * 32) * sizeof(float));
            in = padded;
        }
        vf v[32 / W];
        for (int i = 0; i < 32 / W; i++)
            v[i] = load(in + i * W);
        quantize_block(v, q, &d[b], s + 2 * b);
    }
}

static void rmsnorm(float *out, const float *x, const float *w, uint32_t n, float eps)
{
    vf part[PARTS] = {{0}};
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < PARTS; k++) {
            vf v = load(x + i + k * W);
            part[k] = part[k] + v * v;
        }
    if (i < n) {
        float tail[16] = {0};
        memcpy(tail, x + i, (n - i) * sizeof(float));
        for (int k = 0; k < PARTS; k++) {
            vf v = load(tail + k * W);
            part[k] = part[k] + v * v;
        }
    }
    const float r = 1.0f / qe_sqrt(halves(part) / (float)n + eps);
    for (i = 0; i + W <= n; i += W)
        store(out + i, (load(x + i) * splat(r)) * load(w + i));
    for (; i < n; i++)
        out[i] = (x[i] * r) * w[i];
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    uint32_t i = 0;
    for (; i + W <= n; i += W) {
        vf g = load(gate + i);
        store(gate + i, (g / (splat(1.0f) + vec_exp(-g))) * load(up + i));
    }
    for (; i < n; i++)
        gate[i] = (gate[i] / (1.0f + qe_exp(-gate[i]))) * up[i];
}

/* The scores have room for ceil(n, 32). */
static float softmax(float *s, uint32_t n)
{
    const float least = qe_float(0xFF800000u);
    vf top[PARTS], part[PARTS] = {{0}};
    for (int k = 0; k < PARTS; k++)
        top[k] = splat(least);
    for (uint32_t j = n; j < qe_ceil(n, 32); j++)
        s[j] = least;
    for (uint32_t j = 0; j < n; j += 16)
        for (int k = 0; k < PARTS; k++)
            top[k] = larger(load(s + j + k * W), top[k]);
    for (int k = 1; k < PARTS; k++)
        top[0] = larger(top[k], top[0]);
    const float m = largest_of(top[0]);
    for (uint32_t j = 0; j < n; j += 16)
        for (int k = 0; k < PARTS; k++) {
            vf e = vec_exp_below(load(s + j + k * W) - splat(m));
            store(s + j + k * W, e);
            part[k] = part[k] + e;
        }
    for (uint32_t j = n; j < qe_ceil(n, 32); j++)
        s[j] = 0.0f;
    return 1.0f / halves(part);
}

static void weigh_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                     const float *e, int8_t *uq, float *du)
{
    for (uint32_t tile = 0; tile < tiles; tile++, v += qe_value_tile_bytes(head_size)) {
        vf u[32 / W];
        int16_t sums[2];
        for (int i = 0; i < 32 / W; i++) {
            const vf w = load(e + tile * 32 + i * W);
            const vi live = ~(vi)(w == (vf){0});
            u[i] = (vf)((vi)(w * half_load(v + c * 64 + 2 * W * i)) & live);
        }
        quantize_block(u, uq + tile * 32, &du[tile], sums);
    }
}

/* W values of an f16 or f32 row, from value number i on. */
static inline vf plain_load(const uint8_t *p, size_t i, int half)
{
    vf v;
    if (half)
        return half_load(p + 2 * i);
    memcpy(&v, p + 4 * i, sizeof v);
    return v;
}

static inline __attribute__((always_inline)) void score_plain(const uint8_t *k, uint32_t n,
                                                              uint32_t head_size,
                                                              const float *q, float *s,
                                                              int half)
{
    const size_t unit = half ? 2 : 4;
    for (uint32_t j = 0; j < n; j++, k += unit * head_size) {
        vf part[PARTS] = {{0}};
        uint32_t i = 0;
        for (; i + 16 <= head_size; i += 16)
            for (int p = 0; p < PARTS; p++)
                part[p] =
                    part[p] + load(q + i + p * W) * plain_load(k, i + (uint32_t)p * W, half);
        if (i < head_size) {
            float a[16] = {0};
            uint8_t b[64] = {0};
            memcpy(a, q + i, (head_size - i) * sizeof(float));
            memcpy(b, k + unit * i, unit * (head_size - i));
            for (int p = 0; p < PARTS; p++)
                part[p] = part[p] + load(a + p * W) * plain_load(b, (uint32_t)p * W, half);
        }
        s[j] = halves(part);
    }
}

static inline __attribute__((always_inline)) void mix_plain(const uint8_t *v, uint32_t n,
                                                            uint32_t head_size, const float *e,
                                                            float *out, int half)
{
    uint32_t i = 0;
    for (; i + W <= head_size; i += W) {
        vf acc = {0};
        for (uint32_t j = 0; j < n; j++)
            acc = acc + splat(e[j]) * plain_load(v, (size_t)j * head_size + i, half);
        store(out + i, acc);
    }
    for (; i < head_size; i++) {
        float acc = 0.0f;
        for (uint32_t j = 0; j < n; j++) {
            const size_t at = (size_t)j * head_size + i;
            acc = acc + e[j] * (half ? qe_half_to_float(qe_load16(v + 2 * at))
                                     : qe_float(qe_load32(v + 4 * at)));
        }
        out[i] = acc;
    }
}

static void score_f16(const uint8_t *k, uint32_t n, uint32_t head_size, const float *q,
                      float *s)
{
    score_plain(k, n, head_size, q, s, 1);
}

static void mix_f16(const uint8_t *v, uint32_t n, uint32_t head_size, const float *e,
                    float *out)
{
    mix_plain(v, n, head_size, e, out, 1);
}

static void score_f32(const uint8_t *k, uint32_t n, uint32_t head_size, const float *q,
                      float *s)
{
    score_plain(k, n, head_size, q, s, 0);
}

static void mix_f32(const uint8_t *v, uint32_t n, uint32_t head_size, const float *e,
                    float *out)
{
    mix_plain(v, n, head_size, e, out, 0);
}

#include "lanes_keys.h"

/* W weights of a row, from number i on. */
static inline vf weights_load(const uint8_t *p, size_t i, uint32_t type)
{
    if (type != QE_BF16)
        return plain_load(p, i, type == QE_F16);
    uint16_t v[W];
    uint32_t bits[W];
    vf wide;
    memcpy(v, p + 2 * i, sizeof v);
    for (int k = 0; k < W; k++)
        bits[k] = (uint32_t)v[k] << 16;
    memcpy(&wide, bits, sizeof wide);
    return wide;
}

/* f16, bf16 and f32 rows: SPEC 2.5. Two tokens at a time share the weights. */
static inline __attribute__((always_inline)) void plain_rows(const qe_matmul *m, uint32_t type,
                                                             uint32_t first, uint32_t end)
{
    const uint32_t columns = qe_ceil(m->columns, 32), unit = type == QE_F32 ? 4 : 2;
    for (uint32_t row = first; row < end; row++) {
        const uint8_t *w = m->w + (size_t)row * columns * unit;
        for (uint32_t t = 0; t < m->tokens; t += 2) {
            const float *a = m->x + t * m->x_stride,
                        *b = t + 1 < m->tokens ? a + m->x_stride : a;
            vf pa[PARTS] = {{0}}, pb[PARTS] = {{0}};
            for (uint32_t i = 0; i < columns; i += 16)
                for (int p = 0; p < PARTS; p++) {
                    const uint32_t at = i + (uint32_t)p * W;
                    const vf v = weights_load(w, at, type);
                    pa[p] = pa[p] + v * load(a + at);
                    pb[p] = pb[p] + v * load(b + at);
                }
            m->out[t * m->out_stride + row] = halves(pa);
            if (b != a)
                m->out[(t + 1) * m->out_stride + row] = halves(pb);
        }
    }
}

/* What every SIMD set's matmul begins with: returns 1 when it has done the work. */
static int common_matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    const uint32_t end = (first + count) * 16 < m->rows ? (first + count) * 16 : m->rows;
    switch (m->type) {
    case QE_F32: plain_rows(m, QE_F32, first * 16, end); return 1;
    case QE_F16: plain_rows(m, QE_F16, first * 16, end); return 1;
    case QE_BF16: plain_rows(m, QE_BF16, first * 16, end); return 1;
    }
    if (m->layout != 16) {
        qe_portable_matmul(m, first, count);
        return 1;
    }
    return 0;
}
