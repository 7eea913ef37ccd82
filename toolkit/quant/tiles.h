/* tiles.h - rows of a source file to the groups of rows that the engine reads (SPEC 2.4 and
 * 3.5). Blocks of GGML's types keep their very numbers; q4_0 and q8_0 are made of floats as
 * gguf-py's reference quantizers do (gguf/quants.py), bit for bit. No state, no allocation: any
 * threads may work on any rows. */
#ifndef QEDGE_TILES_H
#define QEDGE_TILES_H

#include "../../runtime/engine/kernels/formats.h"

enum { QT_TQ1_0 = 34 }; /* of a source only: it is kept as TQ2_0 */

/* Rows as they lie in the file. A source of a quantized type has whole blocks; floats may end
 * in part of one, which is filled up with zeros. Rows of the engine's own types are as
 * search.h writes them: the layout of one row. */
typedef struct {
    const uint8_t *bytes;   /* row 0 */
    ptrdiff_t stride;       /* bytes from one row to the next */
    const intptr_t *order;  /* the stored row of each row, or NULL: as they lie */
    uint32_t rows, columns; /* of the whole tensor */
    uint32_t type;          /* enum qe_type, or QT_TQ1_0 */
} qt_source;

/* Bytes of a stored row of `columns`; 0 for a type that has none, or columns that are not whole
 * blocks of it. */
size_t qt_row_bytes(uint32_t type, uint32_t columns);

/* Whether rows of one type can become groups of another. */
int qt_takes(uint32_t from, uint32_t to);

/* Rows first to stop (exclusive) to out, in groups of R (1, 4 or 16): first is a multiple of R,
 * rows past the last one are zero. Returns the lowest row that holds a weight or a scale that
 * is not finite, or -1; out is then of no use. */
int64_t qt_pack(const qt_source *source, uint32_t first, uint32_t stop, uint32_t to, uint32_t R,
                uint8_t *out);

/* The weights of rows 0 to rows (exclusive) of groups, as the engine's embedding reads them. */
void qt_unpack(const uint8_t *groups, uint32_t type, uint32_t R, uint32_t rows,
               uint32_t columns, float *out);

/* ---- tile_blocks.c ---- */

/* One period of a stored row: head bytes as a group of one row has them, 32 levels a block. 0
 * when a scale is not finite. */
int qt_take_period(const uint8_t *in, uint32_t from, const qe_format *f, uint8_t *head,
                   uint8_t *levels);
/* Bytes of a stored period. */
size_t qt_period_bytes(uint32_t from, const qe_format *f);

/* ---- tile_floats.c ---- */

/* 32 columns of f32, f16 or bf16 (fewer at a row's end) to a block of q4_0 or q8_0. 0 when one
 * is not finite. */
int qt_quantize(const uint8_t *in, uint32_t columns, uint32_t from, uint32_t to, uint8_t *head,
                uint8_t *levels);

#endif
