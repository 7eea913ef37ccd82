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

/* A whole row of a3 to a6; work: qs_work_bytes. */
void qs_search_own(int bits, const qs_frame *frame, const float *row, uint32_t columns,
                   void *work, uint8_t *out);

#endif
