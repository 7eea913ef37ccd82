/* search_store.h - inside search: blocks of each format as numbers, to bytes and back. Levels
 * count from 0, whatever the format takes off them; what each byte holds is in search_store.c.
 */
#ifndef QEDGE_SEARCH_STORE_H
#define QEDGE_SEARCH_STORE_H

#include "search.h"

enum { QS_SUPER = 256, QS_SUBS = 16 };

/* One super-block of a K type; min and dmin where it has them. */
typedef struct {
    uint16_t d, dmin;
    int16_t scale[QS_SUBS], min[QS_SUBS];
    uint8_t levels[QS_SUPER];
} qs_super;

/* To the nearest f16, ties to even, at most +-65504; x is a number. */
uint16_t qs_to_half(float x);
float qs_from_half(uint16_t h);

/* Bits of a level. */
int qs_bits(qs_kind kind);

/* Blocks of 32 of ggml: m of those with a minimum, 32 levels (int8 itself in q8_0). */
size_t qs_plain_bytes(qs_kind kind);
void qs_put_plain(qs_kind kind, uint16_t d, uint16_t m, const uint8_t *levels, uint8_t *out);
void qs_get_plain(qs_kind kind, const uint8_t *in, uint16_t *d, uint16_t *m, uint8_t *levels);

size_t qs_super_bytes(qs_kind kind);
void qs_put_super(qs_kind kind, const qs_super *block, uint8_t *out);
void qs_get_super(qs_kind kind, const uint8_t *in, qs_super *block);

/* Blocks of a2 to a6: s, z, 32 levels. */
size_t qs_own_bytes(int bits);
void qs_put_own(int bits, uint8_t s, uint8_t z, const uint8_t *levels, uint8_t *out);
void qs_get_own(int bits, const uint8_t *in, uint8_t *s, uint8_t *z, uint8_t *levels);

/* The values that iq4_nl's levels stand for. */
extern const int8_t qs_iq4_values[16];

#endif
