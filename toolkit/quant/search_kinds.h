/* search_kinds.h - inside search: one block, or one row, of each sort of format. */
#ifndef QEDGE_SEARCH_KINDS_H
#define QEDGE_SEARCH_KINDS_H

#include "search_fit.h"
#include "search_store.h"

/* A block of 32 columns from first on, of a row that ends at stop. */
void qs_search_plain(qs_kind kind, const qs_frame *frame, const float *row, uint32_t first,
                     uint32_t stop, uint8_t *out);

/* The same for iq4_nl. */
void qs_search_table(const qs_frame *frame, const float *row, uint32_t first, uint32_t stop,
                     uint8_t *out);

/* The same for 256 columns of a K type: those with a minimum, those without. */
void qs_search_super_affine(qs_kind kind, const qs_frame *frame, const float *row,
                            uint32_t first, uint32_t stop, uint8_t *out);
void qs_search_super_symmetric(qs_kind kind, const qs_frame *frame, const float *row,
                               uint32_t first, uint32_t stop, uint8_t *out);

enum { QS_OWN_WORK = 24 }; /* bytes a block */

/* Any of these. */
void qs_search_block(qs_kind kind, const qs_frame *frame, const float *row, uint32_t first,
                     uint32_t stop, uint8_t *out);

/* How rows are looked at: importance as qs_quantize has it; unit is left to the caller. */
qs_frame qs_frame_of(const float *importance, uint32_t columns);

/* The smallest power of two above every size in a row; 0 where one is not finite. */
float qs_unit_of(const float *row, uint32_t columns);

/* A whole row of a2 to a6; work: qs_work_bytes. */
void qs_search_own(int bits, const qs_frame *frame, const float *row, uint32_t columns,
                   void *work, uint8_t *out);

/* The same in two steps: D of a row, then each block of it, at most 32 columns, with any
 * values. */
float qs_fit_own(int bits, const qs_frame *frame, const float *row, uint32_t columns,
                 void *work);
void qs_search_own_block(int bits, const qs_frame *frame, float d, const float *block,
                         uint32_t columns, uint8_t *out);

#endif
