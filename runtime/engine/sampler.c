/* sampler.c - the draw of SPEC 2.11: fixed-point weights, exact sums, index order; no sort, so no
 * order to disagree about. */
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

/* The k-th largest of the n keys and, in *above, how many are larger: four counting passes. */
static uint32_t kth_largest(const float *logits, uint32_t n, uint32_t k, uint32_t *above)
{
    uint32_t prefix = 0, mask = 0;
    *above = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint32_t counts[256] = {0}, bucket = 255;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t key = ordered(logits[i]);
            if ((key & mask) == prefix)
                counts[key >> shift & 255u]++;
        }
        while (*above + counts[bucket] < k)
            *above += counts[bucket--];
        prefix |= bucket << shift;
        mask |= 255u << shift;
    }
    return prefix;
}

/* Zeroes all weights but the largest whose sum reaches `target`; of equal ones the first stay. */
static void keep_mass(uint32_t *w, uint32_t n, uint64_t target)
{
    uint32_t prefix = 0, mask = 0;
    uint64_t sum = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint64_t mass[256] = {0};
        uint32_t bucket = 255;
        for (uint32_t i = 0; i < n; i++)
            if ((w[i] & mask) == prefix)
                mass[w[i] >> shift & 255u] += w[i];
        while (bucket && sum + mass[bucket] < target)
            sum += mass[bucket--];
        prefix |= bucket << shift;
        mask |= 255u << shift;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (w[i] < prefix || (w[i] == prefix && sum >= target))
            w[i] = 0;
        else if (w[i] == prefix)
            sum += w[i];
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

static uint64_t total(const uint32_t *w, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += w[i];
    return sum;
}

int32_t qe_session_sample(qe_session *s, qe_sampler *o)
{
    const uint32_t n = s->image->config.vocab_size;
    const qe_kernels *k = qe_set(s);
    float *logits = qe_floats(s, AT_LOGITS);
    uint32_t *w = qe_at(s, AT_WEIGHTS);
    if (!(o->temperature >= 0.0f && o->temperature <= 1e6f) || !(o->top_p >= 0.0f && o->top_p <= 1.0f) ||
        !(o->min_p >= 0.0f && o->min_p <= 1.0f) ||
        !(o->repeat_penalty > 0.0f && o->repeat_penalty <= 1e6f) || !s->position)
        return QE_ERR_USAGE;
    if (o->repeat_penalty != 1.0f)
        penalize(s, o->repeat_penalty);
    const uint32_t best = greedy(logits, n);
    if (o->temperature < 1e-6f)
        return (int32_t)best;

    const float top = logits[best];
    k->weights(logits, n, top, 1.0f, w);
    if (o->top_k && o->top_k < n) {
        uint32_t above, edge = kth_largest(logits, n, o->top_k, &above);
        for (uint32_t i = 0, equal = o->top_k - above; i < n; i++) {
            uint32_t key = ordered(logits[i]);
            if (key < edge || (key == edge && !equal))
                w[i] = 0;
            else if (key == edge)
                equal--;
        }
    }
    if (o->top_p < 1.0f)
        keep_mass(w, n, (uint64_t)(uint32_t)(o->top_p * 0x1p24f) * (total(w, n) >> 24));
    const uint32_t floor = (uint32_t)(o->min_p * 0x1p30f);
    w[best] = 1u << 30 | 1u; /* the best always stays */
    if (o->temperature != 1.0f) {
        const float scale = 1.0f / o->temperature;
        for (uint32_t i = 0; i < n; i += 256) {
            const uint32_t count = n - i < 256 ? n - i : 256;
            uint32_t hot[256];
            k->weights(logits + i, count, top, scale, hot);
            for (uint32_t j = 0; j < count; j++)
                w[i + j] = w[i + j] && w[i + j] >= floor ? hot[j] : 0;
        }
    } else {
        for (uint32_t i = 0; i < n; i++)
            w[i] = w[i] >= floor ? w[i] : 0;
    }

    uint64_t sum = total(w, n), left = multiply_high(next_random(&o->random), sum);
    for (uint32_t i = 0; i < n; i++) {
        if (left < w[i])
            return (int32_t)i;
        left -= w[i];
    }
    return (int32_t)best;
}
