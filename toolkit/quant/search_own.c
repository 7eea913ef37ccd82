/* search_own.c - rows of a2 to a6: w = D (float)(s v), v = (q << k) - z, k = 7 - bits. First
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

static void fit_block(int bits, const qs_group *g, block_fit *f)
{
    const qs_fit fit = qs_fit_affine(g, (float)((1 << bits) - 1), QS_ZERO_POINT);
    take(g, &fit.sums, fit.scale, f);
}

float qs_fit_own(int bits, const qs_frame *frame, const float *row, uint32_t columns,
                 void *work)
{
    block_fit *fits = work;
    qs_group g;
    float most = 0;
    for (uint32_t at = 0; at < columns; at += 32, fits++) {
        qs_load(frame, row, at, columns, 32, &g);
        fit_block(bits, &g, fits);
        most = fits->scale > most ? fits->scale : most;
    }
    /* smaller ones, which clip, were tried: nothing gained */
    const float step = most / 255 / (float)(1 << (7 - bits)) * frame->unit;
    return step < MOST ? step : MOST;
}

/* A block whose best by itself is f. */
static void store_block(int bits, const qs_group *g, float unit, block_fit *f, uint8_t *out)
{
    pair p = {0, 0};
    int8_t levels[32] = {0};
    if (unit > 0 && f->scale > 0) {
        const qs_range range = {0, (float)((1 << bits) - 1)};
        p = refine(g, f, unit, bits);
        const float scale = unit * (float)p.s;
        qs_levels(g, range, scale, -scale * (float)p.z / (float)(1 << (7 - bits)), levels);
    }
    qs_put_own(bits, (uint8_t)p.s, (uint8_t)p.z, (const uint8_t *)levels, out);
}

/* What a scale of 1 stands for, in parts of frame->unit; exact but for tiny rows. */
static float unit_of(int bits, const qs_frame *frame, float d)
{
    return d / frame->unit * (float)(1 << (7 - bits));
}

void qs_search_own_block(int bits, const qs_frame *frame, float d, const float *block,
                         uint32_t columns, uint8_t *out)
{
    qs_group g;
    block_fit fit;
    qs_load(frame, block, 0, columns, 32, &g);
    fit_block(bits, &g, &fit);
    store_block(bits, &g, unit_of(bits, frame, d), &fit, out);
}

void qs_search_own(int bits, const qs_frame *frame, const float *row, uint32_t columns,
                   void *work, uint8_t *out)
{
    block_fit *fits = work;
    qs_group g;
    const float d = qs_fit_own(bits, frame, row, columns, work);
    memcpy(out, &d, sizeof d);
    out += sizeof d;
    for (uint32_t at = 0; at < columns; at += 32, out += qs_own_bytes(bits)) {
        qs_load(frame, row, at, columns, 32, &g);
        store_block(bits, &g, unit_of(bits, frame, d), fits++, out);
    }
}
