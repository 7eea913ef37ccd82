/* search.c - see search.h: rows of any kind to its blocks and back. */
#include "search_kinds.h"

#include <string.h>

enum { INF_BITS = 0x7F800000 };

static int is_super(qs_kind kind)
{
    return kind >= QS_Q2_K && kind <= QS_Q6_K;
}

static int is_own(qs_kind kind)
{
    return kind >= QS_A2;
}

uint32_t qs_block(qs_kind kind)
{
    return is_super(kind) ? 256 : 32;
}

static size_t block_bytes(qs_kind kind)
{
    if (is_own(kind))
        return qs_own_bytes(qs_bits(kind));
    return is_super(kind) ? qs_super_bytes(kind) : qs_plain_bytes(kind);
}

static size_t blocks_of(qs_kind kind, uint32_t columns)
{
    return columns / qs_block(kind) + (columns % qs_block(kind) != 0);
}

size_t qs_row_bytes(qs_kind kind, uint32_t columns)
{
    return blocks_of(kind, columns) * block_bytes(kind) + (is_own(kind) ? 4 : 0);
}

size_t qs_work_bytes(qs_kind kind, uint32_t columns)
{
    return is_own(kind) ? blocks_of(kind, columns) * QS_OWN_WORK : 0;
}

float qs_unit_of(const float *row, uint32_t columns)
{
    uint32_t most = 0;
    float unit;
    for (uint32_t j = 0; j < columns; j++) {
        uint32_t bits;
        memcpy(&bits, &row[j], sizeof bits);
        bits &= 0x7FFFFFFF;
        most = bits > most ? bits : most;
    }
    if (most >= INF_BITS)
        return 0;
    uint32_t exponent = (most >> 23) + 1;
    exponent = exponent < 27 ? 27 : exponent > 247 ? 247 : exponent; /* 2^-100 to 2^120 */
    exponent <<= 23;
    memcpy(&unit, &exponent, sizeof unit);
    return unit;
}

/* What brings the mean of importance to about 1: a power of two, so that nothing is rounded. */
static float factor_of(const float *importance, uint32_t columns, float *mean)
{
    double sum = 0;
    for (uint32_t j = 0; j < columns; j++)
        sum += importance[j];
    *mean = (float)(sum / columns);
    const float unit = qs_unit_of(mean, 1);
    return 1.0f / unit;
}

qs_frame qs_frame_of(const float *importance, uint32_t columns)
{
    qs_frame frame = {importance, 1, 0, 0};
    if (importance) {
        float mean;
        frame.factor = factor_of(importance, columns, &mean);
        frame.ridge = 1e-6f * (mean * frame.factor);
    }
    return frame;
}

void qs_search_block(qs_kind kind, const qs_frame *frame, const float *row, uint32_t first,
                     uint32_t stop, uint8_t *out)
{
    if (kind == QS_IQ4_NL)
        qs_search_table(frame, row, first, stop, out);
    else if (!is_super(kind))
        qs_search_plain(kind, frame, row, first, stop, out);
    else if (kind == QS_Q3_K || kind == QS_Q6_K)
        qs_search_super_symmetric(kind, frame, row, first, stop, out);
    else
        qs_search_super_affine(kind, frame, row, first, stop, out);
}

int64_t qs_quantize(qs_kind kind, const float *values, uint32_t rows, uint32_t columns,
                    const float *importance, void *work, uint8_t *out)
{
    qs_frame frame = qs_frame_of(importance, columns);
    for (uint32_t r = 0; r < rows; r++, values += columns) {
        frame.unit = qs_unit_of(values, columns);
        if (!(frame.unit > 0))
            return r;
        if (is_own(kind)) {
            qs_search_own(qs_bits(kind), &frame, values, columns, work, out);
            out += qs_row_bytes(kind, columns);
            continue;
        }
        for (uint32_t at = 0; at < columns; at += qs_block(kind), out += block_bytes(kind))
            qs_search_block(kind, &frame, values, at, columns, out);
    }
    return -1;
}

static void from_plain(qs_kind kind, const uint8_t *in, float *values)
{
    static const uint8_t zero[] = {8, 0, 16, 0};
    uint16_t d, m;
    uint8_t levels[32];
    qs_get_plain(kind, in, &d, &m, levels);
    const float scale = qs_from_half(d), min = qs_from_half(m);
    for (int j = 0; j < 32; j++) {
        const int level = kind == QS_Q8_0     ? (int8_t)levels[j]
                          : kind == QS_IQ4_NL ? qs_iq4_values[levels[j]]
                                              : levels[j] - zero[kind];
        values[j] = scale * (float)level + min;
    }
}

static void from_super(qs_kind kind, const uint8_t *in, float *values)
{
    qs_super b;
    qs_get_super(kind, in, &b);
    const int width = kind == QS_Q4_K || kind == QS_Q5_K ? 32 : 16;
    const int zero = kind == QS_Q3_K ? 4 : kind == QS_Q6_K ? 32 : 0;
    const float d = qs_from_half(b.d), dmin = qs_from_half(b.dmin);
    for (int i = 0; i < 256; i++) {
        const float scale = d * (float)b.scale[i / width];
        values[i] = scale * (float)(b.levels[i] - zero) - dmin * (float)b.min[i / width];
    }
}

static void from_own(int bits, float d, const uint8_t *in, float *values)
{
    uint8_t s, z, levels[32];
    qs_get_own(bits, in, &s, &z, levels);
    for (int j = 0; j < 32; j++)
        values[j] = d * (float)(s * ((levels[j] << (7 - bits)) - z));
}

void qs_dequantize(qs_kind kind, const uint8_t *stored, uint32_t rows, uint32_t columns,
                   float *values)
{
    const uint32_t width = qs_block(kind);
    float block[256], d = 0;
    for (uint32_t r = 0; r < rows; r++, values += columns) {
        if (is_own(kind)) {
            memcpy(&d, stored, sizeof d);
            stored += sizeof d;
        }
        for (uint32_t at = 0; at < columns; at += width, stored += block_bytes(kind)) {
            if (is_own(kind))
                from_own(qs_bits(kind), d, stored, block);
            else if (is_super(kind))
                from_super(kind, stored, block);
            else
                from_plain(kind, stored, block);
            const uint32_t left = columns - at < width ? columns - at : width;
            memcpy(values + at, block, left * sizeof *values);
        }
    }
}
