/* neon_panel.h - groups of 16 rows laid out for tiles of many tokens: every type becomes signed
 * bytes and 32-bit scales, once for all tokens. Included after neon_levels.h by a set that has
 *   keep_weights(w, half, v): eight rows of a block to a panel, in the order of its tile;
 * v[i][g] has rows 8 * half + 4 * i .. by columns 4 * g .. keep_scales(to, quarter, rows): four
 * rows' of them, of any type of 32 bits, to QE_LANES keep_row_scales(panel, scale, zero, bits):
 * of QE_STEP_ROW QE_OWN_LEVELS: 1 where the own types' levels are kept less half of their
 * range, 0 where the weights are, which have up to eight bits */

/* A block of columns. scale has d, then m or the scales of both halves, then the rest. */
typedef struct {
    int8_t w[512];
    float d[QE_LANES], m[QE_LANES];
    int32_t s[2][QE_LANES], n[2][QE_LANES];
} panel;

INLINE void keep_weights(int8_t *w, int half, int8x16_t v[2][8]);
INLINE void keep_scales(void *to, int quarter, int32x4_t rows);
INLINE void keep_row_scales(panel *p, vb scale, vb zero, int bits);

/* Bytes of four rows each, four times: quarter 0 .. 3. */
INLINE int8x16_t four_times(vb rows, int quarter)
{
    const uint8x16_t v = (uint8x16_t)rows;
    const uint8x16x2_t twice = vzipq_u8(v, v);
    const uint8x16_t part = twice.val[quarter / 2];
    return (int8x16_t)vzipq_u8(part, part).val[quarter % 2];
}

INLINE void unpack_block(kind k, const uint8_t *head, const uint8_t *w, uint32_t i, panel *p)
{
    const vb table = table_of(k);
    vb zero = {0};
    if (k.step == QE_STEP_ROW)
        zero = bytes_at(head + 16) & 127;
    for (int half = 0; half < 2; half++) {
        planes in[2];
        int8x16_t v[2][8];
        load_planes(w, k.bits, half, in);
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++) {
            const vb own = (vb)four_times(zero, 2 * half + r);
#pragma GCC unroll 8
            for (int g = 0; g < 8; g++) {
                vb u = (vb)weights_at(k, table, &in[r], g);
                if (k.step != QE_STEP_ROW)
                    u = k.zero ? u - (uint8_t)k.zero : u;
                else if (QE_OWN_LEVELS)
                    u = u - (uint8_t)(1 << (k.bits - 1));
                else
                    u = (u << (7 - k.bits)) - own;
                v[r][g] = (int8x16_t)u;
            }
        }
        keep_weights(p->w, half, v);
    }
    if (k.step == QE_STEP_ROW) {
        keep_row_scales(p, bytes_at(head), zero, k.bits);
        return;
    }
    scales s;
    load_scales(k, head, i, &s);
    for (int r = 0; r < 4; r++) {
        keep_scales(p->d, r, (int32x4_t)s.d[r]);
        if (k.step == QE_STEP_AFFINE || k.step == QE_STEP_HALVES_MIN)
            keep_scales(p->m, r, (int32x4_t)(takes_off(k) ? vnegq_f32(s.m[r]) : s.m[r]));
        for (int h = 0; h < 2; h++) {
            if (in_halves(k.step))
                keep_scales(p->s[h], r, s.s[h][r]);
            if (k.step == QE_STEP_HALVES_MIN)
                keep_scales(p->n[h], r, s.n[h][r]);
        }
    }
}

/* Whole periods of a group, `count` blocks of them, from w on. */
INLINE void unpack_kind(kind k, const qe_format *f, const uint8_t *w, uint32_t count, panel *p)
{
    const uint32_t bytes = 64 * (uint32_t)k.bits, period = period_of(k, f);
    for (uint32_t b = 0; b < count; b += period) {
        const uint8_t *head = w;
        w += 16u * f->head;
        for (uint32_t i = 0; i < period; i++, w += bytes, p++)
            unpack_block(k, head, w, i, p);
    }
}

static void unpack(const qe_format *f, const uint8_t *w, uint32_t count, panel *p)
{
    switch (f->type == QE_TQ2_0 ? QE_Q2_0 : f->type) {
#define UNPACK(type, bits, step, zero)                                                         \
    case type: unpack_kind((kind){type, bits, step, zero}, f, w, count, p); break;
        QE_EACH_KIND(UNPACK)
#undef UNPACK
    }
}
