/* search_store.c - see search_store.h. ggml's blocks: ggml-common.h of llama.cpp states them.
 */
#include "search_store.h"

#include <string.h>

const int8_t qs_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

uint16_t qs_to_half(float x)
{
    uint32_t bits;
    float sized;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    if (size >= 0x477FE000)
        return (uint16_t)(sign | 0x7BFF);
    if (size < 0x38800000) { /* below 2^-14: adding 0.5 rounds to multiples of 2^-24 */
        memcpy(&sized, &size, sizeof sized);
        sized += 0.5f;
        memcpy(&bits, &sized, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3F000000));
    }
    return (uint16_t)(sign | ((size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13));
}

float qs_from_half(uint16_t h)
{
    const uint32_t bits = (uint32_t)(h & 0x7FFF) << 13;
    float x;
    memcpy(&x, &bits, sizeof x);
    x *= 0x1p112f; /* the exponent's bias; subnormals too */
    return h & 0x8000 ? -x : x;
}

static void put16(uint8_t *out, uint16_t x)
{
    out[0] = (uint8_t)x;
    out[1] = (uint8_t)(x >> 8);
}

static uint16_t get16(const uint8_t *in)
{
    return (uint16_t)(in[0] | in[1] << 8);
}

int qs_bits(qs_kind kind)
{
    static const uint8_t bits[QS_KINDS] = {4, 4, 5, 5, 8, 4, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6};
    return bits[kind];
}

static int has_min(qs_kind kind)
{
    return kind == QS_Q4_1 || kind == QS_Q5_1;
}

size_t qs_plain_bytes(qs_kind kind)
{
    return 2 + (has_min(kind) ? 2 : 0) + 4 * (size_t)qs_bits(kind);
}

/* Low four bits of 32 levels: byte j has columns j and j + 16. */
static void put_nibbles(const uint8_t *levels, uint8_t *out)
{
    for (int j = 0; j < 16; j++)
        out[j] = (uint8_t)((levels[j] & 15) | (levels[j + 16] & 15) << 4);
}

static void get_nibbles(const uint8_t *in, uint8_t *levels)
{
    for (int j = 0; j < 16; j++) {
        levels[j] = in[j] & 15;
        levels[j + 16] = in[j] >> 4;
    }
}

void qs_put_plain(qs_kind kind, uint16_t d, uint16_t m, const uint8_t *levels, uint8_t *out)
{
    put16(out, d);
    out += 2;
    if (has_min(kind)) {
        put16(out, m);
        out += 2;
    }
    if (qs_bits(kind) == 8) {
        memcpy(out, levels, 32);
        return;
    }
    if (qs_bits(kind) == 5) { /* bit j of a word: the fifth bit of column j */
        memset(out, 0, 4);
        for (int j = 0; j < 32; j++)
            out[j / 8] |= (uint8_t)((levels[j] >> 4) << j % 8);
        out += 4;
    }
    put_nibbles(levels, out);
}

void qs_get_plain(qs_kind kind, const uint8_t *in, uint16_t *d, uint16_t *m, uint8_t *levels)
{
    *d = get16(in);
    in += 2;
    *m = 0;
    if (has_min(kind)) {
        *m = get16(in);
        in += 2;
    }
    if (qs_bits(kind) == 8) {
        memcpy(levels, in, 32);
        return;
    }
    get_nibbles(in + (qs_bits(kind) == 5 ? 4 : 0), levels);
    if (qs_bits(kind) == 5)
        for (int j = 0; j < 32; j++)
            levels[j] |= (uint8_t)((in[j / 8] >> j % 8 & 1) << 4);
}

size_t qs_super_bytes(qs_kind kind)
{
    static const uint8_t bytes[] = {84, 110, 144, 176, 210};
    return bytes[kind - QS_Q2_K];
}

/* The 6-bit scales and minima of q4_K and q5_K in 12 bytes: the last four have the low halves
 * of numbers 4 to 7, whose upper bits lie above numbers 0 to 3. */
static void put_12(const qs_super *b, uint8_t *out)
{
    for (int j = 0; j < 4; j++) {
        out[j] = (uint8_t)(b->scale[j] | b->scale[j + 4] >> 4 << 6);
        out[j + 4] = (uint8_t)(b->min[j] | b->min[j + 4] >> 4 << 6);
        out[j + 8] = (uint8_t)((b->scale[j + 4] & 15) | (b->min[j + 4] & 15) << 4);
    }
}

static void get_12(const uint8_t *in, qs_super *b)
{
    for (int j = 0; j < 4; j++) {
        b->scale[j] = in[j] & 63;
        b->min[j] = in[j + 4] & 63;
        b->scale[j + 4] = (int16_t)((in[j + 8] & 15) | in[j] >> 6 << 4);
        b->min[j + 4] = (int16_t)(in[j + 8] >> 4 | in[j + 4] >> 6 << 4);
    }
}

/* The 6-bit scales of q3_K, 32 more than they are: low halves of 0 to 7 and, above them, of 8
 * to 15, then the upper bits of j at 2 (j / 4) of byte 8 + j mod 4. */
static void put_signed_12(const qs_super *b, uint8_t *out)
{
    memset(out, 0, 12);
    for (int j = 0; j < 16; j++) {
        const int s = b->scale[j] + 32;
        out[j % 8] |= (uint8_t)((s & 15) << 4 * (j / 8));
        out[8 + j % 4] |= (uint8_t)(s >> 4 << 2 * (j / 4));
    }
}

static void get_signed_12(const uint8_t *in, qs_super *b)
{
    for (int j = 0; j < 16; j++) {
        const int low = in[j % 8] >> 4 * (j / 8) & 15, high = in[8 + j % 4] >> 2 * (j / 4) & 3;
        b->scale[j] = (int16_t)((low | high << 4) - 32);
    }
}

/* Two bits of each level, from bit shift on: half h of 128 columns has 32 bytes, column
 * 128 h + 32 k + l is bits 2 k of byte l. */
static void put_crumbs(const uint8_t *levels, int shift, uint8_t *out)
{
    memset(out, 0, 64);
    for (int i = 0; i < 256; i++)
        out[i / 128 * 32 + i % 32] |= (uint8_t)((levels[i] >> shift & 3) << i / 32 % 4 * 2);
}

static void get_crumbs(const uint8_t *in, int shift, uint8_t *levels)
{
    for (int i = 0; i < 256; i++)
        levels[i] |= (uint8_t)((in[i / 128 * 32 + i % 32] >> i / 32 % 4 * 2 & 3) << shift);
}

/* One bit of each level: column 32 k + l is bit k of byte l. */
static void put_bits(const uint8_t *levels, int shift, uint8_t *out)
{
    memset(out, 0, 32);
    for (int i = 0; i < 256; i++)
        out[i % 32] |= (uint8_t)((levels[i] >> shift & 1) << i / 32);
}

static void get_bits(const uint8_t *in, int shift, uint8_t *levels)
{
    for (int i = 0; i < 256; i++)
        levels[i] |= (uint8_t)((in[i % 32] >> i / 32 & 1) << shift);
}

/* The low four bits: of columns width c and on in low halves of bytes width / 2 c and on, in
 * the upper halves those width / 2 further; width 64 in q4_K and q5_K, 128 in q6_K. */
static void put_halves(const uint8_t *levels, int width, uint8_t *out)
{
    for (int c = 0; c < 256; c += width, levels += width)
        for (int i = 0; i < width / 2; i++)
            *out++ = (uint8_t)((levels[i] & 15) | (levels[i + width / 2] & 15) << 4);
}

static void get_halves(const uint8_t *in, int width, uint8_t *levels)
{
    for (int c = 0; c < 256; c += width, levels += width)
        for (int i = 0; i < width / 2; i++, in++) {
            levels[i] = *in & 15;
            levels[i + width / 2] = *in >> 4;
        }
}

void qs_put_super(qs_kind kind, const qs_super *b, uint8_t *out)
{
    switch (kind) {
    case QS_Q2_K:
        for (int j = 0; j < 16; j++)
            out[j] = (uint8_t)(b->scale[j] | b->min[j] << 4);
        put_crumbs(b->levels, 0, out + 16);
        put16(out + 80, b->d);
        put16(out + 82, b->dmin);
        break;
    case QS_Q3_K:
        put_bits(b->levels, 2, out);
        put_crumbs(b->levels, 0, out + 32);
        put_signed_12(b, out + 96);
        put16(out + 108, b->d);
        break;
    case QS_Q6_K:
        put_halves(b->levels, 128, out);
        put_crumbs(b->levels, 4, out + 128);
        for (int j = 0; j < 16; j++)
            out[192 + j] = (uint8_t)b->scale[j];
        put16(out + 208, b->d);
        break;
    default: /* q4_K, q5_K */
        put16(out, b->d);
        put16(out + 2, b->dmin);
        put_12(b, out + 4);
        if (kind == QS_Q5_K)
            put_bits(b->levels, 4, out + 16);
        put_halves(b->levels, 64, out + (kind == QS_Q5_K ? 48 : 16));
    }
}

void qs_get_super(qs_kind kind, const uint8_t *in, qs_super *b)
{
    memset(b, 0, sizeof *b);
    switch (kind) {
    case QS_Q2_K:
        for (int j = 0; j < 16; j++) {
            b->scale[j] = in[j] & 15;
            b->min[j] = in[j] >> 4;
        }
        get_crumbs(in + 16, 0, b->levels);
        b->d = get16(in + 80);
        b->dmin = get16(in + 82);
        break;
    case QS_Q3_K:
        get_bits(in, 2, b->levels);
        get_crumbs(in + 32, 0, b->levels);
        get_signed_12(in + 96, b);
        b->d = get16(in + 108);
        break;
    case QS_Q6_K:
        get_halves(in, 128, b->levels);
        get_crumbs(in + 128, 4, b->levels);
        for (int j = 0; j < 16; j++)
            b->scale[j] = (int8_t)in[192 + j];
        b->d = get16(in + 208);
        break;
    default:
        b->d = get16(in);
        b->dmin = get16(in + 2);
        get_12(in + 4, b);
        get_halves(in + (kind == QS_Q5_K ? 48 : 16), 64, b->levels);
        if (kind == QS_Q5_K)
            get_bits(in + 16, 4, b->levels);
    }
}

size_t qs_own_bytes(int bits)
{
    return 2 + 4 * (size_t)bits;
}

/* Planes: nibbles of a4 to a6, else crumbs; then crumbs or bits of what is left. A crumb plane:
 * bits 2 n of byte 4 h + k are column 16 h + 4 n + k; a bit plane: bit n of byte k is column
 * 4 n + k. */
void qs_put_own(int bits, uint8_t s, uint8_t z, const uint8_t *levels, uint8_t *out)
{
    int shift = 0;
    memset(out, 0, qs_own_bytes(bits));
    *out++ = s;
    *out++ = z;
    if (bits >= 4) {
        put_nibbles(levels, out);
        out += 16;
        shift = 4;
    }
    if (bits - shift >= 2) {
        for (int j = 0; j < 32; j++)
            out[j / 16 * 4 + j % 4] |= (uint8_t)((levels[j] >> shift & 3) << j / 4 % 4 * 2);
        out += 8;
        shift += 2;
    }
    if (bits > shift)
        for (int j = 0; j < 32; j++)
            out[j % 4] |= (uint8_t)((levels[j] >> shift & 1) << j / 4);
}

void qs_get_own(int bits, const uint8_t *in, uint8_t *s, uint8_t *z, uint8_t *levels)
{
    int shift = 0;
    memset(levels, 0, 32);
    *s = *in++;
    *z = *in++;
    if (bits >= 4) {
        get_nibbles(in, levels);
        in += 16;
        shift = 4;
    }
    if (bits - shift >= 2) {
        for (int j = 0; j < 32; j++)
            levels[j] |= (uint8_t)((in[j / 16 * 4 + j % 4] >> j / 4 % 4 * 2 & 3) << shift);
        in += 8;
        shift += 2;
    }
    if (bits > shift)
        for (int j = 0; j < 32; j++)
            levels[j] |= (uint8_t)((in[j % 4] >> j / 4 & 1) << shift);
}
