/* neon_rows.h - one row of activations by a group of 16 rows of any type: the levels are spread
 * in registers, and what is the same in all four columns of a level goes by the sums of
 * activations. Included after neon_levels.h by a set that has
 *   block_sums(k, table, w, q, start, isum): the sums of products of a block's levels, from
 *     start[0] on; of halves isum[1], from start[1] on, has the second 16 columns */

/* acc goes on by a block: SPEC 2.5. s has the two sums of activations. */
INLINE void add_block(kind k, float32x4_t acc[4], const scales *w, int32x4_t isum[2][4],
                      float dx, const int16_t *s)
{
    const float least = k.step == QE_STEP_AFFINE ? dx * (float)qe_block_sum(s) : 0.0f;
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        int32x4_t sum = isum[0][r];
        if (in_halves(k.step))
            sum = vmlaq_s32(vmulq_s32(sum, w->s[0][r]), isum[1][r], w->s[1][r]);
        float32x4_t term = vmulq_f32(vmulq_n_f32(w->d[r], dx), vcvtq_f32_s32(sum));
        if (k.step == QE_STEP_AFFINE && takes_off(k))
            term = vsubq_f32(term, vmulq_n_f32(w->m[r], least));
        else if (k.step == QE_STEP_AFFINE)
            term = vaddq_f32(term, vmulq_n_f32(w->m[r], least));
        if (k.step == QE_STEP_HALVES_MIN) {
            const int32x4_t n = vmlaq_n_s32(vmulq_n_s32(w->n[0][r], s[0]), w->n[1][r], s[1]);
            term = vsubq_f32(term, vmulq_f32(vmulq_n_f32(w->m[r], dx), vcvtq_f32_s32(n)));
        }
        add_to(&acc[r], term);
    }
}

/* Of the engine's own types: s * isum as (s << shift) * sum of levels - (s * zero) * sum of
 * activations, the same integer. */
INLINE void add_own_block(kind k, float32x4_t acc[4], const uint8_t *head,
                          const int32x4_t isum[4], float dx, const int16_t *s)
{
    const uint8x16_t scale = vld1q_u8(head),
                     zero = vandq_u8(vld1q_u8(head + 16), vdupq_n_u8(127)),
                     unit = vdupq_n_u8((uint8_t)(1 << (7 - k.bits)));
    const int16_t sum = (int16_t)qe_block_sum(s);
    const uint16x8_t by[2] = {vmull_u8(vget_low_u8(scale), vget_low_u8(unit)),
                              wide_high(scale, unit)},
                     off[2] = {vmull_u8(vget_low_u8(scale), vget_low_u8(zero)),
                               wide_high(scale, zero)};
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        const int16x8_t a = vreinterpretq_s16_u16(by[r / 2]),
                        z = vreinterpretq_s16_u16(off[r / 2]);
        const int32x4_t product = vmulq_s32(isum[r], r % 2 ? vmovl_s16(vget_high_s16(a))
                                                           : vmovl_s16(vget_low_s16(a)));
        const int32x4_t rest =
            vmlsl_n_s16(product, r % 2 ? vget_high_s16(z) : vget_low_s16(z), sum);
        add_to(&acc[r], vmulq_n_f32(vcvtq_f32_s32(rest), dx));
    }
}

INLINE void row_of_kind(kind k, const qe_format *f, const uint8_t *w, uint32_t blocks,
                        const qe_act *act, size_t token, float *out)
{
    const size_t row = act->stride / 32;
    const int8_t *q = act->q + token * act->stride;
    const float *d = act->d + token * row;
    const int16_t *s = act->s + 2 * token * row;
    const uint32_t bytes = 64 * (uint32_t)k.bits, period = period_of(k, f);
    const uint8_t *row_scales = w;
    const vb table = table_of(k);
    float32x4_t acc[4];
    for (int r = 0; r < 4; r++)
        acc[r] = vdupq_n_f32(0.0f);
    w += 16 * f->row_head;
    for (uint32_t b = 0; b < blocks; b += period) {
        const uint8_t *head = w;
        w += 16u * f->head;
        for (uint32_t i = 0; i < period; i++, w += bytes, q += 32, d++, s += 2) {
            int32_t start[2] = {0, 0};
            int32x4_t isum[2][4];
            if (k.zero && in_halves(k.step)) {
                start[0] = -k.zero * s[0];
                start[1] = -k.zero * s[1];
            } else if (k.zero) {
                start[0] = -k.zero * qe_block_sum(s);
            }
            block_sums(k, table, w, q, start, isum);
            if (k.step == QE_STEP_ROW) {
                add_own_block(k, acc, head, isum[0], *d, s);
            } else {
                scales by;
                load_scales(k, head, i, &by);
                add_block(k, acc, &by, isum, *d, s);
            }
        }
    }
    for (int r = 0; r < 4; r++)
        vst1q_f32(out + 4 * r, acc[r]);
    if (k.step == QE_STEP_ROW)
        scale_rows(row_scales, 1, out, 0);
}

/* A group's 16 rows, at w, by one row of activations. */
static void row(const qe_format *f, const uint8_t *w, uint32_t blocks, const qe_act *act,
                size_t token, float *out)
{
    switch (f->type == QE_TQ2_0 ? QE_Q2_0 : f->type) {
#define ROW(type, bits, step, zero)                                                            \
    case type:                                                                                 \
        row_of_kind((kind){type, bits, step, zero}, f, w, blocks, act, token, out);            \
        break;
        QE_EACH_KIND(ROW)
#undef ROW
    }
}
