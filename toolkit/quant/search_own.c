/* search_own.c - rows of a3 to a6: w = D (float)(s v), v = (q << k) - z, k = 7 - bits. First
 * every block's best scale and minimum by itself; then D, by what rounding these to s and z
 * costs with levels kept; then s and z of every block around that, levels chosen anew. */
#include "search_kinds.h"

#include <string.h>

enum { TRIES = 16, ROUNDS = 4 };

typedef struct {
    float scale, l, ll, xl, w1, wx; /* of a block: qs_fit, qs_group */
} block_fit;

_Static_assert(sizeof(block_fit) == QS_OWN_WORK, "what qs_work_bytes promises");

typedef struct {
    int s, z;
} pair;

static int whole(float x, int least, int most)
{
    if (!(x > (float)least))
        return least;
    return x >= (float)most ? most : (int)(x + 0.5f);
}

/* The best z for a scale of levels, levels kept. */
static int zero_for(const block_fit *f, float scale, int shift)
{
    return whole((scale * f->l - f->wx) / f->w1 / scale * (float)(1 << shift), 0, 127);
}

static float error_kept(const block_fit *f, float scale, float min)
{
    return scale * (scale * f->ll + 2 * (min * f->l - f->xl)) + min * (min * f->w1 - 2 * f->wx);
}

/* What a block costs beyond its best when D step is the unit of scales; levels kept. */
static float rounded(const block_fit *f, float unit, int shift)
{
    float least = 0;
    const int below = whole(f->scale / unit - 0.5f, 1, 255);
    for (int s = below; s <= below + 1 && s <= 255; s++) {
        const float scale = unit * (float)s;
        const int z = zero_for(f, scale, shift);
        const float error = error_kept(f, scale, -scale * (float)z / (float)(1 << shift));
        if (s == below || error < least)
            least = error;
    }
    return least;
}

static void take(const qs_group *g, const qs_sums *sums, float scale, block_fit *f)
{
    f->scale = scale;
    f->l = sums->l;
    f->ll = sums->ll;
    f->xl = sums->xl;
    f->w1 = g->w1;
    f->wx = g->wx;
}

/* s and z of one block with levels chosen anew, unit: D 2^shift. */
static pair refine(const qs_group *g, block_fit *f, float unit, int bits)
{
    const int shift = 7 - bits;
    const qs_range range = {0, (float)((1 << bits) - 1)};
    float least = 0;
    pair best = {0, 0};
    for (int round = 0; round < ROUNDS; round++) {
        qs_lanes lanes;
        float error[QS_LANES];
        pair p[QS_LANES];
        const int middle = whole(f->scale / unit, 1, 255);
        for (int k = 0; k < QS_LANES; k++) {
            p[k] = best;
            if (k < 15) {
                p[k].s = middle + k / 3 - 2;
                p[k].s = p[k].s < 1 ? 1 : p[k].s > 255 ? 255 : p[k].s;
                p[k].z = zero_for(f, unit * (float)p[k].s, shift) + k % 3 - 1;
                p[k].z = p[k].z < 0 ? 0 : p[k].z > 127 ? 127 : p[k].z;
            }
            lanes.scale[k] = unit * (float)p[k].s;
            lanes.min[k] = -lanes.scale[k] * (float)p[k].z / (float)(1 << shift);
        }
        qs_errors(g, range, &lanes, error);
        const int k = qs_best(error);
        if (round > 0 && !(error[k] < least))
            break;
        least = error[k];
        best = p[k];
        qs_fit fit = {lanes.scale[k], lanes.min[k], 0, {0, 0, 0}};
        fit.sums = qs_sums_of(g, range, fit.scale, fit.min);
        qs_solve(g, QS_ZERO_POINT, range.top, &fit);
        take(g, &fit.sums, fit.scale, f);
    }
    return best;
}

void qs_search_own(int bits, const qs_frame *frame, const float *row, uint32_t columns,
                   void *work, uint8_t *out)
{
    block_fit *fits = work;
    qs_group g;
    const uint32_t blocks = (columns + 31) / 32;
    const int shift = 7 - bits;
    const float top = (float)((1 << bits) - 1);
    float most = 0, unit = 0, least = 0;
    for (uint32_t b = 0; b < blocks; b++) {
        qs_load(frame, row, b * 32, columns, 32, &g);
        const qs_fit fit = qs_fit_affine(&g, top, QS_ZERO_POINT);
        take(&g, &fit.sums, fit.scale, &fits[b]);
        most = fit.scale > most ? fit.scale : most;
    }
    for (int k = 0; k < TRIES && most > 0; k++) {
        const float tried = most / 255 * (1.01f - 0.01f * (float)k);
        float error = 0;
        for (uint32_t b = 0; b < blocks; b++)
            if (fits[b].scale > 0)
                error += rounded(&fits[b], tried, shift);
        if (k == 0 || error < least) {
            least = error;
            unit = tried;
        }
    }
    const float d = unit / (float)(1 << shift) * frame->unit; /* exact but for tiny rows */
    memcpy(out, &d, sizeof d);
    out += sizeof d;
    for (uint32_t b = 0; b < blocks; b++, out += qs_own_bytes(bits)) {
        pair p = {0, 0};
        int8_t levels[32] = {0};
        if (unit > 0 && fits[b].scale > 0) {
            const qs_range range = {0, top};
            qs_load(frame, row, b * 32, columns, 32, &g);
            p = refine(&g, &fits[b], unit, bits);
            const float scale = unit * (float)p.s;
            qs_levels(&g, range, scale, -scale * (float)p.z / (float)(1 << shift), levels);
        }
        qs_put_own(bits, (uint8_t)p.s, (uint8_t)p.z, (const uint8_t *)levels, out);
    }
}
