/* scalar.h - the float kernels of SPEC 2 in plain C, a value at a time: the definition, and
 * what a set takes whose vectors cannot round as IEEE does (armv7.c). lanes.h is the same on
 * vectors.
 */

static float halves(float *s) /* the end of lanes(): SPEC 2.2 */
{
    for (int width = 8; width; width /= 2)
        for (int l = 0; l < width; l++)
            s[l] = s[l] + s[l + width];
    return s[0];
}

static void quantize(const float *x, uint32_t n, int8_t *q, float *d, int16_t *s)
{
    for (uint32_t b = 0; b * 32 < n; b++, x += 32, q += 32) {
        uint32_t width = n - b * 32 < 32 ? n - b * 32 : 32, amax = 0;
        for (uint32_t i = 0; i < width; i++) {
            uint32_t bits = qe_bits(x[i]) & 0x7FFFFFFFu;
            amax = bits > amax ? bits : amax;
        }
        float r;
        int nonzero = qe_block_scale(amax, &d[b], &r);
        for (uint32_t half = 0; half < 2; half++) {
            int32_t sum = 0;
            for (uint32_t i = 16 * half; i < 16 * half + 16; i++) {
                q[i] = (int8_t)(nonzero && i < width ? qe_round(x[i] * r) : 0);
                sum += q[i];
            }
            s[2 * b + half] = (int16_t)sum;
        }
    }
}

static float plain_value(const uint8_t *p, size_t i, int half)
{
    return half ? qe_half_to_float(qe_load16(p + 2 * i)) : qe_float(qe_load32(p + 4 * i));
}

static void rmsnorm(float *out, const float *x, const float *w, uint32_t n, float eps)
{
    float s[16] = {0};
    for (uint32_t i = 0; i < n; i++)
        s[i % 16] = s[i % 16] + x[i] * x[i];
    float r = 1.0f / qe_sqrt(halves(s) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (x[i] * r) * w[i];
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = (gate[i] / (1.0f + qe_exp(-gate[i]))) * up[i];
}

static float softmax(float *s, uint32_t n)
{
    float m = qe_float(0xFF800000u), lane[16] = {0};
    for (uint32_t j = 0; j < n; j++)
        m = s[j] > m ? s[j] : m;
    for (uint32_t j = 0; j < n; j++) {
        s[j] = qe_exp(s[j] - m);
        lane[j % 16] = lane[j % 16] + s[j];
    }
    for (uint32_t j = n; j < qe_ceil(n, 32); j++)
        s[j] = 0.0f;
    return 1.0f / halves(lane);
}

static void weigh_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                     const float *e, int8_t *uq, float *du)
{
    for (uint32_t tile = 0; tile < tiles; tile++, v += qe_value_tile_bytes(head_size)) {
        float u[32];
        int16_t sums[2];
        for (uint32_t p = 0; p < 32;
             p++) /* a weight of 0 hides a scale that was never written */
            u[p] = e[tile * 32 + p] == 0.0f
                       ? 0.0f
                       : e[tile * 32 + p] * qe_half_to_float(qe_load16(v + c * 64 + 2 * p));
        quantize(u, 32, uq + tile * 32, &du[tile], sums);
    }
}

static void score_plain(const uint8_t *k, uint32_t n, uint32_t head_size, const float *q,
                        float *s, int half)
{
    for (size_t j = 0; j < n; j++) {
        float lane[16] = {0};
        for (uint32_t i = 0; i < head_size; i++)
            lane[i % 16] = lane[i % 16] + q[i] * plain_value(k, j * head_size + i, half);
        s[j] = halves(lane);
    }
}

static void mix_plain(const uint8_t *v, uint32_t n, uint32_t head_size, const float *e,
                      float *out, int half)
{
    for (uint32_t i = 0; i < head_size; i++)
        out[i] = 0.0f;
    for (size_t j = 0; j < n; j++)
        for (uint32_t i = 0; i < head_size; i++)
            out[i] = out[i] + e[j] * plain_value(v, j * head_size + i, half);
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

static void weights(const float *x, uint32_t n, float top, float scale, uint32_t least,
                    uint32_t *w)
{
    for (uint32_t i = 0; i < n; i++)
        w[i] =
            w[i] < least ? 0 : (uint32_t)(int32_t)(qe_exp((x[i] - top) * scale) * 0x1p30f) | 1u;
}

static void order(const float *x, uint32_t n, uint32_t *keys)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t u = qe_bits(x[i]);
        keys[i] = u & 0x80000000u ? ~u : u | 0x80000000u;
    }
}

static uint32_t survey(const uint32_t *w, uint32_t n, uint32_t least, uint64_t *sum)
{
    uint32_t found = 0;
    *sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        found += w[i] >= least;
        *sum += w[i] >= least ? w[i] : 0;
    }
    return found;
}

static void pick(const uint32_t *w, uint32_t n, uint32_t lo, uint32_t span, uint32_t *at,
                 uint32_t *picked)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (w[i] - lo >= span)
            continue;
        at[found] = i;
        picked[found++] = w[i];
    }
}

static uint32_t first_largest(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}
