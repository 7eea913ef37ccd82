/* sampler.c - the draw of SPEC 2.11: fixed-point weights, exact sums, index order; no sort, so
 * no order to disagree about. */
#include "session.h"

enum { PENALTY_WINDOW = 64 };

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
        s->finite &= (qe_bits(*l) & 0x7FFFFFFFu) < QE_INF_BITS;
    }
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

/* ---- the filters: a token is kept whose key is at least `least` ---- */

enum { GROUP = 128, CHUNK = 256, SAMPLE = 256 };

/* Tokens that are still in. All of them at first; once they are few, a list of their own. */
typedef struct {
    const qe_kernels *kernels;
    const float *logits;
    const uint32_t *ids; /* of its tokens, ascending; NULL: token i is number i */
    uint32_t *w; /* (n) keys: logits in their order, or fixed-point weights; 0: it is out */
    uint32_t n, least;
} field;

/* Words that nobody uses between evaluations: where lists are kept that fit. */
typedef struct {
    uint32_t *words;
    uint64_t count;
} room;

/* A border between keys: those from lo to hi (exclusive) are `count - above` tokens, and the
 * last one kept is among them. sum: of the keys from lo on, sum_above: from hi on. */
typedef struct {
    const field *field;
    const uint32_t *at, *w; /* places in the field and keys looked at; at NULL: the field's */
    uint32_t n;
    uint32_t lo, hi, count, above;
    uint32_t left; /* so many tokens are kept (top-k) or, with 0, */
    uint64_t mass; /* as many as weigh this (top-p) */
    uint64_t sum, sum_above;
} border;

static inline uint32_t place(const border *b, uint32_t i)
{
    return b->at ? b->at[i] : i;
}

/* Of the tokens between lo and hi, at most GROUP, drops all behind the last one kept. First
 * come the larger keys, of equal ones the lower id. */
static void drop_from_group(const border *b)
{
    uint32_t places[GROUP], sorted[GROUP], found = 0;
    uint64_t sum = b->sum_above;
    for (uint32_t i = 0; i < b->n; i++) {
        const uint32_t key = b->w[i];
        if (key - b->lo >= b->hi - b->lo)
            continue;
        uint32_t at = found++;
        for (; at && sorted[at - 1] < key; at--) {
            sorted[at] = sorted[at - 1];
            places[at] = places[at - 1];
        }
        sorted[at] = key;
        places[at] = place(b, i);
    }
    for (uint32_t i = 0; i < found; i++) {
        if (b->left ? b->above + i >= b->left : sum >= b->mass)
            b->field->w[places[i]] = 0;
        sum += sorted[i];
    }
}

/* The same where they all have the key lo. */
static void drop_by_id(const border *b)
{
    uint32_t found = b->above;
    uint64_t sum = b->sum_above;
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->w[i] != b->lo)
            continue;
        if (b->left ? found >= b->left : sum >= b->mass)
            b->field->w[place(b, i)] = 0;
        found++;
        sum += b->lo;
    }
}

/* Draws lo and hi in to the smallest and largest key between them. */
static void tighten(border *b)
{
    const uint32_t from = b->lo, span = b->hi - b->lo;
    uint32_t least = span, most = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        const uint32_t at = b->w[i] - from;
        if (at >= span)
            continue;
        least = at < least ? at : least;
        most = at > most ? at : most;
    }
    b->hi = from + most + 1;
    b->lo = from + least;
}

/* The least key that so many tokens of the sample have at least or, with wanted 0, so that the
 * others, by the sample, weigh what top-p drops. */
static uint32_t key_in_sample(const border *b, const uint32_t *sample, uint32_t wanted)
{
    const qe_kernels *kernels = b->field->kernels;
    const float dropped =
        (float)(b->sum - b->mass) * ((float)SAMPLE / (float)(b->count ? b->count : 1));
    uint64_t sum, all;
    uint32_t lo = b->lo, hi = b->hi;
    kernels->survey(sample, SAMPLE, lo, &all);
    while (hi - lo > 1) {
        const uint32_t middle = lo + (hi - lo) / 2;
        const uint32_t count = kernels->survey(sample, SAMPLE, middle, &sum);
        if (wanted ? count >= wanted : (float)(all - sum) <= dropped)
            lo = middle;
        else
            hi = middle;
    }
    return lo;
}

/* A guess by a sample of the keys, so many deviations below the border. */
static uint32_t guess(const border *b, float deviations, room r)
{
    uint64_t sum;
    for (uint32_t i = 0; i < SAMPLE; i++)
        r.words[i] = b->w[i * (b->n / SAMPLE)];
    float rank = (float)b->left * SAMPLE / (float)b->n;
    if (!b->left)
        rank = (float)b->field->kernels->survey(r.words, SAMPLE, key_in_sample(b, r.words, 0),
                                                &sum);
    rank = rank + deviations * (qe_sqrt(rank) + 1.0f);
    if (rank >= SAMPLE)
        return b->lo + 1;
    const uint32_t key = rank < 1.0f ? b->hi - 1 : key_in_sample(b, r.words, (uint32_t)rank);
    return key > b->lo ? key : b->lo + 1;
}

/* Where to cut next: of weights, at an octave; then where the line between what is known at its
 * ends says that the border lies, a little to this side and to that of it. */
static uint32_t cut(const border *b, uint32_t step)
{
    uint32_t octaves = 0;
    while (!b->left && b->lo < b->hi >> (octaves + 1))
        octaves++;
    if (octaves > 1)
        return b->lo << octaves / 2;
    const float all = (float)(b->count - b->above), side = (float)(GROUP / 3) / all;
    const float part = b->left ? (float)(b->count - b->left) / all
                               : (float)(b->sum - b->mass) / (float)(b->sum - b->sum_above);
    float at = step % 3 == 0 ? part - side : step % 3 == 1 ? part + side : 0.5f;
    at = at > 0.0f ? at < 1.0f ? at : 1.0f : 0.0f;
    const uint32_t middle = b->lo + 1 + (uint32_t)(at * (float)(b->hi - b->lo - 2));
    return middle < b->hi ? middle : b->hi - 1;
}

/* Goes on with a list of the tokens between lo and hi, if it has room and spares anything. */
static void narrow(border *b, room r)
{
    const uint32_t between = b->count - b->above;
    if (b->at || r.count / 2 < between || b->n / 4 < between)
        return;
    b->field->kernels->pick(b->w, b->n, b->lo, b->hi - b->lo, r.words, r.words + between);
    b->at = r.words;
    b->w = r.words + between;
    b->n = between;
    b->sum -= b->sum_above;
    b->mass -= b->sum_above;
    b->left -= b->left ? b->above : 0;
    b->count = between;
    b->above = 0;
    b->sum_above = 0;
}

static uint64_t share(float p, uint64_t sum)
{
    return multiply_high((uint64_t)(uint32_t)(p * 0x1p24f) << 40, sum);
}

/* Keeps, of the tokens with keys from f->least to below hi, the largest until they are `left`
 * (top-k) or, with left 0, weigh the share p of them all (top-p); of equal ones the first.
 * Narrows the border down until few tokens lie in it, or tokens of one key. */
static void keep_first(field *f, uint32_t hi, uint32_t left, float p, room r)
{
    border b = {.field = f, .w = f->w, .n = f->n, .lo = f->least, .hi = hi, .left = left};
    uint64_t sum;
    b.count = f->kernels->survey(b.w, b.n, b.lo, &b.sum);
    b.mass = share(p, b.sum);
    if (left ? b.count <= left : b.sum < b.mass)
        return;
    const int sampled = b.n > 4 * SAMPLE && r.count >= SAMPLE;
    float aim = 1.5f; /* below the border first, then above it; farther where that missed */
    for (uint32_t step = 0; b.count - b.above > GROUP && b.hi - b.lo > 1; step++) {
        const int guessed = sampled && !b.at && step < 4 && aim != 0.0f;
        const uint32_t known = b.count - b.above,
                       middle = guessed ? guess(&b, aim, r) : cut(&b, step);
        const uint32_t here = f->kernels->survey(b.w, b.n, middle, &sum);
        if (b.left ? here >= b.left : sum >= b.mass) {
            b.lo = middle;
            b.count = here;
            b.sum = sum;
            aim = aim < 0.0f ? 2.0f * aim : b.above ? 0.0f : -1.5f;
        } else {
            b.hi = middle;
            b.above = here;
            b.sum_above = sum;
            aim = aim > 0.0f ? 2.0f * aim : 0.0f;
        }
        if (b.count - b.above == known) /* nothing in the part that was cut off: few keys */
            tighten(&b);
        narrow(&b, r);
    }
    if (b.count - b.above <= GROUP)
        drop_from_group(&b);
    else
        drop_by_id(&b);
    f->least = b.lo;
}

/* Makes the kept tokens a list, if they are few and it has room; the rest is then theirs. */
static void list_kept(field *f, room *r)
{
    uint64_t sum;
    const uint32_t kept = f->kernels->survey(f->w, f->n, f->least, &sum);
    if (f->ids || r->count / 2 < kept || f->n / 4 < kept)
        return;
    f->kernels->pick(f->w, f->n, f->least, 0xFFFFFFFF - f->least, r->words, r->words + kept);
    f->ids = r->words;
    f->w = r->words + kept;
    f->n = kept;
    r->words += 2 * kept;
    r->count -= 2 * kept;
}

/* Weights of the tokens that are kept, 0 elsewhere. */
static void weigh(field *f, float top, float scale)
{
    float logits[CHUNK];
    for (uint32_t i = 0, count; f->ids && i < f->n; i += count) {
        count = f->n - i < CHUNK ? f->n - i : CHUNK;
        for (uint32_t j = 0; j < count; j++)
            logits[j] = f->logits[f->ids[i + j]];
        f->kernels->weights(logits, count, top, scale, f->least, f->w + i);
    }
    if (!f->ids)
        f->kernels->weights(f->logits, f->n, top, scale, f->least, f->w);
    f->least = 1;
}

/* Steps 2 to 6. */
static void filter(const qe_sampler *o, field *f, float top, float scale, room r)
{
    const uint32_t floor = (uint32_t)(o->min_p * 0x1p30f);
    if (o->top_k && o->top_k < f->n) {
        f->kernels->order(f->logits, f->n, f->w);
        f->least = 1;
        keep_first(f, 0xFFFFFFFF, o->top_k, 1.0f, r);
        list_kept(f, &r);
    }
    weigh(f, top, 1.0f);
    if (o->top_p < 1.0f)
        keep_first(f, (1u << 30) + 2, 0, o->top_p, r);
    if (f->least < floor)
        f->least = floor;
    list_kept(f, &r);
    weigh(f, top, scale);
}

/* Step 7: by exact sums, in the order of the ids. */
static uint32_t draw(const field *f, uint64_t *random, uint32_t best)
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
                return f->ids ? f->ids[j] : j;
            left -= f->w[j];
        }
    }
    return best;
}

int qe_sampler_check(const qe_sampler *o)
{
    return o->temperature >= 0.0f && o->temperature <= 1e6f && o->top_k <= 1u << 31 &&
                   o->top_p >= 0.0f && o->top_p <= 1.0f && o->min_p >= 0.0f &&
                   o->min_p <= 1.0f && o->repeat_penalty >= 1e-6f && o->repeat_penalty <= 1e6f
               ? QE_OK
               : QE_ERR_USAGE; /* of NaN too */
}

int32_t qe_session_sample(qe_session *s, qe_sampler *o)
{
    const uint32_t n = s->image->config.vocab_size;
    const float *logits = qe_floats(s, AT_LOGITS);
    const qe_kernels *kernels = qe_set(s);
    room r;
    if (qe_sampler_check(o) || !s->position)
        return QE_ERR_USAGE;
    if (o->repeat_penalty != 1.0f)
        penalize(s, o->repeat_penalty);
    if (!s->finite)
        return QE_ERR_NUMERIC;
    const uint32_t best = kernels->first_largest(logits, n);
    if (o->temperature < 1e-6f)
        return (int32_t)best;
    const float top = logits[best], scale = 1.0f / o->temperature;
    field f = {kernels, logits, NULL, qe_at(s, AT_WEIGHTS), n, 0};
    r.words = qe_session_scratch(s, &r.count);
    r.count /= sizeof *r.words;
    if (o->top_k || o->top_p < 1.0f || o->min_p > 0.0f)
        filter(o, &f, top, scale, r);
    else
        kernels->weights(logits, n, top, scale, 0, f.w);
    return (int32_t)draw(&f, &o->random, best);
}
