/* formats.c - see formats.h. The definition of every type's bytes: what reads them faster must
 * find the same numbers. */
#include "formats.h"

static const qe_format formats[] = {
    {QE_Q1_0, 1, 4, 2, 1, 0, QE_STEP_SCALED},   {QE_Q2_0, 2, 2, 2, 1, 0, QE_STEP_SCALED},
    {QE_TQ2_0, 2, 8, 2, 1, 0, QE_STEP_SCALED},  {QE_Q4_0, 4, 1, 2, 1, 0, QE_STEP_SCALED},
    {QE_Q5_0, 5, 1, 2, 1, 0, QE_STEP_SCALED},   {QE_Q8_0, 8, 1, 2, 1, 0, QE_STEP_SCALED},
    {QE_IQ4_NL, 4, 1, 2, 1, 0, QE_STEP_SCALED}, {QE_IQ4_XS, 4, 8, 8, 1, 0, QE_STEP_SCALED},
    {QE_MXFP4, 4, 1, 1, 0, 0, QE_STEP_SCALED},  {QE_Q4_1, 4, 1, 4, 2, 0, QE_STEP_AFFINE},
    {QE_Q5_1, 5, 1, 4, 2, 0, QE_STEP_AFFINE},   {QE_Q4_K, 4, 8, 16, 2, 0, QE_STEP_AFFINE},
    {QE_Q5_K, 5, 8, 16, 2, 0, QE_STEP_AFFINE},  {QE_Q3_K, 3, 8, 14, 1, 0, QE_STEP_HALVES},
    {QE_Q6_K, 6, 8, 18, 1, 0, QE_STEP_HALVES},  {QE_Q2_K, 2, 8, 20, 2, 0, QE_STEP_HALVES_MIN},
    {QE_A2, 2, 1, 2, 0, 4, QE_STEP_ROW},        {QE_A3, 3, 1, 2, 0, 4, QE_STEP_ROW},
    {QE_A4, 4, 1, 2, 0, 4, QE_STEP_ROW},        {QE_A5, 5, 1, 2, 0, 4, QE_STEP_ROW},
    {QE_A6, 6, 1, 2, 0, 4, QE_STEP_ROW},
};

const int8_t qe_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
const int8_t qe_mxfp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

const qe_format *qe_format_of(uint32_t type)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (formats[i].type == type)
            return &formats[i];
    return NULL;
}

uint64_t qe_tensor_bytes(uint32_t type, uint32_t layout, uint32_t rows, uint32_t columns)
{
    const qe_format *f = qe_format_of(type);
    if (!f) {
        const uint64_t unit = type == QE_F32 ? 4 : type == QE_F16 || type == QE_BF16 ? 2 : 0;
        return layout == 1 ? rows * unit * qe_ceil(columns, 32) : 0;
    }
    if ((layout != 1 && layout != 4 && layout != 16) ||
        (f->period > 1 && columns % (32u * f->period)))
        return 0;
    return qe_ceil(rows, layout) / layout * (uint64_t)qe_group_bytes(f, layout, columns);
}

/* q |= a plane's levels << shift; width: bits of each. Columns 4 n .. of a row are neighbours.
 */
static inline void read_plane(const uint8_t *p, uint32_t width, uint32_t shift, uint32_t R,
                              uint8_t q[32])
{
    const uint32_t each = 8 / width, mask = (1u << width) - 1; /* fours of columns in a byte */
    for (uint32_t four = 0; four < 8; four += each, p += 4 * R)
        for (uint32_t n = 0; n < each; n++) {
            /* of nibbles, the high ones are columns 16 .. 31 */
            uint8_t *to = q + 4 * (width == 4 ? four / 2 + 4 * n : four + n);
            for (uint32_t k = 0; k < 4; k++)
                to[k] |= (uint8_t)((p[k] >> n * width & mask) << shift);
        }
}

void qe_levels_read(const uint8_t *p, uint32_t bits, uint32_t R, uint32_t r, uint8_t q[32])
{
    memset(q, 0, 32);
    p += 4 * r;
    switch (bits) {
    case 1: read_plane(p, 1, 0, R, q); return;
    case 2:
    case 3: read_plane(p, 2, 0, R, q); break;
    case 8: read_plane(p, 8, 0, R, q); return;
    default: read_plane(p, 4, 0, R, q);
    }
    switch (bits) {
    case 3: read_plane(p + 8 * R, 1, 2, R, q); return;
    case 5: read_plane(p + 16 * R, 1, 4, R, q); return;
    case 6: read_plane(p + 16 * R, 2, 4, R, q); return;
    }
}

/* Scale and minimum of block i of a Q4_K or Q5_K super-block: six bits each. */
static void affine_k(const uint8_t *head, uint32_t R, uint32_t r, uint32_t i, qe_block *block)
{
    const uint8_t a = head[4 * R + i * R + r], b = head[12 * R + i / 2 * R + r];
    const uint32_t least = a >> 6 | (b >> 4 * (i % 2) & 15u) << 2;
    block->d = block->d * (float)(a & 63);
    block->m = -(block->m * (float)least);
}

void qe_block_read(const qe_format *f, const uint8_t *w, uint32_t R, uint32_t r, uint32_t b,
                   qe_block *block)
{
    const uint32_t i = b % f->period, levels = 4u * f->bits * R;
    const uint8_t *head =
        w + f->row_head * R + b / f->period * (f->head * R + f->period * levels);
    uint8_t q[32];
    int32_t zero = 0;
    qe_levels_read(head + f->head * R + i * levels, f->bits, R, r, q);
    block->d = f->type == QE_MXFP4      ? qe_mxfp4_scale(head[r])
               : f->step == QE_STEP_ROW ? qe_float(qe_load32(w + 4 * r))
                                        : qe_half_to_float(qe_load16(head + 2 * r));
    block->m = f->step == QE_STEP_AFFINE || f->step == QE_STEP_HALVES_MIN
                   ? qe_half_to_float(qe_load16(head + 2 * R + 2 * r))
                   : 0.0f;
    block->s[0] = block->s[1] = block->n[0] = block->n[1] = 0;
    switch (f->type) {
    case QE_Q1_0:
        for (uint32_t c = 0; c < 32; c++)
            q[c] = (uint8_t)(2 * q[c]);
        zero = 1;
        break;
    case QE_Q2_0:
    case QE_TQ2_0: zero = 1; break;
    case QE_Q4_0: zero = 8; break;
    case QE_Q5_0: zero = 16; break;
    case QE_Q4_K:
    case QE_Q5_K: affine_k(head, R, r, i, block); break;
    case QE_IQ4_XS:
        block->d = block->d * (float)((head[(2 + i / 2) * R + r] >> 4 * (i % 2) & 15) +
                                      (head[(6 + i / 4) * R + r] >> 2 * (i % 4) & 3) * 16 - 32);
        break;
    case QE_Q6_K:
        zero = 32;
        for (uint32_t h = 0; h < 2; h++)
            block->s[h] = (int8_t)head[(2 + 2 * i + h) * R + r];
        break;
    case QE_Q3_K:
        zero = 4;
        for (uint32_t h = 0; h < 2; h++)
            block->s[h] = (head[(2 + i) * R + r] >> 4 * h & 15) +
                          (head[(10 + i / 2) * R + r] >> (4 * (i % 2) + 2 * h) & 3) * 16 - 32;
        break;
    case QE_Q2_K:
        for (uint32_t h = 0; h < 2; h++) {
            block->s[h] = head[(4 + 2 * i + h) * R + r] & 15;
            block->n[h] = head[(4 + 2 * i + h) * R + r] >> 4;
        }
        break;
    }
    if (f->step == QE_STEP_ROW) {
        block->s[0] = head[r];
        zero = head[R + r] & 127;
        for (uint32_t c = 0; c < 32; c++)
            q[c] = (uint8_t)(q[c] << (7 - f->bits));
    }
    if (f->type == QE_IQ4_NL || f->type == QE_IQ4_XS || f->type == QE_MXFP4) {
        const int8_t *table = f->type == QE_MXFP4 ? qe_mxfp4_levels : qe_iq4_levels;
        for (uint32_t c = 0; c < 32; c++)
            block->q[c] = table[q[c]];
        return;
    }
    for (uint32_t c = 0; c < 32; c++)
        block->q[c] = (int8_t)(uint8_t)(q[c] - (uint32_t)zero);
}

float qe_block_value(const qe_format *f, const qe_block *block, uint32_t i)
{
    const int32_t q = block->q[i], h = i / 16;
    switch (f->step) {
    case QE_STEP_AFFINE: return block->d * (float)q + block->m;
    case QE_STEP_HALVES: return block->d * (float)(block->s[h] * q);
    case QE_STEP_HALVES_MIN:
        return block->d * (float)(block->s[h] * q) - block->m * (float)block->n[h];
    case QE_STEP_ROW: return block->d * (float)(block->s[0] * q);
    }
    return block->d * (float)q;
}
