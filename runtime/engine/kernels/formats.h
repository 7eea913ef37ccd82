/* formats.h - the types of quantized weights as tiles hold them (SPEC 2.4, 3.5): facts of each,
 * and one block of a row as plain numbers. Internal to the engine; the toolkit's packer reads
 * the same facts. */
#ifndef QE_FORMATS_H
#define QE_FORMATS_H

#include "../qedge.h"
#include "numeric.h"

/* How a block's sum of products goes on to the row's: SPEC 2.5. */
enum qe_step {
    QE_STEP_SCALED,     /* acc + (d * dx) * isum */
    QE_STEP_AFFINE,     /* acc + ((d * dx) * isum + m * (dx * xsum)) */
    QE_STEP_HALVES,     /* acc + (d * dx) * (s0 * isum0 + s1 * isum1) */
    QE_STEP_HALVES_MIN, /* ... - (m * dx) * (n0 * xsum0 + n1 * xsum1) */
    QE_STEP_ROW         /* acc + dx * (s * isum), at the end times the row's scale */
};

typedef struct {
    uint32_t type;
    uint8_t bits;     /* of a level: 4 * bits bytes a row and block */
    uint8_t period;   /* blocks that stand behind one head */
    uint8_t head;     /* bytes a row before the levels of a period: */
    uint8_t halves;   /* of them, so many f16 first */
    uint8_t row_head; /* bytes a row before the first period */
    uint8_t step;     /* enum qe_step */
} qe_format;

/* NULL for f32, f16, bf16 and for numbers that are no type. */
const qe_format *qe_format_of(uint32_t type);

/* Bytes of a group of R rows over `columns` columns, of which whole periods are needed. */
static inline size_t qe_group_bytes(const qe_format *f, uint32_t R, uint32_t columns)
{
    const size_t periods = (columns + 32u * f->period - 1) / (32u * f->period);
    return R * (f->row_head + periods * (f->head + (size_t)f->period * 4 * f->bits));
}

/* Bytes of a tensor in the image; 0 when there is no such type, layout or row. */
uint64_t qe_tensor_bytes(uint32_t type, uint32_t layout, uint32_t rows, uint32_t columns);

/* The levels of row r of R over 32 columns: planes of bytes, nibbles, crumbs or bits in fours
 * of columns, rows one after the other; of 3, 5 and 6 bits the upper ones in a plane behind. */
void qe_levels_read(const uint8_t *p, uint32_t bits, uint32_t R, uint32_t r, uint8_t q[32]);

/* A row's block as numbers: levels less their zero points, and the scales that its step has. */
typedef struct {
    int8_t q[32];
    float d, m;   /* of QE_STEP_ROW: d is the row's scale */
    int32_t s[2]; /* of halves; of QE_STEP_ROW: s[0] */
    int32_t n[2];
} qe_block;

/* Block b of row r of a group of R rows that begins at w. */
void qe_block_read(const qe_format *f, const uint8_t *w, uint32_t R, uint32_t r, uint32_t b,
                   qe_block *block);

/* Its i-th weight: SPEC 2.4. */
float qe_block_value(const qe_format *f, const qe_block *block, uint32_t i);

extern const int8_t qe_iq4_levels[16], qe_mxfp4_levels[16];

/* The scale of an MXFP4 block, 2^(e - 128). */
static inline float qe_mxfp4_scale(uint8_t e)
{
    return qe_float(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

#endif
