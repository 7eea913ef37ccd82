/* tile_floats.c - q4_0 and q8_0 of floats, as ggml's reference quantizers make them. Each loop
 * is over the 32 columns of a block, in a form that compilers turn into vectors of whatever
 * width the machine's baseline has; that is fast enough to be waited for by nobody: reading the
 * source takes longer. */
#include "tiles.h"

enum { BLOCK = 32, ABS = 0x7FFFFFFF, INF_BITS = 0x7F800000, HALF_INF = 0x7C00 };

typedef union {
    float f[BLOCK];
    int32_t i[BLOCK];
} values;

static float as_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t as_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* To the nearest f16, ties to even, as IEEE 754 has it; x is finite. */
static uint16_t to_half(float x)
{
    const uint32_t bits = as_bits(x), sign = bits >> 16 & 0x8000, size = bits & ABS;
    if (size >= 0x477FF000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | HALF_INF);
    if (size < 0x38800000) /* below 2^-14: adding 0.5 rounds to multiples of 2^-24 */
        return (uint16_t)(sign | (as_bits(as_float(size) + 0.5f) - 0x3F000000));
    return (uint16_t)(sign | ((size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13));
}

static void from_half(const uint8_t *in, values *v)
{
    uint16_t h[BLOCK];
    memcpy(h, in, sizeof h);
    for (int i = 0; i < BLOCK; i++) {
        const uint32_t bits = h[i];
        /* moving the exponent's bias by a product does subnormals too */
        const float size = as_float((bits & 0x7FFF) << 13) * 0x1p112f;
        const uint32_t not_finite = (bits & HALF_INF) == HALF_INF ? (uint32_t)INF_BITS : 0;
        v->i[i] = (int32_t)(as_bits(size) | (bits & 0x8000) << 16 | not_finite);
    }
}

static void from_brain(const uint8_t *in, values *v)
{
    uint16_t h[BLOCK];
    memcpy(h, in, sizeof h);
    for (int i = 0; i < BLOCK; i++)
        v->i[i] = (int32_t)((uint32_t)h[i] << 16);
}

/* Columns of the block as floats; what is missing of it is zero. */
static void take(const uint8_t *in, uint32_t columns, uint32_t from, values *v)
{
    uint8_t part[4 * BLOCK];
    if (columns < BLOCK) {
        memset(part, 0, sizeof part);
        memcpy(part, in, columns * (from == QE_F32 ? 4 : 2));
        in = part;
    }
    if (from == QE_F32)
        memcpy(v, in, sizeof *v);
    else if (from == QE_F16)
        from_half(in, v);
    else
        from_brain(in, v);
}

/* The bits of the largest |x|; at least INF_BITS where one is not finite. */
static int32_t largest_of(const values *v)
{
    int32_t top = 0;
    for (int i = 0; i < BLOCK; i++) {
        const int32_t size = v->i[i] & ABS;
        top = size > top ? size : top;
    }
    return top;
}

/* 1 / d as gguf-py takes it; 0 too where the quotient is not finite, and d of no weight. */
static float inverse(float d)
{
    const float id = d == 0 ? 0 : 1 / d;
    return (as_bits(id) & ABS) < INF_BITS ? id : 0;
}

static uint16_t to_q8_0(const values *v, int32_t top, uint8_t *q)
{
    const float d = as_float((uint32_t)top) / 127, id = inverse(d);
    int32_t n[BLOCK];
    for (int i = 0; i < BLOCK; i++) { /* halves away from zero */
        const float t = v->f[i] * id, size = as_float(as_bits(t) & ABS);
        const int32_t whole = (int32_t)size;
        const int32_t rounded = whole + (int32_t)(2 * (size - (float)whole));
        n[i] = t < 0 ? -rounded : rounded;
    }
    for (int i = 0; i < BLOCK; i++)
        q[i] = (uint8_t)n[i];
    return to_half(d);
}

static uint16_t to_q4_0(const values *v, int32_t top, uint8_t *q)
{
    int32_t above = 0, below = 0;
    for (int i = 0; i < BLOCK; i++) {
        above |= v->i[i] == top;
        below |= (v->i[i] & ABS) == top && v->i[i] < 0;
    }
    for (int i = 0; above && below; i++) /* the first of them tells the sign */
        if ((v->i[i] & ABS) == top) {
            above = v->i[i] >= 0;
            below = !above;
        }
    const float most = as_float((uint32_t)top), d = (below ? -most : most) / -8;
    const float id = inverse(d);
    for (int i = 0; i < BLOCK; i++) {
        const int32_t level = (int32_t)(v->f[i] * id + 8.5f);
        q[i] = (uint8_t)(level < 15 ? level : 15);
    }
    return to_half(d);
}

int qt_quantize(const uint8_t *in, uint32_t columns, uint32_t from, uint32_t to, uint8_t *head,
                uint8_t *levels)
{
    values v;
    take(in, columns, from, &v);
    const int32_t top = largest_of(&v);
    if (top >= INF_BITS)
        return 0;
    const uint16_t d = to == QE_Q4_0 ? to_q4_0(&v, top, levels) : to_q8_0(&v, top, levels);
    head[0] = (uint8_t)d;
    head[1] = (uint8_t)(d >> 8);
    return 1;
}
