/* tiles.h - rows of a source file to the tiles of q4_0 and q8_0 that the engine reads (SPEC 2.4
 * and 3.5). The numbers are those of ggml's reference quantizers as gguf-py states them
 * (gguf/quants.py, Q4_0 and Q8_0), bit for bit. No state, no allocation: any threads may work
 * on any tiles. */
#ifndef QEDGE_TILES_H
#define QEDGE_TILES_H

#include <stddef.h>
#include <stdint.h>

enum { QT_BLOCK = 32 }; /* columns of a block */

typedef enum { QT_F32, QT_F16, QT_BF16, QT_Q4_0, QT_Q8_0 } qt_type;

/* Rows as they lie in the file. A source of a quantized type gives the very same type, block by
 * block, and has whole blocks; others may end in part of one, which is filled up with zeros. */
typedef struct {
    const uint8_t *bytes;   /* row 0 */
    ptrdiff_t stride;       /* bytes from one row to the next */
    const intptr_t *order;  /* the stored row of each row, or NULL: as they lie */
    uint32_t rows, columns; /* of the whole tensor */
    qt_type type;
} qt_source;

/* Bytes of a tile: layout_rows blocks of the type. */
size_t qt_tile_bytes(qt_type to, uint32_t layout_rows);

/* Tiles of rows first to stop (exclusive) to out: first is a multiple of layout_rows, rows past
 * the last one are zero; layout_rows 1 to 64, group 1, 2, 4, 8 or 16; to QT_Q4_0 or QT_Q8_0.
 * Returns the lowest row that holds a weight or a scale that is not finite, or -1; out is then
 * of no use. */
int64_t qt_pack(const qt_source *source, uint32_t first, uint32_t stop, qt_type to,
                uint32_t layout_rows, uint32_t group, uint8_t *out);

#endif
