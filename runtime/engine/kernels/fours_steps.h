/* fours_steps.h - how four rows go on by one block, for each step of SPEC 2.5. Included by
 * fours.h, which says what a set defines before it. Levels are summed as they are stored: of q
 * less its zero point z, the sum of products by x is that of q by x less z times x's sum. */

/* A block of columns: what is the same for all rows. */
typedef struct {
    size_t head, levels; /* where in a group */
    const int16_t *s;    /* the activations' sums, by halves */
    int32_t xsum;        /* of both */
    float dx, dxs;       /* their scale, and that times their sum: for QE_STEP_AFFINE */
    uint32_t i;          /* number in its period */
    columns c;
} block_at;

INLINE int32_t zero_point(const qe_format *f)
{
    if (f->step == QE_STEP_AFFINE || f->step == QE_STEP_HALVES_MIN || f->bits == 8)
        return 0;
    return f->bits > 2 ? 1 << (f->bits - 1) : 1;
}

/* acc[r] = acc[r] + (scale r * d) * isum[r] */
INLINE void add_scaled(float acc[4], const uint8_t *scales, float d, const int32_t isum[4])
{
    for (int r = 0; r < 4; r++)
        acc[r] = add_product(acc[r], half_times(scales + 2 * r, d), isum[r]);
}

APART void sums_q8_apart(const uint8_t *w, const columns *c, int32_t isum[4])
{
    sums_q8(w, 16, 8, c, isum);
}

INLINE void scaled_block(float acc[4], const uint8_t *w, const block_at *a, const qe_format *f,
                         int any)
{
    const int32_t less = zero_point(f) * a->xsum;
    int32_t isum[4];
    if (f->bits == 8 && !any)
        sums_q8(w + a->levels, 16, 8, &a->c, isum);
    else if (f->bits == 8 && !FOURS_HOT) /* where it has no code of its own */
        sums_q8_apart(w + a->levels, &a->c, isum);
    else
        sums(w + a->levels, f->bits, any, &a->c, isum);
    for (int r = 0; r < 4; r++)
        isum[r] -= less;
    add_scaled(acc, w + a->head, a->dx, isum);
}

INLINE void row_block(float acc[4], const uint8_t *w, const block_at *a, const qe_format *f,
                      int any)
{
    const int32_t one = 128 >> f->bits;
    const uint8_t *head = w + a->head;
    int32_t isum[4];
    sums(w + a->levels, f->bits, any, &a->c, isum);
    __asm__("" : "+r"(head) : "r"(isum[0])); /* or they would be loaded before, and spilled */
    const uint32_t scales = word_at(head), zeros = word_at(head + 4) & 0x7F7F7F7F;
    for (int r = 0; r < 4; r++) {
        const int32_t s = scales >> 8 * r & 255, z = zeros >> 8 * r & 255;
        acc[r] = add_product(acc[r], a->dx, s * (isum[r] * one - z * a->xsum));
    }
}

INLINE void affine_block(float acc[4], const uint8_t *w, const block_at *a, const qe_format *f,
                         int any)
{
    const uint8_t *head = w + a->head;
    int32_t isum[4];
    sums(w + a->levels, f->bits, any, &a->c, isum);
    for (int r = 0; r < 4; r++, head += 2) {
        float scale, least;
        if (f->type == QE_Q4_1 || f->type == QE_Q5_1) {
            scale = half_times(head, a->dx);
            least = half_times(head + 8, a->dxs);
        } else {
            const uint8_t low = w[a->head + 16 + 4 * a->i + r],
                          high = w[a->head + 48 + 4 * (a->i / 2) + r];
            const int32_t n = low >> 6 | (high >> 4 * (a->i % 2) & 15) << 2;
            scale = product(half_at(head), low & 63) * a->dx;
            least = -(product(half_at(head + 8), n) * a->dxs);
        }
        acc[r] = acc[r] + add_product(least, scale, isum[r]);
    }
}

/* Integer scales of half h of row r, and of its minimum. */
INLINE int32_t half_scale(const uint8_t *head, const block_at *a, uint32_t type, uint32_t h,
                          uint32_t r)
{
    const uint32_t i = a->i;
    if (type == QE_Q6_K)
        return (int8_t)head[8 + 8 * i + 4 * h + r];
    if (type == QE_Q2_K)
        return head[16 + 8 * i + 4 * h + r];
    return (head[8 + 4 * i + r] >> 4 * h & 15) +
           (head[40 + 4 * (i / 2) + r] >> (4 * (i % 2) + 2 * h) & 3) * 16 - 32;
}

INLINE void halves_block(float acc[4], const uint8_t *w, const block_at *a, const qe_format *f)
{
    const uint8_t *head = w + a->head;
    const int32_t zero = zero_point(f);
    int32_t isum[8];
    sums_halves(w + a->levels, f->bits, &a->c, isum);
    for (uint32_t r = 0; r < 4; r++) {
        const float scale = half_times(head + 2 * r, a->dx);
        const int32_t s0 = half_scale(head, a, f->type, 0, r),
                      s1 = half_scale(head, a, f->type, 1, r);
        if (f->type == QE_Q2_K) {
            const float less = product(half_times(head + 8 + 2 * r, a->dx),
                                       (s0 >> 4) * a->s[0] + (s1 >> 4) * a->s[1]);
            acc[r] = acc[r] +
                     add_product(-less, scale, (s0 & 15) * isum[r] + (s1 & 15) * isum[4 + r]);
        } else {
            acc[r] = add_product(acc[r], scale,
                                 s0 * (isum[r] - zero * a->s[0]) +
                                     s1 * (isum[4 + r] - zero * a->s[1]));
        }
    }
}

/* Four rows of a group that begins at w. any: of a type that is not known when this is
 * compiled. */
INLINE void add_block(float acc[4], const uint8_t *w, const block_at *a, const qe_format *f,
                      int any)
{
    switch (f->step) {
    case QE_STEP_SCALED: scaled_block(acc, w, a, f, any); break;
    case QE_STEP_AFFINE: affine_block(acc, w, a, f, any); break;
    case QE_STEP_ROW: row_block(acc, w, a, f, any); break;
    default: halves_block(acc, w, a, f);
    }
}

APART void add_any_block(float acc[4], const uint8_t *w, const block_at *a, const qe_format *f)
{
    add_block(acc, w, a, f, 1);
}
