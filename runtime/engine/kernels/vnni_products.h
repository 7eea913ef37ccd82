/* vnni_products.h - matrix products of quantized types for processors that multiply four bytes
 * and add them up in one instruction (VNNI): 16 rows by a block of 32 columns at a time. A
 * register holds rows by 4 columns, so a lane of its sums owns a row. Many tokens share a panel
 * of unpacked levels in the first cache; a lone token unpacks in registers. Equal to
 * portable.c.
 *
 * Included by avx512_products.c and avxvnni.c inside their target pragmas, after avx2_unpack.h
 * and these: VB                  bytes in a register: 32 or 64
 *   GROUPS                       groups of 16 rows at a time: two registers in all
 *   dot(sum, u, s)               int32 lanes: sum + four products of u8 by s8
 *   pairs(a, b)                  int32 lanes: two products of int16
 *   lookup(table, at)            bytes table[at], at < 16
 *   floats_of(v)                 int32 lanes as floats
 *   rows_of(p)                   int32 lanes: bytes at p, one for each */
typedef uint8_t vb __attribute__((vector_size(VB)));
typedef uint16_t vh __attribute__((vector_size(VB)));
typedef int32_t vi __attribute__((vector_size(VB)));
typedef float vf __attribute__((vector_size(VB)));

enum {
    W = VB / 4,   /* rows in a register */
    R = 16 / W,   /* registers of 16 rows */
    REGS = 2,     /* that share a broadcast of activations */
    NT = 4,       /* tokens that share a load of the weights */
    SPAN = 16,    /* blocks of a panel: 8 KiB of levels, 5 of scales */
    PREFETCH = 16 /* blocks ahead, of a lone token */
};

/* 16 rows by up to SPAN blocks: levels are unsigned, signed ones offset by 128. */
typedef struct {
    _Alignas(64) uint8_t q[SPAN][512];
    scales s[SPAN];
} panel;

#define LOADED(type)                                                                           \
    INLINE type load_##type(const void *from)                                                  \
    {                                                                                          \
        type loaded;                                                                           \
        memcpy(&loaded, from, sizeof loaded);                                                  \
        return loaded;                                                                         \
    }
LOADED(vb)
LOADED(vi)
LOADED(vf)

INLINE vi every(int32_t x)
{
    return x - (vi){0};
}

INLINE vf every_float(float x)
{
    return x - (vf){0}; /* x - 0 is x, -0 included */
}

INLINE vi four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, 4);
    return every(v);
}

INLINE vb masked(vb v, int right, int mask) /* bytes; right may be below zero */
{
    const vh moved = right > 0 ? (vh)v >> right : (vh)v << -right;
    return (vb)moved & (vb)((vb){0} + (uint8_t)mask);
}

/* What dot() multiplies: the levels of columns 4 * g .. of the rows of register r of a tile. */
INLINE vb unsigned_levels(const uint8_t *p, kind k, int g, int r)
{
    p += VB * r;
    switch (k.bits) {
    case 8: return load_vb(p + 64 * g) ^ (vb)((vb){0} + (uint8_t)128);
    case 1: return masked(load_vb(p), g - 1, 2);
    case 2: return masked(load_vb(p + g / 4 * 64), g % 4 * 2, 3);
    case 3:
        return masked(load_vb(p + g / 4 * 64), g % 4 * 2, 3) |
               masked(load_vb(p + 128), g - 2, 4);
    }
    const vb low = masked(load_vb(p + g % 4 * 64), g < 4 ? 0 : 4, 15);
    if (k.bits == 5)
        return low | masked(load_vb(p + 256), g - 4, 16);
    if (k.bits == 6)
        return low | masked(load_vb(p + 256 + g / 4 * 64), g % 4 * 2 - 4, 48);
    if (!k.table)
        return low;
    return lookup(k.type == QE_MXFP4 ? qe_mxfp4_levels : qe_iq4_levels, low) ^
           (vb)((vb){0} + (uint8_t)128);
}

INLINE int zero_of(kind k)
{
    return k.is_signed ? 128 : k.zero;
}

/* A block of one or more groups of 16 rows: where its bytes and scales are in each. Register
 * number r is of the group r / R. */
typedef struct {
    const uint8_t *q[GROUPS];
    const scales *s[GROUPS];
} block;

/* The sums of a block's products by their integer scales, less those of its zero points, of
 * `tokens` rows of x. Levels are taken out of the tile unless they lie in a panel. */
INLINE void block_sums(vi isum[NT][REGS], const block *w, kind k, int in_panel, int registers,
                       const int8_t *x, size_t stride, const int16_t *xs, size_t xs_stride,
                       int tokens)
{
    const int halves = k.step == QE_STEP_HALVES || k.step == QE_STEP_HALVES_MIN;
    vi sum[NT][REGS];
#pragma GCC unroll 2
    for (int half = 0; half < 1 + halves; half++) {
        for (int j = 0; j < tokens; j++)
            for (int r = 0; r < registers; r++)
                sum[j][r] = every(-zero_of(k) * qe_block_sum(xs + (size_t)j * xs_stride));
        const int end = halves ? 4 * half + 4 : 8;
#pragma GCC unroll 8
        for (int g = 4 * half; g < end; g++) {
            vb u[REGS];
            for (int r = 0; r < registers; r++) {
                const uint8_t *p = w->q[r / R];
                u[r] = in_panel ? load_vb(p + 64 * g + VB * (r % R))
                                : unsigned_levels(p, k, g, r % R);
            }
#pragma GCC unroll 4
            for (int j = 0; j < tokens; j++) {
                const vi v = four(x + (size_t)j * stride + 4 * g);
                for (int r = 0; r < registers; r++)
                    sum[j][r] = dot(sum[j][r], (vi)u[r], v);
            }
        }
        for (int r = 0; r < registers && (halves || (k.step == QE_STEP_ROW && in_panel)); r++) {
            /* a row's scale lies in both halves of its lane */
            const vi by = load_vi(w->s[r / R]->s[half] + 2 * W * (r % R)) >> 16;
            for (int j = 0; j < tokens; j++)
                sum[j][r] = sum[j][r] * by;
        }
        for (int j = 0; j < tokens; j++)
            for (int r = 0; r < registers; r++)
                isum[j][r] = half ? isum[j][r] + sum[j][r] : sum[j][r];
    }
}

/* acc goes on by one block: SPEC 2.5. */
INLINE vf step(vf acc, kind k, const scales *s, int r, vi isum, float dx, const int16_t *xs)
{
    const vf x = every_float(dx);
    const vi xsum = four((const int8_t *)xs);
    const vi n = load_vi(s->n + 2 * W * r);
    if (k.step == QE_STEP_ROW)
        return acc + x * floats_of(isum - pairs(xsum, n));
    const vf d = load_vf(s->d + W * r), m = load_vf(s->m + W * r);
    if (k.step == QE_STEP_AFFINE)
        return acc +
               ((d * x) * floats_of(isum) + m * every_float(dx * (float)qe_block_sum(xs)));
    if (k.step == QE_STEP_HALVES_MIN)
        return acc + ((d * x) * floats_of(isum) - (m * x) * floats_of(pairs(xsum, n)));
    if (k.step == QE_STEP_HALVES)
        isum = isum - pairs(xsum, n);
    return acc + (d * x) * floats_of(isum);
}

/* Panels' blocks against `tokens` rows of activations. Sums go on from out unless the panels'
 * first block is 0; row scales come in behind the last. */
INLINE void multiply(const panel *p, kind k, int groups, uint32_t first, uint32_t count,
                     const qe_act *act, size_t token, int tokens, const uint8_t *row_scales,
                     size_t step_bytes, float *out, size_t stride)
{
    const size_t row = act->stride / 32;
    const int8_t *q = act->q + token * act->stride + (size_t)first * 32;
    const float *d = act->d + token * row + first;
    const int16_t *s = act->s + 2 * (token * row + first);
    const int registers = groups * R;
    vf acc[NT][REGS];
    for (int j = 0; j < tokens; j++)
        for (int r = 0; r < registers; r++)
            acc[j][r] = first ? load_vf(out + j * stride + W * r) : (vf){0};
    for (uint32_t b = 0; b < count; b++, q += 32) {
        block w;
        for (int n = 0; n < groups; n++) {
            w.q[n] = p[n].q[b];
            w.s[n] = &p[n].s[b];
        }
        vi isum[NT][REGS];
        block_sums(isum, &w, k, 1, registers, q, act->stride, s + 2 * b, 2 * row, tokens);
#pragma GCC unroll 4
        for (int j = 0; j < tokens; j++)
            for (int r = 0; r < registers; r++)
                acc[j][r] = step(acc[j][r], k, w.s[r / R], r % R, isum[j][r], d[j * row + b],
                                 s + 2 * (j * row + b));
    }
    for (int r = 0; r < registers; r++)
        for (int j = 0; j < tokens; j++) {
            if (row_scales)
                acc[j][r] *= load_vf(row_scales + (size_t)(r / R) * step_bytes + VB * (r % R));
            memcpy(out + j * stride + W * r, &acc[j][r], sizeof acc[j][r]);
        }
}

/* What step() does for QE_STEP_ROW, from a tile's bytes of scales at w. */
INLINE vf row_step(vf acc, kind k, const uint8_t *w, int r, vi isum, float dx,
                   const int16_t *xs)
{
    const vi scale = rows_of(w + W * r), zero = rows_of(w + 16 + W * r) & 127;
    isum = scale * ((isum << (7 - k.wide)) - zero * every(qe_block_sum(xs)));
    return acc + every_float(dx) * floats_of(isum);
}

/* 16 rows against one token, from the tiles themselves. */
INLINE void lone_token(const uint8_t *w, kind k, uint32_t blocks, const qe_act *act,
                       size_t token, float *out)
{
    const size_t bytes = 64u * k.bits, head = 16u * k.head, row = act->stride / 32;
    const int8_t *q = act->q + token * act->stride;
    const float *d = act->d + token * row;
    const int16_t *s = act->s + 2 * token * row;
    const uint8_t *row_scales = w;
    vf acc[R];
    memset(acc, 0, sizeof acc);
    w += 16 * k.row_head;
    for (uint32_t b = 0; b < blocks; w += head + k.period * bytes)
        for (uint32_t i = 0; i < (uint32_t)k.period; i++, b++) {
            vi isum[NT][REGS];
            scales of;
            const block at = {{w + head + i * bytes}, {&of}};
#if VB == 32
            for (size_t line = 0; line < bytes + head / k.period; line += 64)
                _mm_prefetch((const char *)at.q[0] + PREFETCH * 288 + line, _MM_HINT_T0);
#endif
            if (k.step != QE_STEP_ROW)
                read_scales(&of, w, k, i);
            block_sums(isum, &at, k, 0, R, q + 32 * b, 0, s + 2 * b, 0, 1);
            for (int r = 0; r < R; r++)
                acc[r] = k.step == QE_STEP_ROW
                             ? row_step(acc[r], k, w, r, isum[0][r], d[b], s + 2 * b)
                             : step(acc[r], k, &of, r, isum[0][r], d[b], s + 2 * b);
        }
    for (int r = 0; r < R; r++) {
        if (k.step == QE_STEP_ROW)
            acc[r] *= load_vf(row_scales + VB * r);
        memcpy(out + W * r, &acc[r], sizeof acc[r]);
    }
}

/* A panel of the group at w; the next one's bytes are fetched meanwhile. */
INLINE void unpack(panel *p, const uint8_t *w, kind k, uint32_t first, uint32_t count)
{
    const size_t bytes = 64u * k.bits, period = 16u * k.head + k.period * bytes;
    for (uint32_t b = 0; b < count; b++) {
        const uint32_t i = (first + b) % k.period;
        const uint8_t *head = w + 16 * k.row_head + (first + b) / k.period * period;
        const uint8_t *from = head + 16 * k.head + i * bytes;
        read_scales(&p->s[b], head, k, i);
        for (size_t line = 0; line < bytes; line += 64)
            _mm_prefetch((const char *)from + SPAN * period / k.period + line, _MM_HINT_T1);
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++)
            for (int r = 0; r < R; r++) {
                const vb u = unsigned_levels(from, k, g, r);
                memcpy(p->q[b] + 64 * g + VB * r, &u, sizeof u);
            }
    }
}

INLINE void many_tokens(const qe_matmul *m, kind k, const uint8_t *w, size_t bytes, int groups,
                        float *out)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const uint32_t spans = (blocks + SPAN - 1) / SPAN, span = (blocks + spans - 1) / spans;
    const size_t stride = m->out_stride;
    panel p[GROUPS];
    for (uint32_t b = 0; b < blocks; b += span) {
        const uint32_t now = blocks - b < span ? blocks - b : span;
        const uint8_t *scale = b + now == blocks && k.step == QE_STEP_ROW ? w : NULL;
        uint32_t t = 0;
        for (int n = 0; n < groups; n++)
            unpack(&p[n], w + n * bytes, k, b, now);
        for (; t + NT <= m->tokens; t += NT)
            multiply(p, k, groups, b, now, &m->act, t, NT, scale, bytes, out + t * stride,
                     stride);
        for (; t < m->tokens; t++)
            multiply(p, k, groups, b, now, &m->act, t, 1, scale, bytes, out + t * stride,
                     stride);
    }
}

INLINE void groups_of(const qe_matmul *m, kind k, uint32_t first, uint32_t count)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32, end = first + count;
    const size_t bytes =
        16 * (k.row_head + blocks / k.period * (k.head + (size_t)k.period * 4 * k.bits));
    for (uint32_t group = first, now; group < end; group += now) {
        const uint8_t *w = m->w + group * bytes;
        float *out = m->out + group * 16;
        now = 1;
        if (m->tokens < 3) {
            for (uint32_t t = 0; t < m->tokens; t++)
                lone_token(w, k, blocks, &m->act, t, out + t * m->out_stride);
        } else if (GROUPS == 2 && group + 1 < end) {
            many_tokens(m, k, w, bytes, GROUPS, out);
            now = GROUPS;
        } else {
            many_tokens(m, k, w, bytes, 1, out);
        }
    }
}

/* matmul of a type that is listed here; 0 for another. */
static int products_of(const qe_matmul *m, uint32_t first, uint32_t count)
{
    switch (m->type) {
#if GROUPS == 1 /* avx512.c has tiles of its own for these two */
    case QE_Q4_0: groups_of(m, KIND_Q4_0, first, count); return 1;
    case QE_Q8_0: groups_of(m, KIND_Q8_0, first, count); return 1;
#endif
    case QE_Q1_0: groups_of(m, KIND_Q1_0, first, count); return 1;
    case QE_Q2_0: groups_of(m, KIND_Q2_0, first, count); return 1;
    case QE_TQ2_0: groups_of(m, KIND_TQ2_0, first, count); return 1;
    case QE_Q5_0: groups_of(m, KIND_Q5_0, first, count); return 1;
    case QE_IQ4_NL: groups_of(m, KIND_IQ4_NL, first, count); return 1;
    case QE_IQ4_XS: groups_of(m, KIND_IQ4_XS, first, count); return 1;
    case QE_MXFP4: groups_of(m, KIND_MXFP4, first, count); return 1;
    case QE_Q4_1: groups_of(m, KIND_Q4_1, first, count); return 1;
    case QE_Q5_1: groups_of(m, KIND_Q5_1, first, count); return 1;
    case QE_Q4_K: groups_of(m, KIND_Q4_K, first, count); return 1;
    case QE_Q5_K: groups_of(m, KIND_Q5_K, first, count); return 1;
    case QE_Q3_K: groups_of(m, KIND_Q3_K, first, count); return 1;
    case QE_Q6_K: groups_of(m, KIND_Q6_K, first, count); return 1;
    case QE_Q2_K: groups_of(m, KIND_Q2_K, first, count); return 1;
    case QE_A2: groups_of(m, KIND_A2, first, count); return 1;
    case QE_A3: groups_of(m, KIND_A3, first, count); return 1;
    case QE_A4: groups_of(m, KIND_A4, first, count); return 1;
    case QE_A5: groups_of(m, KIND_A5, first, count); return 1;
    case QE_A6: groups_of(m, KIND_A6, first, count); return 1;
    }
    return 0;
}

#if GROUPS == 1
/* A key tile of whole blocks has the bytes of a q8_0 group. */
INLINE void score_heads(const uint8_t *w, uint32_t blocks, const qe_act *act, size_t head,
                        int heads, float *scores, size_t stride)
{
    const kind k = KIND_Q8_0;
    const size_t row = act->stride / 32;
    const float *d = act->d + head * row;
    const int16_t *s = act->s + 2 * head * row;
    vf acc[NT][R];
    memset(acc, 0, sizeof acc);
    for (uint32_t b = 0; b < blocks; b++, w += 544) {
        vi isum[NT][REGS];
        scales of;
        const block at = {{w + 32}, {&of}};
        read_scales(&of, w, k, 0);
        block_sums(isum, &at, k, 0, R, act->q + head * act->stride + 32 * b, act->stride,
                   s + 2 * b, 2 * row, heads);
        for (int j = 0; j < heads; j++)
            for (int r = 0; r < R; r++)
                acc[j][r] = step(acc[j][r], k, &of, r, isum[j][r], d[j * row + b],
                                 s + 2 * (j * row + b));
    }
    for (int j = 0; j < heads; j++)
        memcpy(scores + j * stride, acc[j], sizeof acc[j]);
}
#endif
