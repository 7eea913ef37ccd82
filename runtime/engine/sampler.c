/* sampler.c - the draw of SPEC 2.11: fixed-point weights, exact sums, index order; no sort, so
 * no order to disagree about. */
#include "session.h"

enum { PENALTY_WINDOW = 64 };

/* Patterns of floats in an order that integers can compare. */
static uint32_t ordered(float x)
{
    uint32_t u = qe_bits(x);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static void penalize(qe_session *s, float penalty)
{
    float *logits = qe_floats(s, AT_LOGITS);
    const uint32_t *history = qe_at(s, AT_HISTORY);
    const uint32_t from = s->position > PENALTY_WINDOW ? s->position - PENALTY_WINDOW : 0;
    for (uint32_t i = from; i < s->position; i++) {
        uint32_t seen = from;
        while (history[seen] != history[i])
            seen++;
        if (seen != i)
            continue;
        float *l = &logits[history[i]];
        *l = *l > 0.0f ? *l / penalty : *l * penalty;
    }
}

static uint32_t greedy(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* ---- candidates: ascending token ids, kept in the array that held all weights ---- */

enum { CHUNK = 256 };

typedef struct {
    const qe_kernels *kernels;
    const float *logits;
    uint32_t *ids; /* (count) */
    uint32_t count;
    float top;
} picks;

/* Weights (SPEC 2.11, step 3 or 6) of candidates first .. first + count - 1, count <= CHUNK. */
static void weigh(const picks *p, uint32_t first, uint32_t count, float scale, uint32_t *w)
{
    float x[CHUNK];
    for (uint32_t i = 0; i < count; i++)
        x[i] = p->logits[p->ids[first + i]];
    p->kernels->weights(x, count, p->top, scale, w);
}

static uint32_t chunk_of(const picks *p, uint32_t first)
{
    return p->count - first < CHUNK ? p->count - first : CHUNK;
}

/* Turns n weights into the ids of those that are at least `least`, in place. */
static uint32_t gather(uint32_t *w, uint32_t n, uint32_t least)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i += 16) {
        const uint32_t end = n - i < 16 ? n - i : 16;
        uint32_t any = 0;
        for (uint32_t j = 0; j < end; j++)
            any |= w[i + j] >= least;
        if (!any)
            continue;
        for (uint32_t j = 0; j < end; j++) { /* writes behind what it reads */
            const uint32_t weight = w[i + j];
            w[kept] = i + j;
            kept += weight >= least;
        }
    }
    return kept;
}

/* A level such that those at or above it are at least `count` with a sum of at least `mass`;
 * high enough, where it can be, that they are few. */
static uint32_t level(const picks *p, uint32_t n, uint32_t count, uint64_t mass)
{
    static const uint32_t levels[] = {1u << 24, 1u << 20, 1u << 16, 1u << 11};
    for (int k = 0; k < 4; k++) {
        uint64_t sum;
        if (p->kernels->survey(p->ids, n, levels[k], &sum) >= count && sum >= mass)
            return levels[k];
    }
    return 0;
}

/* Keeps the k candidates with the largest logits, of equal ones the first: four counting passes
 * find the k-th largest pattern. */
static void keep_largest(picks *p, uint32_t k)
{
    uint32_t prefix = 0, mask = 0, above = 0, kept = 0;
    if (p->count <= k)
        return;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint32_t counts[256] = {0}, bucket = 255;
        for (uint32_t i = 0; i < p->count; i++) {
            const uint32_t key = ordered(p->logits[p->ids[i]]);
            if ((key & mask) == prefix)
                counts[key >> shift & 255u]++;
        }
        while (above + counts[bucket] < k)
            above += counts[bucket--];
        prefix |= bucket << shift;
        mask |= 255u << shift;
    }
    for (uint32_t i = 0, equal = k - above; i < p->count; i++) {
        const uint32_t id = p->ids[i], key = ordered(p->logits[id]);
        if (key < prefix || (key == prefix && !equal))
            continue;
        equal -= key == prefix;
        p->ids[kept++] = id;
    }
    p->count = kept;
}

/* Keeps the largest weights until their sum reaches target; of equal ones the first. */
static void keep_mass(picks *p, uint64_t target)
{
    uint32_t prefix = 0, mask = 0, kept = 0, w[CHUNK];
    uint64_t sum = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint64_t mass[256] = {0};
        uint32_t bucket = 255;
        for (uint32_t i = 0; i < p->count; i += CHUNK) {
            const uint32_t count = chunk_of(p, i);
            weigh(p, i, count, 1.0f, w);
            for (uint32_t j = 0; j < count; j++)
                if ((w[j] & mask) == prefix)
                    mass[w[j] >> shift & 255u] += w[j];
        }
        while (bucket && sum + mass[bucket] < target)
            sum += mass[bucket--];
        prefix |= bucket << shift;
        mask |= 255u << shift;
    }
    for (uint32_t i = 0; i < p->count; i += CHUNK) {
        const uint32_t count = chunk_of(p, i);
        weigh(p, i, count, 1.0f, w);
        for (uint32_t j = 0; j < count; j++) {
            if (w[j] < prefix || (w[j] == prefix && sum >= target))
                continue;
            sum += w[j] == prefix ? w[j] : 0;
            p->ids[kept++] = p->ids[i + j];
        }
    }
    p->count = kept;
}

/* Keeps the weights that are at least `least`. */
static void keep_from(picks *p, uint32_t least)
{
    uint32_t kept = 0, w[CHUNK];
    for (uint32_t i = 0; i < p->count; i += CHUNK) {
        const uint32_t count = chunk_of(p, i);
        weigh(p, i, count, 1.0f, w);
        for (uint32_t j = 0; j < count; j++)
            if (w[j] >= least)
                p->ids[kept++] = p->ids[i + j];
    }
    p->count = kept;
}

static uint64_t mass_of(const picks *p, float scale)
{
    uint32_t w[CHUNK];
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->count; i += CHUNK) {
        const uint32_t count = chunk_of(p, i);
        weigh(p, i, count, scale, w);
        for (uint32_t j = 0; j < count; j++)
            sum += w[j];
    }
    return sum;
}

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static uint64_t multiply_high(uint64_t a, uint64_t b)
{
    const uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
    const uint64_t low = al * bl, m1 = ah * bl + (low >> 32), m2 = al * bh + (uint32_t)m1;
    return ah * bh + (m1 >> 32) + (m2 >> 32);
}

static uint64_t share(float p, uint64_t sum)
{
    return multiply_high((uint64_t)(uint32_t)(p * 0x1p24f) << 40, sum);
}

/* Steps 2 to 5: the candidates that the filters leave. */
static picks filtered(const qe_session *s, const qe_sampler *o, float top)
{
    const uint32_t n = s->image->config.vocab_size;
    const uint32_t k = o->top_k && o->top_k < n ? o->top_k : 0;
    const uint32_t floor = (uint32_t)(o->min_p * 0x1p30f);
    picks p = {.kernels = qe_set(s), .logits = qe_floats(s, AT_LOGITS), .top = top};
    p.ids = qe_at(s, AT_WEIGHTS);
    p.kernels->weights(p.logits, n, top, 1.0f, p.ids);
    if (k) {
        p.count = gather(p.ids, n, level(&p, n, k, 0));
        keep_largest(&p, k);
        if (o->top_p < 1.0f)
            keep_mass(&p, share(o->top_p, mass_of(&p, 1.0f)));
    } else if (o->top_p < 1.0f) {
        uint64_t sum;
        p.kernels->survey(p.ids, n, 0, &sum);
        const uint64_t target = share(o->top_p, sum);
        p.count = gather(p.ids, n, level(&p, n, 1, target));
        keep_mass(&p, target);
    } else {
        p.count = gather(p.ids, n, floor);
    }
    if (floor)
        keep_from(&p, floor);
    return p;
}

static int32_t draw_from(const picks *p, float scale, uint64_t *random, uint32_t best)
{
    uint32_t w[CHUNK];
    uint64_t left = multiply_high(next_random(random), mass_of(p, scale));
    for (uint32_t i = 0; i < p->count; i += CHUNK) {
        const uint32_t count = chunk_of(p, i);
        weigh(p, i, count, scale, w);
        for (uint32_t j = 0; j < count; j++) {
            if (left < w[j])
                return (int32_t)p->ids[i + j];
            left -= w[j];
        }
    }
    return (int32_t)best;
}

int32_t qe_session_sample(qe_session *s, qe_sampler *o)
{
    const uint32_t n = s->image->config.vocab_size;
    const float *logits = qe_floats(s, AT_LOGITS);
    if (!(o->temperature >= 0.0f && o->temperature <= 1e6f) ||
        !(o->top_p >= 0.0f && o->top_p <= 1.0f) || !(o->min_p >= 0.0f && o->min_p <= 1.0f) ||
        !(o->repeat_penalty > 0.0f && o->repeat_penalty <= 1e6f) || !s->position)
        return QE_ERR_USAGE;
    if (o->repeat_penalty != 1.0f)
        penalize(s, o->repeat_penalty);
    const uint32_t best = greedy(logits, n);
    if (o->temperature < 1e-6f)
        return (int32_t)best;
    const float top = logits[best], scale = 1.0f / o->temperature;
    if ((o->top_k && o->top_k < n) || o->top_p < 1.0f || o->min_p > 0.0f) {
        const picks p = filtered(s, o, top);
        return draw_from(&p, scale, &o->random, best);
    }
    uint32_t *w = qe_at(s, AT_WEIGHTS);
    qe_set(s)->weights(logits, n, top, scale, w);
    uint64_t sum, left;
    qe_set(s)->survey(w, n, 0, &sum);
    left = multiply_high(next_random(&o->random), sum);
    for (uint32_t i = 0; i < n; i++) {
        if (left < w[i])
            return (int32_t)i;
        left -= w[i];
    }
    return (int32_t)best;
}
