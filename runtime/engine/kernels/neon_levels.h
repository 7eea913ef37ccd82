/* neon_levels.h - the types of formats.h as NEON reads them in groups of 16 rows: levels of
 * four rows by four columns a vector, and the scales of 16 rows. For AArch64 and 32-bit Arm.
 * Included by a set after it has defined half_load(p): four f16 at p as floats load_pair(p, a,
 * b): 32 bytes lookup(table, index): the table's bytes by indices 0..15 */

typedef uint8_t vb __attribute__((vector_size(16)));

/* A type, constant after inlining. Less `zero` the levels are the weights, but of the tables'
 * types and the engine's own. */
typedef struct {
    uint32_t type;
    int bits, step, zero;
} kind;

/* Every kind of type (TQ2_0 is Q2_0's, with a longer period): DO(type, bits, step, zero). */
#define QE_EACH_KIND(DO)                                                                       \
    DO(QE_Q1_0, 1, QE_STEP_SCALED, 0)                                                          \
    DO(QE_Q2_0, 2, QE_STEP_SCALED, 1)                                                          \
    DO(QE_Q4_0, 4, QE_STEP_SCALED, 8)                                                          \
    DO(QE_Q5_0, 5, QE_STEP_SCALED, 16)                                                         \
    DO(QE_Q8_0, 8, QE_STEP_SCALED, 0)                                                          \
    DO(QE_IQ4_NL, 4, QE_STEP_SCALED, 0)                                                        \
    DO(QE_IQ4_XS, 4, QE_STEP_SCALED, 0)                                                        \
    DO(QE_MXFP4, 4, QE_STEP_SCALED, 0)                                                         \
    DO(QE_Q4_1, 4, QE_STEP_AFFINE, 0)                                                          \
    DO(QE_Q5_1, 5, QE_STEP_AFFINE, 0)                                                          \
    DO(QE_Q4_K, 4, QE_STEP_AFFINE, 0)                                                          \
    DO(QE_Q5_K, 5, QE_STEP_AFFINE, 0)                                                          \
    DO(QE_Q3_K, 3, QE_STEP_HALVES, 4)                                                          \
    DO(QE_Q6_K, 6, QE_STEP_HALVES, 32)                                                         \
    DO(QE_Q2_K, 2, QE_STEP_HALVES_MIN, 0)                                                      \
    DO(QE_A2, 2, QE_STEP_ROW, 0)                                                               \
    DO(QE_A3, 3, QE_STEP_ROW, 0)                                                               \
    DO(QE_A4, 4, QE_STEP_ROW, 0)                                                               \
    DO(QE_A5, 5, QE_STEP_ROW, 0)                                                               \
    DO(QE_A6, 6, QE_STEP_ROW, 0)

INLINE int has_table(kind k)
{
    return k.type == QE_IQ4_NL || k.type == QE_IQ4_XS || k.type == QE_MXFP4;
}

INLINE int in_halves(int step)
{
    return step == QE_STEP_HALVES || step == QE_STEP_HALVES_MIN;
}

/* Blocks behind one head: 1 is known before. */
INLINE uint32_t period_of(kind k, const qe_format *f)
{
    switch (k.type) {
    case QE_Q1_0:
    case QE_Q2_0:
    case QE_IQ4_XS:
    case QE_Q2_K:
    case QE_Q3_K:
    case QE_Q4_K:
    case QE_Q5_K:
    case QE_Q6_K: return f->period;
    default: return 1;
    }
}

INLINE vb table_of(kind k)
{
    vb table = {0};
    if (has_table(k))
        memcpy(&table, k.type == QE_MXFP4 ? qe_mxfp4_levels : qe_iq4_levels, 16);
    return table;
}

/* Four rows of a block's planes: each is 64 bytes for 16 rows. */
typedef struct {
    vb low[8], high[2];
} planes;

INLINE int planes_below(int bits)
{
    return bits == 3 ? 2 : bits == 5 || bits == 6 ? 4 : bits;
}

/* Rows 8 * half .. + 7 of a block whose levels begin at w, four to each of p. */
INLINE void load_planes(const uint8_t *w, int bits, int half, planes p[2])
{
    const int low = planes_below(bits);
    w += 32 * half;
#pragma GCC unroll 8
    for (int i = 0; i < bits; i++, w += 64) {
        int8x16_t v[2];
        load_pair(w, &v[0], &v[1]);
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++)
            if (i < low)
                p[r].low[i] = (vb)v[r];
            else
                p[r].high[i - low] = (vb)v[r];
    }
}

/* Rows 4 * quarter .. + 3 alone. */
INLINE void load_quarter(const uint8_t *w, int bits, int quarter, planes *p)
{
    const int low = planes_below(bits);
    w += 16 * quarter;
#pragma GCC unroll 8
    for (int i = 0; i < low; i++)
        p->low[i] = (vb)vld1q_u8(w + 64 * i);
#pragma GCC unroll 2
    for (int i = low; i < bits; i++)
        p->high[i - low] = (vb)vld1q_u8(w + 64 * i);
}

INLINE vb shifted(vb v, int left)
{
    return left > 0 ? v << left : left < 0 ? v >> -left : v;
}

/* v's lowest bits from `low`, by the mask; the others from `high`. */
INLINE vb joined_bits(uint8_t mask, vb low, vb high)
{
    return (vb)vbslq_u8(vdupq_n_u8(mask), (uint8x16_t)low, (uint8x16_t)high);
}

/* Columns 4 * g .. + 3 as unsigned levels. */
INLINE vb levels(const planes *p, int bits, int g)
{
    const int h = g / 4, n = g % 4;
    vb v;
    switch (bits) {
    case 8: return p->low[g];
    case 4: return h ? p->low[n] >> 4 : p->low[n] & 15;
    case 2: v = p->low[h] >> 2 * n; return n == 3 ? v : v & 3;
    case 1: v = p->low[0] >> g; return g == 7 ? v : v & 1;
    case 3:
        v = joined_bits(3, p->low[h] >> 2 * n, shifted(p->high[0], 2 - g));
        return g == 7 ? v : v & 7;
    default: /* 5, 6: the upper ones to their place, the nibble below */
        v = shifted(p->high[bits == 6 ? h : 0], bits == 6 ? 4 - 2 * n : 4 - g);
        v = h ? (vb)vsriq_n_u8((uint8x16_t)v, (uint8x16_t)p->low[n], 4)
              : joined_bits(15, p->low[n], v);
        return g == 7 ? v : v & (uint8_t)((1 << bits) - 1);
    }
}

/* The same as weights, but for the kind's zero and the own types' scale. */
INLINE int8x16_t weights_at(kind k, vb table, const planes *p, int g)
{
    if (k.type == QE_Q1_0) { /* all ones where the bit is 0 */
        const vb bit = {0}, mask = bit + (uint8_t)(1 << g);
        return (int8x16_t)((vb)((p->low[0] & mask) == bit) | 1);
    }
    const vb v = levels(p, k.bits, g);
    return has_table(k) ? lookup((uint8x16_t)table, (uint8x16_t)v) : (int8x16_t)v;
}

/* Scales of 16 rows: d, m of floats; s, n of halves. */
typedef struct {
    float32x4_t d[4], m[4];
    int32x4_t s[2][4], n[2][4];
} scales;

INLINE vb bytes_at(const uint8_t *p)
{
    return (vb)vld1q_u8(p);
}

/* v >> shift, not known before. */
INLINE vb shifted_by(vb v, uint32_t shift)
{
    return (vb)vshlq_u8((uint8x16_t)v, vdupq_n_s8((int8_t)-(int32_t)shift));
}

INLINE void widen(vb bytes, int32x4_t wide[4])
{
    const uint8x16_t v = (uint8x16_t)bytes;
    const uint16x8_t a = vmovl_u8(vget_low_u8(v)), b = vmovl_u8(vget_high_u8(v));
    wide[0] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(a)));
    wide[1] = vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(a)));
    wide[2] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(b)));
    wide[3] = vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(b)));
}

INLINE void widen_signed(vb bytes, int32x4_t wide[4])
{
    const int8x16_t v = (int8x16_t)bytes;
    const int16x8_t a = vmovl_s8(vget_low_s8(v)), b = vmovl_s8(vget_high_s8(v));
    wide[0] = vmovl_s16(vget_low_s16(a));
    wide[1] = vmovl_s16(vget_high_s16(a));
    wide[2] = vmovl_s16(vget_low_s16(b));
    wide[3] = vmovl_s16(vget_high_s16(b));
}

/* d * s of all rows: exact, 11 bits by 6. */
INLINE void times(float32x4_t d[4], const int32x4_t s[4])
{
    for (int r = 0; r < 4; r++)
        d[r] = vmulq_f32(d[r], vcvtq_f32_s32(s[r]));
}

/* 2^(e - 128) of 16 rows. */
INLINE void mxfp4_scales(const uint8_t *head, float32x4_t d[4])
{
    int32x4_t e[4];
    widen(bytes_at(head), e);
    for (int r = 0; r < 4; r++) {
        const uint32x4_t u = vreinterpretq_u32_s32(e[r]);
        const uint32x4_t least = vshlq_u32(vdupq_n_u32(0x00200000), e[r]),
                         normal = vshlq_n_u32(vsubq_u32(u, vdupq_n_u32(1)), 23);
        d[r] = vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(u, vdupq_n_u32(2)), least, normal));
    }
}

/* Block i behind a head: what formats.c's qe_block_read does; but m is what a K type
 * subtracts, and QE_STEP_ROW has other ways. */
INLINE void load_scales(kind k, const uint8_t *head, uint32_t i, scales *s)
{
    if (k.type == QE_MXFP4)
        mxfp4_scales(head, s->d);
    else
        scales_of(head, s->d);
    if (k.step == QE_STEP_AFFINE || k.step == QE_STEP_HALVES_MIN)
        scales_of(head + 32, s->m);
    if (k.type == QE_Q4_K || k.type == QE_Q5_K) {
        const vb a = bytes_at(head + 64 + 16 * i), b = bytes_at(head + 192 + i / 2 * 16);
        int32x4_t scale[4], least[4];
        widen(a & 63, scale);
        widen(a >> 6 | (shifted_by(b, 4 * (i % 2)) & 15) << 2, least);
        times(s->d, scale);
        times(s->m, least);
    }
    if (k.type == QE_IQ4_XS) {
        const vb a = bytes_at(head + 32 + i / 2 * 16), b = bytes_at(head + 96 + i / 4 * 16);
        int32x4_t scale[4];
        widen_signed(
            ((shifted_by(a, 4 * (i % 2)) & 15) | (shifted_by(b, 2 * (i % 4)) & 3) << 4) - 32,
            scale);
        times(s->d, scale);
    }
    for (int h = 0; h < 2; h++) {
        if (k.type == QE_Q6_K)
            widen_signed(bytes_at(head + 32 + 32 * i + 16 * h), s->s[h]);
        if (k.type == QE_Q3_K) {
            const vb a = bytes_at(head + 32 + 16 * i) >> 4 * h & 15,
                     b = shifted_by(bytes_at(head + 160 + i / 2 * 16), 4 * (i % 2) + 2 * h) & 3;
            widen_signed((a | b << 4) - 32, s->s[h]);
        }
        if (k.type == QE_Q2_K) {
            const vb v = bytes_at(head + 64 + 32 * i + 16 * h);
            widen(v & 15, s->s[h]);
            widen(v >> 4, s->n[h]);
        }
    }
}

/* Whether m is subtracted. */
INLINE int takes_off(kind k)
{
    return k.type == QE_Q4_K || k.type == QE_Q5_K;
}
