/* search_own.c - rows of a3 to a6: w = D (float)(s v), v = (q << k) - z, k = 7 - bits. First
 * every block's best scale and minimum by itself, whose largest is D; then s and z of every
 * block around them, levels chosen anew. */
#include "search_kinds.h"

#include <string.h>

#define NONE 3.0e38f
#define MOST 1.05e34f /* times 255 * 127 is still a float32 */

enum { ROUNDS = 2 };

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

static void take(const qs_group *g, const qs_sums *sums, float scale, block_fit *f)
{
    f->scale = scale;
    f->l = sums->l;
    f->ll = sums->ll;
    f->xl = sums->xl;
    f->w1 = g->w1;
    f->wx = g->wx;
}

static int within(int x, int least, int most)
{
    return x < least ? least : x > most ? most : x;
}

/* s and z of one block with levels chosen anew, unit: D 2^shift. The more levels, the more a
 * grid's few places of zero tell, so that a scale further off may have the better one. */
static pair refine(const qs_group *g, block_fit *f, float unit, int bits)
{
    const int shift = 7 - bits, far = bits < 4 ? 2 : bits < 5 ? 7 : 42;
    const qs_range range = {0, (float)((1 << bits) - 1)};
    float least = NONE;
    pair best = {0, 0};
    for (int round = 0; round < ROUNDS; round++) {
        const int middle = whole(f->scale / unit, 1, 255);
        const int reach = round == 0 || far < 7 ? far : 7;
        const float before = least;
        for (int from = middle - reach; from <= middle + reach; from += 5) {
            qs_lanes lanes;
            float error[QS_LANES];
            pair p[QS_LANES];
            for (int k = 0; k < QS_LANES; k++) { /* five scales by three zeros */
                p[k].s = within(from + k / 3 % 5, 1, 255);
                lanes.scale[k] = unit * (float)p[k].s;
                p[k].z = within(zero_for(f, lanes.scale[k], shift) + k % 3 - 1, 0, 127);
                lanes.min[k] = -lanes.scale[k] * (float)p[k].z / (float)(1 << shift);
            }
            qs_errors(g, range, &lanes, error);
            const int k = qs_best(error);
            if (error[k] < least) {
                least = error[k];
                best = p[k];
            }
        }
        if (!(least < before))
            break;
        const float scale = unit * (float)best.s;
        qs_fit fit = {scale, -scale * (float)best.z / (float)(1 << shift), 0, {0, 0, 0}};
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
    float most = 0;
    for (uint32_t b = 0; b < blocks; b++) {
        qs_load(frame, row, b * 32, columns, 32, &g);
        const qs_fit fit = qs_fit_affine(&g, top, QS_ZERO_POINT);
        take(&g, &fit.sums, fit.scale, &fits[b]);
        most = fit.scale > most ? fit.scale : most;
    }
    const float unit = most / 255; /* smaller ones, which clip, were tried: nothing gained */
    const float step = unit / (float)(1 << shift) * frame->unit; /* exact but for tiny rows */
    const float d = step < MOST ? step : MOST;
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
