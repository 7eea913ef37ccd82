/* lanes_keys.h - the sampler's passes over all tokens (SPEC 2.11) on vectors of the machine's
 * own width. The end of lanes.h, and of no use without it. A set that defines QE_OWN_SURVEY
 * brings its own survey and pick. */

static void weights(const float *x, uint32_t n, float top, float scale, uint32_t least,
                    uint32_t *w)
{
    uint32_t i = 0;
    for (; i + W <= n; i += W) {
        vu v;
        memcpy(&v, w + i, sizeof v);
        const vi kept = (vi)(v >= least);
        const vf e = vec_exp_below((load(x + i) - splat(top)) * splat(scale)) * splat(0x1p30f);
        const vi whole = (__builtin_convertvector(e, vi) | 1) & kept;
        memcpy(w + i, &whole, sizeof whole);
    }
    for (; i < n; i++)
        w[i] =
            w[i] < least ? 0 : (uint32_t)(int32_t)(qe_exp((x[i] - top) * scale) * 0x1p30f) | 1u;
}

static void order(const float *x, uint32_t n, uint32_t *keys)
{
    uint32_t i = 0;
    for (; i + W <= n; i += W) {
        vi v;
        memcpy(&v, x + i, sizeof v);
        v ^= v >> 31 | (int32_t)0x80000000;
        memcpy(keys + i, &v, sizeof v);
    }
    for (; i < n; i++) {
        const uint32_t u = qe_bits(x[i]);
        keys[i] = u & 0x80000000u ? ~u : u | 0x80000000u;
    }
}

enum { ASKED = 4 * W };

#if !defined(QE_OWN_SURVEY) /* and a pick */
/* Sums go in halves of 16 bits, folded before 32 bits can overflow. */
static uint32_t survey(const uint32_t *w, uint32_t n, uint32_t least, uint64_t *sum)
{
    uint32_t found = 0, i = 0;
    *sum = 0;
    while (n - i >= W) {
        const uint32_t left = (n - i) / W, steps = left < 4096 ? left : 4096;
        vi count = {0};
        vu low = {0}, high = {0};
        for (uint32_t step = 0; step < steps; step++, i += W) {
            vu v;
            memcpy(&v, w + i, sizeof v);
            const vi kept = (vi)(v >= least);
            count -= kept;
            low += v & (vu)kept & 0xFFFF;
            high += (v & (vu)kept) >> 16;
        }
        for (int k = 0; k < W; k++) {
            found += (uint32_t)count[k];
            *sum += low[k] + ((uint64_t)high[k] << 16);
        }
    }
    for (; i < n; i++) {
        found += w[i] >= least;
        *sum += w[i] >= least ? w[i] : 0;
    }
    return found;
}

static void pick(const uint32_t *w, uint32_t n, uint32_t lo, uint32_t span, uint32_t *at,
                 uint32_t *picked)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i += ASKED) {
        const uint32_t end = n - i < ASKED ? n : i + ASKED;
        vi any = {0};
        for (uint32_t j = i; j + W <= end; j += W) {
            vu v;
            memcpy(&v, w + j, sizeof v);
            any |= (vi)(v - lo < span);
        }
        if (n - i >= ASKED && most_of(any & 1) == 0)
            continue;
        for (uint32_t j = i; j < end; j++) {
            if (w[j] - lo >= span)
                continue;
            at[found] = j;
            picked[found++] = w[j];
        }
    }
}
#endif

/* Blocks of four vectors are asked first: few hold anything that is looked for. */
static uint32_t first_largest(const float *x, uint32_t n)
{
    uint32_t best = 0;
    float top = x[0];
    if (top != top) /* nothing is larger than a NaN */
        return 0;
    for (uint32_t i = 0; i + ASKED <= n; i += ASKED) {
        vf most4 = splat(top);
        for (int k = 0; k < 4; k++)
            most4 = larger(load(x + i + k * W), most4); /* a NaN is never the larger */
        const vi above = (vi)(most4 > splat(top));
        if (most_of(above & 1) == 0)
            continue;
        top = largest_of(most4);
        best = i;
    }
    for (uint32_t i = n / ASKED * ASKED; i < n; i++)
        if (x[i] > top) {
            top = x[i];
            best = i;
        }
    while (x[best] != top)
        best++;
    return best;
}
