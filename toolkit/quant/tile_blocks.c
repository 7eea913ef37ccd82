/* tile_blocks.c - blocks of GGML's types, as GGUF files have them, to heads and levels. The
 * layouts are ggml's (ggml-common.h, block_q4_0 to block_q2_0). */
#include "tiles.h"

/* Where a block's parts lie, in bytes; d and m are f16 unless the type is MXFP4. */
typedef struct {
    uint8_t type, d, m, bytes; /* m: 255 for none */
} place;

static const place places[] = {
    {QE_Q4_0, 0, 255, 18},    {QE_Q4_1, 0, 2, 20},     {QE_Q5_0, 0, 255, 22},
    {QE_Q5_1, 0, 2, 24},      {QE_Q8_0, 0, 255, 34},   {QE_Q2_K, 80, 82, 84},
    {QE_Q3_K, 108, 255, 110}, {QE_Q4_K, 0, 2, 144},    {QE_Q5_K, 0, 2, 176},
    {QE_Q6_K, 208, 255, 210}, {QE_IQ4_NL, 0, 255, 18}, {QE_IQ4_XS, 0, 255, 136},
    {QT_TQ1_0, 52, 255, 54},  {QE_TQ2_0, 64, 255, 66}, {QE_MXFP4, 0, 255, 17},
    {QE_Q1_0, 0, 255, 18},    {QE_Q2_0, 0, 255, 18},
};

static const place *place_of(uint32_t type)
{
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (places[i].type == type)
            return &places[i];
    return NULL;
}

size_t qt_period_bytes(uint32_t from, const qe_format *f)
{
    const place *at = place_of(from);
    return at ? at->bytes : f->head + 4u * f->bits;
}

static void nibbles(const uint8_t *in, uint32_t bytes, uint8_t *q) /* low ones first */
{
    for (uint32_t j = 0; j < bytes; j++) {
        q[j] = in[j] & 15;
        q[j + bytes] = in[j] >> 4;
    }
}

static void fifth_bits(const uint8_t *in, uint8_t *q)
{
    for (uint32_t j = 0; j < 32; j++)
        q[j] |= (uint8_t)((in[j / 8] >> j % 8 & 1) << 4);
}

/* 128 columns, 32 a pair of bits. */
static void crumbs(const uint8_t *in, uint8_t *q)
{
    for (uint32_t n = 0; n < 4; n++)
        for (uint32_t j = 0; j < 32; j++)
            q[32 * n + j] = in[j] >> 2 * n & 3;
}

/* The twelve bytes of eight scales and minima, six bits each, to what SPEC 3.5 has. */
static void affine_scales(const uint8_t *in, uint8_t *head)
{
    for (uint32_t j = 0; j < 8; j++) {
        const uint32_t s = j < 4 ? in[j] & 63u : (in[j + 4] & 15u) | (in[j - 4] >> 6) << 4;
        const uint32_t m =
            j < 4 ? in[j + 4] & 63u : (uint32_t)in[j + 4] >> 4 | (in[j] >> 6) << 4;
        head[j] = (uint8_t)(s | (m & 3) << 6);
        if (j % 2)
            head[8 + j / 2] |= (uint8_t)(m >> 2 << 4);
        else
            head[8 + j / 2] = (uint8_t)(m >> 2);
    }
}

static void take_q4_k(const uint8_t *in, uint8_t *head, uint8_t *q)
{
    affine_scales(in + 4, head + 4);
    for (uint32_t c = 0; c < 4; c++)
        nibbles(in + 16 + 32 * c, 32, q + 64 * c);
}

static void take_q5_k(const uint8_t *in, uint8_t *head, uint8_t *q)
{
    affine_scales(in + 4, head + 4);
    for (uint32_t c = 0; c < 4; c++)
        nibbles(in + 48 + 32 * c, 32, q + 64 * c);
    for (uint32_t i = 0; i < 256; i++)
        q[i] |= (uint8_t)((in[16 + i % 32] >> i / 32 & 1) << 4);
}

static void take_q6_k(const uint8_t *in, uint8_t *head, uint8_t *q)
{
    memcpy(head + 2, in + 192, 16);
    for (uint32_t h = 0; h < 2; h++) {
        uint8_t upper[128];
        nibbles(in + 64 * h, 64, q + 128 * h);
        crumbs(in + 128 + 32 * h, upper);
        for (uint32_t i = 0; i < 128; i++)
            q[128 * h + i] |= (uint8_t)(upper[i] << 4);
    }
}

static void take_q3_k(const uint8_t *in, uint8_t *head, uint8_t *q)
{
    const uint8_t *scales = in + 96;
    memset(head + 2, 0, 12);
    for (uint32_t j = 0; j < 16; j++) {
        const uint32_t low = j < 8 ? scales[j] & 15u : scales[j - 8] >> 4,
                       high = scales[8 + j % 4] >> 2 * (j / 4) & 3u;
        head[2 + j / 2] |= (uint8_t)(low << 4 * (j % 2));
        head[10 + j / 4] |= (uint8_t)(high << 2 * (j % 4));
    }
    crumbs(in + 32, q);
    crumbs(in + 64, q + 128);
    for (uint32_t i = 0; i < 256; i++)
        q[i] |= (uint8_t)((in[i % 32] >> i / 32 & 1) << 2);
}

static void take_q2_k(const uint8_t *in, uint8_t *head, uint8_t *q)
{
    memcpy(head + 4, in, 16);
    crumbs(in + 16, q);
    crumbs(in + 48, q + 128);
}

/* Five powers of three in a byte, as fractions of 256. */
static void take_tq1_0(const uint8_t *in, uint8_t *q)
{
    static const struct {
        uint8_t at, bytes, trits;
    } parts[] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
    for (uint32_t p = 0; p < 3; p++) {
        uint32_t power = 1;
        for (uint32_t n = 0; n < parts[p].trits; n++, power *= 3)
            for (uint32_t m = 0; m < parts[p].bytes; m++)
                *q++ = (uint8_t)((in[parts[p].at + m] * power & 255) * 3 >> 8);
    }
}

static int finite(const uint8_t *half)
{
    return (half[1] & 0x7C) != 0x7C;
}

int qt_take_period(const uint8_t *in, uint32_t from, const qe_format *f, uint8_t *head,
                   uint8_t *q)
{
    const place *at = place_of(from);
    if (!at) { /* the engine's own */
        memcpy(head, in, f->head);
        qe_levels_read(in + f->head, f->bits, 1, 0, q);
        return 1;
    }
    if (f->halves)
        memcpy(head, in + at->d, 2);
    if (f->halves == 2)
        memcpy(head + 2, in + at->m, 2);
    switch (from) {
    case QE_Q4_0:
    case QE_IQ4_NL: nibbles(in + 2, 16, q); break;
    case QE_Q4_1: nibbles(in + 4, 16, q); break;
    case QE_Q5_0:
        nibbles(in + 6, 16, q);
        fifth_bits(in + 2, q);
        break;
    case QE_Q5_1:
        nibbles(in + 8, 16, q);
        fifth_bits(in + 4, q);
        break;
    case QE_Q8_0: memcpy(q, in + 2, 32); break;
    case QE_Q2_K: take_q2_k(in, head, q); break;
    case QE_Q3_K: take_q3_k(in, head, q); break;
    case QE_Q4_K: take_q4_k(in, head, q); break;
    case QE_Q5_K: take_q5_k(in, head, q); break;
    case QE_Q6_K: take_q6_k(in, head, q); break;
    case QE_IQ4_XS:
        memcpy(head + 2, in + 4, 4); /* low bits of the scales, then the high ones */
        memcpy(head + 6, in + 2, 2);
        for (uint32_t b = 0; b < 8; b++)
            nibbles(in + 8 + 16 * b, 16, q + 32 * b);
        break;
    case QT_TQ1_0: take_tq1_0(in, q); break;
    case QE_TQ2_0:
        crumbs(in, q);
        crumbs(in + 32, q + 128);
        break;
    case QE_MXFP4:
        if (in[0] > 252) /* 2^125 * 12 is not finite */
            return 0;
        head[0] = in[0];
        nibbles(in + 1, 16, q);
        break;
    case QE_Q1_0:
        for (uint32_t j = 0; j < 128; j++)
            q[j] = in[2 + j / 8] >> j % 8 & 1;
        break;
    case QE_Q2_0:
        for (uint32_t j = 0; j < 64; j++)
            q[j] = in[2 + j / 4] >> 2 * (j % 4) & 3;
        break;
    }
    return (!f->halves || finite(head)) && (f->halves < 2 || finite(head + 2));
}
