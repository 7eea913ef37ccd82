/* search_plain.c - ggml's blocks of 32: a scale in f16, and a minimum where there is one. */
#include "search_kinds.h"

#include <string.h>

/* h and its neighbours in size, of the same sign: step counts from h. */
static uint16_t beside(uint16_t h, int step)
{
    const int size = (h & 0x7FFF) + step;
    return (uint16_t)((h & 0x8000) | (size < 0 ? 0 : size > 0x7BFF ? 0x7BFF : size));
}

static void symmetric(qs_kind kind, const qs_frame *frame, const qs_group *g, uint8_t *out)
{
    const float bottom = kind == QS_Q4_0 ? -8 : kind == QS_Q5_0 ? -16 : -127;
    const qs_range range = {bottom, kind == QS_Q8_0 ? 127 : -bottom - 1};
    const qs_fit fit = qs_fit_symmetric(g, range);
    const uint16_t middle = qs_to_half(fit.scale * frame->unit);
    qs_lanes lanes;
    float error[QS_LANES];
    uint8_t levels[32];
    for (int k = 0; k < QS_LANES; k++) {
        lanes.scale[k] = qs_from_half(beside(middle, k - QS_LANES / 2)) / frame->unit;
        lanes.min[k] = 0;
    }
    qs_errors(g, range, &lanes, error);
    const int best = qs_best(error);
    int8_t found[32];
    qs_levels(g, range, lanes.scale[best], 0, found);
    for (int j = 0; j < 32; j++)
        levels[j] = (uint8_t)(kind == QS_Q8_0 ? found[j] : found[j] - (int)bottom);
    qs_put_plain(kind, beside(middle, best - QS_LANES / 2), 0, levels, out);
}

static void affine(qs_kind kind, const qs_frame *frame, const qs_group *g, uint8_t *out)
{
    const qs_range range = {0, kind == QS_Q4_1 ? 15 : 31};
    const qs_fit fit = qs_fit_affine(g, range.top, QS_FREE);
    const uint16_t d = qs_to_half(fit.scale * frame->unit),
                   m = qs_to_half(fit.min * frame->unit);
    qs_lanes lanes;
    float error[QS_LANES];
    int8_t found[32];
    uint8_t levels[32];
    for (int k = 0; k < QS_LANES; k++) {
        lanes.scale[k] = qs_from_half(beside(d, k / 4 - 2)) / frame->unit;
        lanes.min[k] = qs_from_half(beside(m, k % 4 - 2)) / frame->unit;
    }
    qs_errors(g, range, &lanes, error);
    const int best = qs_best(error);
    qs_levels(g, range, lanes.scale[best], lanes.min[best], found);
    memcpy(levels, found, sizeof levels);
    qs_put_plain(kind, beside(d, best / 4 - 2), beside(m, best % 4 - 2), levels, out);
}

void qs_search_plain(qs_kind kind, const qs_frame *frame, const float *row, uint32_t first,
                     uint32_t stop, uint8_t *out)
{
    qs_group g;
    qs_load(frame, row, first, stop, 32, &g);
    if (kind == QS_Q4_1 || kind == QS_Q5_1)
        affine(kind, frame, &g, out);
    else
        symmetric(kind, frame, &g, out);
}
