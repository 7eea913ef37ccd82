/* search_table.c - iq4_nl: blocks of 32 whose levels stand for the values of a table. As
 * search_fit.c has it for even levels; levels are found by stepping over the middles. */
#include "search_kinds.h"
#include "search_quad.h"

enum { STEPS = 4, ROUNDS = 2 };

typedef int32_t mask __attribute__((vector_size(16)));

#define NONE 3.0e38f
#define LEAST 1e-30f

/* The table's value nearest to x inv, in every lane, and its sums of w l^2 and w x l. */
static void table_sums(const qs_group *g, const float *scale, float *ll, float *xl)
{
    for (int k = 0; k < QS_LANES; k += 4) {
        quad inv = all(0), ll_k = inv, xl_k = inv;
        for (int i = 0; i < 4; i++) {
            const float s = scale[k + i];
            inv[i] = s > LEAST || s < -LEAST ? 1.0f / s : 0.0f;
        }
        for (int j = 0; j < g->columns; j++) {
            const quad x = all(g->x[j]), t = x * inv;
            quad l = all(qs_iq4_values[0]);
            for (int i = 0; i < 15; i++) { /* comparisons are -1 or 0 */
                const float low = qs_iq4_values[i], high = qs_iq4_values[i + 1];
                const quad step = all(high - low);
                l += (quad)((t > all((low + high) * 0.5f)) & (mask)step);
            }
            const quad wl = all(g->w[j]) * l;
            ll_k += wl * l;
            xl_k += wl * x;
        }
        quad_to(ll + k, ll_k);
        quad_to(xl + k, xl_k);
    }
}

static void table_levels(const qs_group *g, float scale, uint8_t *levels)
{
    const float inv = scale > LEAST || scale < -LEAST ? 1.0f / scale : 0.0f;
    for (int j = 0; j < g->columns; j++) {
        levels[j] = 0;
        for (int i = 0; i < 15; i++)
            if (g->x[j] * inv > (float)(qs_iq4_values[i] + qs_iq4_values[i + 1]) * 0.5f)
                levels[j] = (uint8_t)(i + 1);
    }
}

void qs_search_table(const qs_frame *frame, const float *row, uint32_t first, uint32_t stop,
                     uint8_t *out)
{
    qs_group g;
    float most = 0, kept[QS_LANES], least[QS_LANES], ll[QS_LANES], xl[QS_LANES];
    uint8_t levels[32];
    qs_load(frame, row, first, stop, 32, &g);
    for (int j = 0; j < 32; j++) {
        const float x = g.x[j], size = x < 0 ? -x : x;
        most = size > (most < 0 ? -most : most) ? x : most;
    }
    for (int k = 0; k < QS_LANES; k++) {
        least[k] = NONE;
        kept[k] = 0;
    }
    for (int step = 0; step < STEPS; step++) {
        float scale[QS_LANES];
        for (int k = 0; k < QS_LANES; k++) { /* the largest at either end, or beyond it */
            const int at = step + STEPS * (k / 2);
            const float part = 0.7f + 0.5f * ((float)at / (STEPS * 8 - 1));
            scale[k] = most / (part * (k % 2 ? 113.0f : -127.0f));
        }
        table_sums(&g, scale, ll, xl);
        for (int k = 0; k < QS_LANES; k++)
            if (ll[k] > 0 && -xl[k] / ll[k] * xl[k] < least[k]) {
                least[k] = -xl[k] / ll[k] * xl[k];
                kept[k] = xl[k] / ll[k];
            }
    }
    for (int round = 0; round < ROUNDS; round++) {
        table_sums(&g, kept, ll, xl);
        for (int k = 0; k < QS_LANES; k++)
            kept[k] = ll[k] > 0 ? xl[k] / ll[k] : 0;
    }
    uint16_t halves[QS_LANES];
    for (int k = 0; k < QS_LANES; k++) {
        halves[k] = qs_to_half(kept[k] * frame->unit);
        kept[k] = qs_from_half(halves[k]) / frame->unit;
    }
    table_sums(&g, kept, ll, xl);
    for (int k = 0; k < QS_LANES; k++)
        least[k] = kept[k] * (kept[k] * ll[k] - 2 * xl[k]);
    const int best = qs_best(least);
    table_levels(&g, kept[best], levels);
    qs_put_plain(QS_IQ4_NL, halves[best], 0, levels, out);
}
