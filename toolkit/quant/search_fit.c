/* search_fit.c - see search_fit.h. */
#include "search_fit.h"

#include "search_quad.h"

#define NEAR 12582912.0f /* adding and subtracting it rounds to nearest even */
#define LEAST 1e-30f     /* smaller scales are none */
#define NONE 3.0e38f

static float inverse(float scale)
{
    return scale > LEAST || scale < -LEAST ? 1.0f / scale : 0.0f;
}

static float clamped(float t, float bottom, float top)
{
    t = t > bottom ? t : bottom;
    return t < top ? t : top;
}

static quad level(quad t, quad bottom, quad top)
{
    for (int i = 0; i < 4; i++)
        t[i] = t[i] > bottom[i] ? t[i] : bottom[i];
    for (int i = 0; i < 4; i++)
        t[i] = t[i] < top[i] ? t[i] : top[i];
    return (t + all(NEAR)) - all(NEAR);
}

/* What turns a value into a level: value * inv + off. */
typedef struct {
    quad inv, off;
} quad_map;

static quad_map map_of(const qs_lanes *lanes, int k)
{
    quad_map m;
    for (int i = 0; i < 4; i++) {
        m.inv[i] = inverse(lanes->scale[k + i]);
        m.off[i] = -lanes->min[k + i] * m.inv[i];
    }
    return m;
}

void qs_errors(const qs_group *g, qs_range range, const qs_lanes *lanes, float *error)
{
    const quad bottom = all(range.bottom), top = all(range.top);
    for (int k = 0; k < QS_LANES; k += 8) {
        const quad_map m = map_of(lanes, k), n = map_of(lanes, k + 4);
        const quad scale_m = quad_at(lanes->scale + k), scale_n = quad_at(lanes->scale + k + 4);
        const quad min_m = quad_at(lanes->min + k), min_n = quad_at(lanes->min + k + 4);
        quad sum_m = all(0), sum_n = all(0);
        for (int j = 0; j < g->columns; j++) {
            const quad x = all(g->x[j]), w = all(g->w[j]);
            const quad e = x - (scale_m * level(x * m.inv + m.off, bottom, top) + min_m);
            const quad f = x - (scale_n * level(x * n.inv + n.off, bottom, top) + min_n);
            sum_m += w * (e * e);
            sum_n += w * (f * f);
        }
        quad_to(error + k, sum_m);
        quad_to(error + k + 4, sum_n);
    }
}

void qs_load(const qs_frame *f, const float *row, uint32_t first, uint32_t stop, int columns,
             qs_group *g)
{
    const float small = 1.0f / f->unit;
    g->columns = columns;
    g->w1 = g->wx = 0;
    for (int j = 0; j < columns; j++) {
        const uint32_t at = first + (uint32_t)j;
        g->x[j] = at < stop ? row[at] * small : 0;
        g->w[j] = 0;
        if (at < stop)
            g->w[j] = f->importance ? f->importance[at] * f->factor + f->ridge : 1;
        g->w1 += g->w[j];
    }
    if (!(g->w1 > LEAST)) {
        for (int j = 0; j < columns; j++)
            g->w[j] = first + (uint32_t)j < stop || first >= stop ? 1 : 0;
        g->w1 = 0;
        for (int j = 0; j < columns; j++)
            g->w1 += g->w[j];
    }
    for (int j = 0; j < columns; j++)
        g->wx += g->w[j] * g->x[j];
}

typedef struct {
    float l[QS_LANES], ll[QS_LANES], xl[QS_LANES];
} lane_sums;

static void sum_lanes(const qs_group *g, qs_range range, const qs_lanes *lanes, lane_sums *out)
{
    const quad bottom = all(range.bottom), top = all(range.top);
    for (int k = 0; k < QS_LANES; k += 8) {
        const quad_map m = map_of(lanes, k), n = map_of(lanes, k + 4);
        quad l_m = all(0), ll_m = l_m, xl_m = l_m, l_n = l_m, ll_n = l_m, xl_n = l_m;
        for (int j = 0; j < g->columns; j++) {
            const quad x = all(g->x[j]), w = all(g->w[j]);
            const quad l = level(x * m.inv + m.off, bottom, top), wl = w * l;
            const quad o = level(x * n.inv + n.off, bottom, top), wo = w * o;
            l_m += wl;
            ll_m += wl * l;
            xl_m += wl * x;
            l_n += wo;
            ll_n += wo * o;
            xl_n += wo * x;
        }
        quad_to(out->l + k, l_m);
        quad_to(out->l + k + 4, l_n);
        quad_to(out->ll + k, ll_m);
        quad_to(out->ll + k + 4, ll_n);
        quad_to(out->xl + k, xl_m);
        quad_to(out->xl + k + 4, xl_n);
    }
}

qs_sums qs_sums_of(const qs_group *g, qs_range range, float scale, float min)
{
    const float inv = inverse(scale), off = -min * inv;
    qs_sums s = {0, 0, 0};
    for (int j = 0; j < g->columns; j++) {
        const float t = clamped(g->x[j] * inv + off, range.bottom, range.top);
        const float l = (t + NEAR) - NEAR, wl = g->w[j] * l;
        s.l += wl;
        s.ll += wl * l;
        s.xl += wl * g->x[j];
    }
    return s;
}

void qs_levels(const qs_group *g, qs_range range, float scale, float min, int8_t *levels)
{
    const float inv = inverse(scale), off = -min * inv;
    for (int j = 0; j < g->columns; j++) {
        const float t = clamped(g->x[j] * inv + off, range.bottom, range.top);
        levels[j] = (int8_t)((t + NEAR) - NEAR);
    }
}

float qs_error_kept(const qs_group *g, qs_sums s, float scale, float min)
{
    return scale * (scale * s.ll + 2 * (min * s.l - s.xl)) + min * (min * g->w1 - 2 * g->wx);
}

int qs_solve(const qs_group *g, qs_bound bound, float top, qs_fit *fit)
{
    const qs_sums s = fit->sums;
    const float det = g->w1 * s.ll - s.l * s.l;
    float scale = 0, min = 0;
    if (det > 1e-6f * (g->w1 * s.ll)) {
        scale = (g->w1 * s.xl - g->wx * s.l) / det;
        min = (s.ll * g->wx - s.l * s.xl) / det;
    } else if (bound != QS_NOT_ABOVE_0) {
        return 0;
    }
    if (bound != QS_FREE && min >= 0) {
        min = 0;
        scale = s.ll > 0 ? s.xl / s.ll : 0;
    }
    if (bound == QS_ZERO_POINT) {
        const float far = (top + 1) * (127.0f / 128.0f);
        if (min < -far * scale) {
            const float below = s.ll - far * (2 * s.l - far * g->w1);
            scale = below > 0 ? (s.xl - far * g->wx) / below : 0;
            min = -far * scale;
        }
    }
    if (!(scale > LEAST))
        return 0;
    fit->scale = scale;
    fit->min = min;
    return 1;
}

int qs_best(const float *error)
{
    int best = 0;
    for (int k = 1; k < QS_LANES; k++)
        if (error[k] < error[best])
            best = k;
    return best;
}

/* Least squares in every lane; a lane that has none stays. kept (LANES): qs_error_kept. */
static void solve_lanes(const qs_group *g, qs_range range, qs_bound bound, qs_lanes *lanes,
                        float *kept)
{
    lane_sums s;
    sum_lanes(g, range, lanes, &s);
    for (int k = 0; k < QS_LANES; k++) {
        qs_fit fit = {lanes->scale[k], lanes->min[k], 0, {s.l[k], s.ll[k], s.xl[k]}};
        qs_solve(g, bound, range.top, &fit);
        lanes->scale[k] = fit.scale;
        lanes->min[k] = fit.min;
        kept[k] = qs_error_kept(g, fit.sums, fit.scale, fit.min);
    }
}

/* How far the ends of a range may move inwards, in parts of it, for levels up to 3, 7, 15, 31
 * and 63: eight steps, the second of which is none. */
static float inset(float top, int step)
{
    const float most = top < 4    ? 0.40f
                       : top < 8  ? 0.34f
                       : top < 16 ? 0.27f
                       : top < 32 ? 0.18f
                                  : 0.11f;
    return most * ((float)(step - 1) / 6.0f);
}

static qs_fit finish(const qs_group *g, qs_range range, const qs_lanes *lanes)
{
    float error[QS_LANES];
    qs_errors(g, range, lanes, error);
    const int k = qs_best(error);
    qs_fit fit = {lanes->scale[k], lanes->min[k], error[k], {0, 0, 0}};
    fit.sums = qs_sums_of(g, range, fit.scale, fit.min);
    return fit;
}

qs_fit qs_fit_affine(const qs_group *g, float top, qs_bound bound)
{
    const qs_range range = {0, top};
    const qs_fit nothing = {0, 0, 0, {0, 0, 0}};
    float low = g->x[0], high = low;
    for (int j = 1; j < g->columns; j++) {
        low = g->x[j] < low ? g->x[j] : low;
        high = g->x[j] > high ? g->x[j] : high;
    }
    if (bound != QS_FREE && low > 0)
        low = 0;
    if (bound == QS_ZERO_POINT && high < 0)
        high = 0;
    const float width = high - low;
    if (!(width > LEAST)) { /* all the same */
        qs_fit flat = nothing;
        flat.min = low;
        return flat;
    }
    /* 8 by 8 ends; of each 8 with one end the same the best goes on */
    qs_lanes kept;
    float least[QS_LANES];
    for (int k = 0; k < QS_LANES; k++)
        least[k] = NONE;
    for (int a = 0; a < 8; a += 2) {
        qs_lanes lanes;
        float error[QS_LANES];
        for (int k = 0; k < QS_LANES; k++) {
            float from = low + width * inset(top, a + k / 8);
            const float to = high - width * inset(top, k % 8);
            if (bound != QS_FREE && from > 0)
                from = 0;
            lanes.scale[k] = (to - from) / top;
            lanes.min[k] = from;
        }
        solve_lanes(g, range, bound, &lanes, error);
        for (int k = 0; k < QS_LANES; k++) {
            const int slots[2] = {a + k / 8, 8 + k % 8};
            for (int i = 0; i < 2; i++)
                if (error[k] < least[slots[i]]) {
                    least[slots[i]] = error[k];
                    kept.scale[slots[i]] = lanes.scale[k];
                    kept.min[slots[i]] = lanes.min[k];
                }
        }
    }
    for (int round = 0; round < 3; round++)
        solve_lanes(g, range, bound, &kept, least);
    return finish(g, range, &kept);
}

qs_fit qs_fit_symmetric(const qs_group *g, qs_range range)
{
    enum { STEPS = 6 };
    const float less = range.top < 4    ? 0.6f
                       : range.top < 8  ? 0.45f
                       : range.top < 16 ? 0.3f
                       : range.top < 32 ? 0.2f
                                        : 0.05f;
    const float more = range.top < 4    ? 0.4f
                       : range.top < 8  ? 0.2f
                       : range.top < 16 ? 0.1f
                       : range.top < 32 ? 0.05f
                                        : 0.005f;
    float most = 0;
    for (int j = 0; j < g->columns; j++) {
        const float x = g->x[j], size = x < 0 ? -x : x;
        if (size > (most < 0 ? -most : most))
            most = x;
    }
    if (!(most > LEAST || most < -LEAST)) {
        const qs_fit nothing = {0, 0, 0, {0, 0, 0}};
        return nothing;
    }
    qs_lanes kept;
    float least[QS_LANES];
    for (int k = 0; k < QS_LANES; k++) {
        least[k] = NONE;
        kept.min[k] = 0;
    }
    for (int step = 0; step < STEPS; step++) {
        qs_lanes lanes;
        lane_sums s;
        for (int k = 0; k < QS_LANES; k++) { /* eight lanes a sign, each its own part */
            const int at = step + STEPS * (k / 2);
            const float part = 1 - less + (less + more) * ((float)at / (STEPS * 8 - 1));
            lanes.scale[k] = most / (part * (k % 2 ? range.top : range.bottom));
            lanes.min[k] = 0;
        }
        sum_lanes(g, range, &lanes, &s);
        for (int k = 0; k < QS_LANES; k++) {
            if (!(s.ll[k] > 0))
                continue;
            const float scale = s.xl[k] / s.ll[k], error = -scale * s.xl[k];
            if (error < least[k]) {
                least[k] = error;
                kept.scale[k] = scale;
            }
        }
    }
    for (int k = 0; k < QS_LANES; k++)
        if (!(least[k] < NONE))
            kept.scale[k] = most / range.bottom;
    for (int round = 0; round < 3; round++) {
        lane_sums s;
        sum_lanes(g, range, &kept, &s);
        for (int k = 0; k < QS_LANES; k++)
            if (s.ll[k] > 0)
                kept.scale[k] = s.xl[k] / s.ll[k];
    }
    return finish(g, range, &kept);
}
