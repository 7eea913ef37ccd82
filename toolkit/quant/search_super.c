/* search_super.c - K types: 256 columns in sub-blocks, whose scales (and minima) are small
 * whole numbers of one or two f16. First every sub-block's best by itself, then what it costs
 * to round these by many scales of scales, levels kept; the cheapest is refined with levels
 * chosen anew and scales of scales by least squares. */
#include "search_kinds.h"

#include <string.h>

enum { ROUNDS = 5, TRIES = 12 };

typedef struct {
    int subs, width, most; /* of scales and minima */
    float top;
} affine_shape;

typedef struct {
    uint16_t d, dmin;
    int scale[QS_SUBS], min[QS_SUBS];
    float error;
} choice;

typedef struct {
    qs_group group[QS_SUBS];
    qs_fit fit[QS_SUBS];
    affine_shape shape;
    float unit;
} affine_block;

static int whole(float x, int least, int most) /* nearest, within bounds */
{
    if (!(x > (float)least))
        return least;
    if (x >= (float)most)
        return most;
    return (int)(x + 64.5f) - 64;
}

static float from_half(uint16_t h, float unit)
{
    return qs_from_half(h) / unit;
}

static float quotient(float a, float b)
{
    return b > 0 || b < 0 ? a / b : 0;
}

/* The whole minimum that is best for a scale, levels kept. */
static int min_for(const qs_group *g, const qs_sums *sums, float scale, float dmin, int most)
{
    return whole(quotient(scale * sums->l - g->wx, g->w1 * dmin), 0, most);
}

/* The cheapest whole scales and minima while levels stay. */
static void round_affine(const affine_block *b, choice *c)
{
    const float d = from_half(c->d, b->unit), dmin = from_half(c->dmin, b->unit);
    c->error = 0;
    for (int i = 0; i < b->shape.subs; i++) {
        const qs_group *g = &b->group[i];
        const qs_fit *fit = &b->fit[i];
        const int below = whole(quotient(fit->scale, d) - 0.5f, 0, b->shape.most);
        float least = 0;
        for (int s = below; s <= below + 1 && s <= b->shape.most; s++) {
            const float scale = d * (float)s;
            const int m = min_for(g, &fit->sums, scale, dmin, b->shape.most);
            const float error = qs_error_kept(g, fit->sums, scale, -dmin * (float)m);
            if (s == below || error < least) {
                least = error;
                c->scale[i] = s;
                c->min[i] = m;
            }
        }
        c->error += least;
    }
}

/* Levels anew around the whole scales and minima of c; its error is then what will be stored.
 */
static void refine_affine(affine_block *b, choice *c)
{
    const float d = from_half(c->d, b->unit), dmin = from_half(c->dmin, b->unit);
    const qs_range range = {0, b->shape.top};
    const int most = b->shape.most;
    c->error = 0;
    for (int i = 0; i < b->shape.subs; i++) {
        const qs_group *g = &b->group[i];
        qs_lanes lanes;
        float error[QS_LANES];
        int s[QS_LANES], m[QS_LANES];
        for (int k = 0; k < QS_LANES; k++) {
            if (k < 15) {
                s[k] = whole((float)(c->scale[i] + k / 3 - 2), 0, most);
                m[k] = min_for(g, &b->fit[i].sums, d * (float)s[k], dmin, most) + k % 3 - 1;
                m[k] = whole((float)m[k], 0, most);
            } else {
                s[k] = c->scale[i];
                m[k] = c->min[i];
            }
            lanes.scale[k] = d * (float)s[k];
            lanes.min[k] = -dmin * (float)m[k];
        }
        qs_errors(g, range, &lanes, error);
        const int best = qs_best(error);
        c->scale[i] = s[best];
        c->min[i] = m[best];
        c->error += error[best];
        b->fit[i].sums = qs_sums_of(g, range, lanes.scale[best], lanes.min[best]);
    }
}

/* d and dmin by least squares for what c has chosen. 0 where nothing changes. */
static int solve_affine(const affine_block *b, choice *c)
{
    float ss = 0, sm = 0, mm = 0, xs = 0, xm = 0;
    for (int i = 0; i < b->shape.subs; i++) {
        const qs_sums *sums = &b->fit[i].sums;
        const float s = (float)c->scale[i], m = (float)c->min[i];
        ss += s * s * sums->ll;
        sm += s * m * sums->l;
        mm += m * m * b->group[i].w1;
        xs += s * sums->xl;
        xm += m * b->group[i].wx;
    }
    const float det = ss * mm - sm * sm;
    float d = from_half(c->d, b->unit), dmin = from_half(c->dmin, b->unit);
    if (det > 1e-6f * (ss * mm)) {
        d = (mm * xs - sm * xm) / det;
        dmin = (sm * xs - ss * xm) / det;
    } else if (ss > 0) {
        d = (xs + dmin * sm) / ss;
    }
    const uint16_t new_d = qs_to_half((d > 0 ? d : 0) * b->unit);
    const uint16_t new_dmin = qs_to_half((dmin > 0 ? dmin : 0) * b->unit);
    const int changed = new_d != c->d || new_dmin != c->dmin;
    c->d = new_d;
    c->dmin = new_dmin;
    return changed;
}

static float largest(const float *x, int count)
{
    float most = 0;
    for (int i = 0; i < count; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

static float tried(int step, int most) /* parts of what would just hold the largest */
{
    const float least = most < 16 ? 0.70f : 0.82f;
    return least + (1.06f - least) * ((float)step / (TRIES - 1));
}

static choice search_affine(affine_block *b)
{
    choice best = {0}, c = {0};
    float scale[QS_SUBS], min[QS_SUBS];
    const float most = (float)b->shape.most;
    for (int i = 0; i < b->shape.subs; i++) {
        b->fit[i] = qs_fit_affine(&b->group[i], b->shape.top, QS_NOT_ABOVE_0);
        scale[i] = b->fit[i].scale;
        min[i] = -b->fit[i].min;
    }
    const float d = largest(scale, b->shape.subs) / most;
    const float dmin = largest(min, b->shape.subs) / most;
    for (int k = 0; k < TRIES * TRIES; k++) {
        c.d = qs_to_half(d * tried(k / TRIES, b->shape.most) * b->unit);
        c.dmin = qs_to_half(dmin * tried(k % TRIES, b->shape.most) * b->unit);
        round_affine(b, &c);
        if (k == 0 || c.error < best.error)
            best = c;
        if (!(dmin > 0))
            k += TRIES - 1;
    }
    c = best;
    for (int round = 0; round < ROUNDS; round++) {
        refine_affine(b, &c);
        if (round == 0 || c.error < best.error)
            best = c;
        else
            break;
        if (!solve_affine(b, &c))
            break;
    }
    return best;
}

static void store_levels(const qs_group *g, qs_range range, float scale, float min,
                         uint8_t *out)
{
    int8_t levels[QS_WIDEST];
    qs_levels(g, range, scale, min, levels);
    for (int j = 0; j < g->columns; j++)
        out[j] = (uint8_t)(levels[j] - (int)range.bottom);
}

void qs_search_super_affine(qs_kind kind, const qs_frame *frame, const float *row,
                            uint32_t first, uint32_t stop, uint8_t *out)
{
    static const affine_shape shapes[] = {{16, 16, 15, 3}, {8, 32, 63, 15}, {8, 32, 63, 31}};
    affine_block b;
    qs_super stored;
    b.shape = shapes[kind == QS_Q2_K ? 0 : kind == QS_Q4_K ? 1 : 2];
    b.unit = frame->unit;
    for (int i = 0; i < b.shape.subs; i++)
        qs_load(frame, row, first + (uint32_t)(i * b.shape.width), stop, b.shape.width,
                &b.group[i]);
    const choice c = search_affine(&b);
    const qs_range range = {0, b.shape.top};
    memset(&stored, 0, sizeof stored);
    stored.d = c.d;
    stored.dmin = c.dmin;
    for (int i = 0; i < b.shape.subs; i++) {
        stored.scale[i] = (int16_t)c.scale[i];
        stored.min[i] = (int16_t)c.min[i];
        store_levels(&b.group[i], range, from_half(c.d, b.unit) * (float)c.scale[i],
                     -from_half(c.dmin, b.unit) * (float)c.min[i],
                     stored.levels + i * b.shape.width);
    }
    qs_put_super(kind, &stored, out);
}

typedef struct {
    qs_group group[QS_SUBS];
    qs_fit fit[QS_SUBS];
    qs_range range;
    int least, most; /* of scales */
    float unit;
} symmetric_block;

static void round_symmetric(const symmetric_block *b, choice *c)
{
    const float d = from_half(c->d, b->unit);
    c->error = 0;
    for (int i = 0; i < QS_SUBS; i++) {
        const qs_fit *fit = &b->fit[i];
        c->scale[i] = whole(quotient(fit->scale, d), b->least, b->most);
        c->error += qs_error_kept(&b->group[i], fit->sums, d * (float)c->scale[i], 0);
    }
}

/* As refine_affine; scales of the other sign, too, since levels are not as many on both sides.
 */
static void refine_symmetric(symmetric_block *b, choice *c)
{
    const float d = from_half(c->d, b->unit);
    c->error = 0;
    for (int i = 0; i < QS_SUBS; i++) {
        qs_lanes lanes;
        float error[QS_LANES];
        int s[QS_LANES];
        for (int k = 0; k < QS_LANES; k++) {
            const int sized = k < 8 ? c->scale[i] + k - 4 : -c->scale[i] + k - 12;
            s[k] = whole((float)sized, b->least, b->most);
            lanes.scale[k] = d * (float)s[k];
            lanes.min[k] = 0;
        }
        qs_errors(&b->group[i], b->range, &lanes, error);
        const int best = qs_best(error);
        c->scale[i] = s[best];
        c->error += error[best];
        b->fit[i].sums = qs_sums_of(&b->group[i], b->range, lanes.scale[best], 0);
    }
}

static int solve_symmetric(const symmetric_block *b, choice *c)
{
    float ss = 0, xs = 0;
    for (int i = 0; i < QS_SUBS; i++) {
        const float s = (float)c->scale[i];
        ss += s * s * b->fit[i].sums.ll;
        xs += s * b->fit[i].sums.xl;
    }
    const uint16_t d = ss > 0 ? qs_to_half(xs / ss * b->unit) : c->d;
    const int changed = d != c->d;
    c->d = d;
    return changed;
}

static choice search_symmetric(symmetric_block *b)
{
    choice best = {0}, c = {0};
    float most = 0;
    for (int i = 0; i < QS_SUBS; i++) {
        b->fit[i] = qs_fit_symmetric(&b->group[i], b->range);
        const float s = b->fit[i].scale;
        if ((s < 0 ? -s : s) > (most < 0 ? -most : most))
            most = s;
    }
    for (int k = 0; k < 2 * TRIES; k++) {
        const float end = (float)(k % 2 ? b->least : b->most);
        c.d = qs_to_half(most / end * tried(k / 2, b->most) * b->unit);
        round_symmetric(b, &c);
        if (k == 0 || c.error < best.error)
            best = c;
    }
    c = best;
    for (int round = 0; round < ROUNDS; round++) {
        refine_symmetric(b, &c);
        if (round == 0 || c.error < best.error)
            best = c;
        else
            break;
        if (!solve_symmetric(b, &c))
            break;
    }
    return best;
}

void qs_search_super_symmetric(qs_kind kind, const qs_frame *frame, const float *row,
                               uint32_t first, uint32_t stop, uint8_t *out)
{
    symmetric_block b;
    qs_super stored;
    const qs_range three = {-4, 3}, six = {-32, 31};
    b.range = kind == QS_Q3_K ? three : six;
    b.most = kind == QS_Q3_K ? 31 : 127;
    b.least = -b.most - 1;
    b.unit = frame->unit;
    for (int i = 0; i < QS_SUBS; i++)
        qs_load(frame, row, first + (uint32_t)(i * 16), stop, 16, &b.group[i]);
    const choice c = search_symmetric(&b);
    memset(&stored, 0, sizeof stored);
    stored.d = c.d;
    for (int i = 0; i < QS_SUBS; i++) {
        stored.scale[i] = (int16_t)c.scale[i];
        store_levels(&b.group[i], b.range, from_half(c.d, b.unit) * (float)c.scale[i], 0,
                     stored.levels + i * 16);
    }
    qs_put_super(kind, &stored, out);
}
