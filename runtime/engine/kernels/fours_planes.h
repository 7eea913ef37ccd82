/* fours_planes.h - levels of every width from the planes that they are stored in (SPEC 3.5),
 * for sets that sum each plane by itself. A set defines, before it includes this,
 *
 *   void nibbles(const uint8_t *w, const columns *c, int32_t *isum, uint32_t apart);
 *   void add_crumbs(const uint8_t *w, const columns *c, int32_t times, int32_t *isum,
 *                   uint32_t apart);
 *   void add_bits(... the same);
 *
 * which put (or add, `times` as much) row r's sum over columns 0 .. 15 to isum[r] and that over
 * the others to isum[apart + r], both to isum[r] where apart is 0; else it is 4. */

APART void sums_apart(const uint8_t *w, uint32_t bits, const columns *c, int32_t *isum,
                      uint32_t apart)
{
    const int32_t upper = bits == 3 ? 4 : 16; /* what a level of the second plane is */
    if (bits >= 4) {
        nibbles(w, c, isum, apart);
        if (bits == 4)
            return;
        w += 64;
    } else {
        for (uint32_t r = 0; r < 4 + apart; r++)
            isum[r] = 0;
    }
    if (bits == 6 || bits == 3 || bits == 2) {
        add_crumbs(w, c, bits == 6 ? upper : 1, isum, apart);
        w += 32;
    }
    if (bits & 1)
        add_bits(w, c, bits == 1 ? 2 : upper, isum, apart);
}

INLINE void sums(const uint8_t *w, uint32_t bits, int any, const columns *c, int32_t isum[4])
{
    if (bits == 4 && !(any && FOURS_HOT))
        nibbles(w, c, isum, 0);
    else
        sums_apart(w, bits, c, isum, 0);
}

INLINE void sums_halves(const uint8_t *w, uint32_t bits, const columns *c, int32_t isum[8])
{
    sums_apart(w, bits, c, isum, 4);
}
