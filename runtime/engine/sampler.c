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

/* Few blocks hold anything that is looked for; whole ones are asked first, in vectors. */
enum { BLOCK = 64 };

static uint32_t greedy(const float *logits, uint32_t n)
{
    float top = logits[0];
    uint32_t best = 0;
    for (uint32_t i = 0; i < n; i += BLOCK) {
        const uint32_t end = n - i < BLOCK ? n : i + BLOCK;
        uint32_t any = n - i < BLOCK;
        for (uint32_t j = 0; !any && j < BLOCK; j += BLOCK / 2)
            for (uint32_t k = 0; k < BLOCK / 2; k++)
                any |= logits[i + j + k] > top;
        for (uint32_t j = i; any && j < end; j++)
            if (logits[j] > top) {
                top = logits[j];
                best = j;
            }
    }
    return best;
}

/* ---- the filters: a token is kept whose weight is at least `least` ---- */

enum { GROUP = 128, CHUNK = 256 };

typedef struct {
    const qe_kernels *kernels;
    const float *logits;
    uint32_t *w; /* (n) fixed-point weights of temperature 1; 0 once a token is out */
    uint32_t n, least;
} field;

/* What orders tokens: their weights, or the logits of those of one weight (0: of another). */
typedef struct {
    const field *field;
    uint32_t weight; /* 0: the keys are the weights themselves */
} keys;

static inline uint32_t key_of(const keys *k, uint32_t i)
{
    const uint32_t w = k->field->w[i];
    const uint32_t key = k->weight ? ordered(k->field->logits[i]) : 0;
    return k->weight ? w == k->weight ? key : 0 : w;
}

/* Drops, of the tokens with keys lo to hi (exclusive; at most GROUP), all behind the first
 * ones, which are `left` tokens or, with left 0, weigh `mass`. First come the larger by logit
 * (left) or weight, of equal ones the lower id. */
static void drop_from_group(const keys *k, uint32_t lo, uint32_t hi, uint32_t left,
                            uint64_t mass)
{
    const field *f = k->field;
    uint32_t ids[GROUP], sorted[GROUP], found = 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < f->n; i += BLOCK) {
        const uint32_t end = f->n - i < BLOCK ? f->n : i + BLOCK;
        uint32_t any = f->n - i < BLOCK;
        for (uint32_t j = 0; !any && j < BLOCK; j += BLOCK / 2)
            for (uint32_t b = 0; b < BLOCK / 2; b++)
                any |= key_of(k, i + j + b) - lo < hi - lo;
        for (uint32_t j = i; any && j < end; j++) {
            if (key_of(k, j) - lo >= hi - lo)
                continue;
            const uint32_t key = left ? ordered(f->logits[j]) : f->w[j];
            uint32_t at = found++;
            for (; at && sorted[at - 1] < key; at--) {
                sorted[at] = sorted[at - 1];
                ids[at] = ids[at - 1];
            }
            sorted[at] = key;
            ids[at] = j;
        }
    }
    for (uint32_t i = 0; i < found; i++) {
        const uint32_t weight = f->w[ids[i]];
        if (left ? i >= left : sum >= mass)
            f->w[ids[i]] = 0;
        sum += weight;
    }
}

/* Drops, of the tokens with this one key, all behind the first by id, as above. */
static void drop_by_id(const keys *k, uint32_t key, uint32_t left, uint64_t mass)
{
    const field *f = k->field;
    uint32_t found = 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < f->n; i++) {
        if (key_of(k, i) != key)
            continue;
        const uint32_t weight = f->w[i];
        if (left ? found >= left : sum >= mass)
            f->w[i] = 0;
        found++;
        sum += weight;
    }
}

/* How many keys are at least `least`, and the sum of their weights. */
static uint32_t survey(const keys *k, uint32_t least, uint64_t *sum)
{
    const keys all = *k;
    const uint32_t n = k->field->n;
    uint32_t found = 0;
    if (!k->weight)
        return k->field->kernels->survey(k->field->w, n, least, sum);
    for (uint32_t i = 0; i < n; i++)
        found += key_of(&all, i) >= least;
    *sum = (uint64_t)found * k->weight;
    return found;
}

/* Draws the range lo to hi (exclusive) in to the smallest and largest key that it holds. */
static void tighten(const keys *k, uint32_t *lo, uint32_t *hi)
{
    const keys all = *k;
    const uint32_t from = *lo, span = *hi - *lo, n = k->field->n;
    int32_t least = 0x7FFFFFFF, most = 0;
    if (span > 0x7FFFFFFF)
        return;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t at = key_of(&all, i) - from;
        const int32_t low = at < span ? (int32_t)at : 0x7FFFFFFF;
        const int32_t high = at < span ? (int32_t)at : 0;
        least = low < least ? low : least;
        most = high > most ? high : most;
    }
    *hi = from + (uint32_t)most + 1;
    *lo = from + (uint32_t)least;
}

/* Keeps, of the tokens with a key, the largest until they are `left` tokens (top-k, by logits)
 * or, with left 0, weigh `mass` (top-p, by weights); of equal ones the first. Narrows down the
 * range lo to hi of keys that the last one kept can have, until few tokens have such a key: by
 * octaves, then by where the line between what is known at its ends says that it lies, a little
 * to this side and to that of it. Returns the least key that is kept. */
static uint32_t keep_first(const keys *k, uint32_t lo, uint32_t left, uint64_t mass)
{
    uint32_t hi = k->weight ? 0xFFFFFFFF : (1u << 30) + 2, above = 0;
    uint64_t sum, sum_above = 0, here_sum;
    uint32_t count = survey(k, lo, &sum);
    if (left ? count <= left : sum < mass)
        return lo;
    for (uint32_t step = 0; count - above > GROUP && hi - lo > 1; step++) {
        const uint32_t known = count - above;
        uint32_t octaves = 0, middle;
        while (lo < hi >> (octaves + 1))
            octaves++;
        if (octaves > 1) {
            middle = lo << octaves / 2;
        } else {
            const float all = (float)known, side = (float)(GROUP / 3) / all;
            const float part = left ? (float)(count - left) / all
                                    : (float)(sum - mass) / (float)(sum - sum_above);
            float at = step % 3 == 0 ? part - side : step % 3 == 1 ? part + side : 0.5f;
            at = at > 0.0f ? at < 1.0f ? at : 1.0f : 0.0f;
            middle = lo + 1 + (uint32_t)(at * (float)(hi - lo - 2));
            middle = middle < hi ? middle : hi - 1;
        }
        const uint32_t here = survey(k, middle, &here_sum);
        if (left ? here >= left : here_sum >= mass) {
            lo = middle;
            count = here;
            sum = here_sum;
        } else {
            hi = middle;
            above = here;
            sum_above = here_sum;
        }
        if (count - above == known) /* no token in the part that was cut off: few keys */
            tighten(k, &lo, &hi);
    }
    const uint32_t more = left ? left - above : 0;
    if (count - above <= GROUP)
        drop_from_group(k, lo, hi, more, mass - sum_above);
    else if (k->weight || !left)
        drop_by_id(k, lo, more, mass - sum_above);
    else { /* many of one weight: by their logits */
        const keys by_logit = {k->field, lo};
        const uint32_t least = keep_first(&by_logit, 1, more, 0);
        for (uint32_t i = 0; i < k->field->n; i++)
            if (k->field->w[i] == lo && key_of(&by_logit, i) < least)
                k->field->w[i] = 0;
    }
    return lo;
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

/* Steps 2 to 6: w becomes the weights at the temperature of what the filters leave, 0
 * elsewhere. */
static void filter(const qe_sampler *o, field *f, float top, float scale)
{
    const uint32_t floor = (uint32_t)(o->min_p * 0x1p30f);
    const keys by_weight = {f, 0};
    uint32_t hot[CHUNK];
    uint64_t sum;
    f->kernels->weights(f->logits, f->n, top, 1.0f, f->w);
    if (o->top_k)
        f->least = keep_first(&by_weight, 1, o->top_k, 0);
    if (o->top_p < 1.0f) {
        f->kernels->survey(f->w, f->n, f->least, &sum);
        f->least = keep_first(&by_weight, f->least, 0, share(o->top_p, sum));
    }
    if (f->least < floor)
        f->least = floor;
    for (uint32_t i = 0; i < f->n; i += CHUNK) {
        const uint32_t count = f->n - i < CHUNK ? f->n - i : CHUNK;
        uint32_t *w = f->w + i;
        if (!f->kernels->survey(w, count, f->least, &sum)) {
            memset(w, 0, count * sizeof *w);
            continue;
        }
        f->kernels->weights(f->logits + i, count, top, scale, hot);
        for (uint32_t j = 0; j < count; j++)
            w[j] = w[j] >= f->least ? hot[j] : 0;
    }
}

/* Step 7: by exact sums, in the order of the ids. */
static int32_t draw(const field *f, uint64_t *random, uint32_t best)
{
    uint64_t sum, left;
    f->kernels->survey(f->w, f->n, 0, &sum);
    left = multiply_high(next_random(random), sum);
    for (uint32_t i = 0; i < f->n; i += CHUNK) {
        const uint32_t count = f->n - i < CHUNK ? f->n - i : CHUNK;
        f->kernels->survey(f->w + i, count, 0, &sum);
        if (left >= sum) {
            left -= sum;
            continue;
        }
        for (uint32_t j = i; j < i + count; j++) {
            if (left < f->w[j])
                return (int32_t)j;
            left -= f->w[j];
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
    field f = {qe_set(s), logits, qe_at(s, AT_WEIGHTS), n, 1};
    if (o->top_k || o->top_p < 1.0f || o->min_p > 0.0f)
        filter(o, &f, top, scale);
    else
        f.kernels->weights(logits, n, top, scale, f.w);
    return draw(&f, &o->random, best);
}
