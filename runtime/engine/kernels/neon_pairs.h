/* neon_pairs.h - sums of products without SDOT: bytes are multiplied to int16 pairs of columns.
 * Included after neon_levels.h by a set that has
 *   spread, spread_of(q): four columns of x in every lane, for four such groups
 *   pairs, multiply(w, x), multiply_add(p, w, x): products of rows 0, 1 (low) and 2, 3 (high)
 *   eight_groups(w, x): the sum of eight of them
 *   sums_of(p): their sums by rows, of which two fit int16
 *   joined(a, b): neighbours added, a's first */

/* The sums of four rows over `groups` groups of four columns, at most 8, of levels up to `most`
 * by size: as many products go to int16 as fit whatever comes. */
INLINE int32x4_t dot(int most, const int8x16_t *w, const spread *x, int groups)
{
    const int fit = 32767 / (most * 127), run = fit >= groups ? groups : fit >= 4 ? 4 : 2;
    pairs p[4];
#pragma GCC unroll 4
    for (int i = 0; i < groups / run; i++) {
        if (run == 8) {
            p[i] = eight_groups(w, x);
            continue;
        }
        p[i] = multiply(w[run * i], x[run * i / 4].four[run * i % 4]);
#pragma GCC unroll 8
        for (int g = run * i + 1; g < run * i + run; g++)
            p[i] = multiply_add(p[i], w[g], x[g / 4].four[g % 4]);
    }
    if (fit >= 2 * groups)
        return sums_of(p[0]);
    int32x4_t a = vpaddlq_s16(p[0].low), b = vpaddlq_s16(p[0].high);
#pragma GCC unroll 4
    for (int i = 1; i < groups / run; i++) {
        a = vpadalq_s16(a, p[i].low);
        b = vpadalq_s16(b, p[i].high);
    }
    return joined(a, b);
}

/* The largest level by size as row_of_kind has them: without zero points. */
INLINE int most_of_kind(kind k)
{
    return k.type == QE_MXFP4            ? 12
           : k.type == QE_Q1_0           ? 1
           : k.bits == 8 || has_table(k) ? 128
                                         : (1 << k.bits) - 1;
}

INLINE void block_sums(kind k, vb table, const uint8_t *w, const int8_t *q,
                       const int32_t start[2], int32x4_t isum[2][4])
{
    const int most = most_of_kind(k);
    const spread x[2] = {spread_of(q), spread_of(q + 16)};
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        planes p;
        int8x16_t v[8];
        load_quarter(w, k.bits, r, &p);
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++)
            v[g] = weights_at(k, table, &p, g);
        if (in_halves(k.step)) {
            isum[0][r] = dot(most, v, x, 4);
            isum[1][r] = dot(most, v + 4, x + 1, 4);
        } else {
            isum[0][r] = dot(most, v, x, 8);
        }
        for (int h = 0; h < 1 + in_halves(k.step) && k.zero; h++)
            isum[h][r] = vaddq_s32(isum[h][r], vdupq_n_s32(start[h]));
    }
}
