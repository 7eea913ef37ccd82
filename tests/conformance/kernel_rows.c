/* kernel_rows.c - kernel_check's cases for what works on one row: quantize, rmsnorm, silu_mul,
 * softmax and the sampler's weights. */
#include "kernel_check.h"

enum { LONGEST = 1024 };

static float x[LONGEST], y[LONGEST], truth[LONGEST], truth_d[LONGEST];
static int8_t truth_q[LONGEST];
static int16_t truth_s[LONGEST];

/* 1 .. 70, then some that are longer: the i-th length, 0 at the end. */
static uint32_t length(uint32_t i)
{
    static const uint32_t longer[] = {96, 127, 172, 576, 1000, 0};
    return i < 70 ? i + 1 : longer[i - 70];
}

static void check_quantize(uint32_t n, int kind)
{
    const uint32_t blocks = qe_ceil(n, 32) / 32;
    float *in = guarded(0, n * 4);
    fill_row(in, n, kind);
    qe_portable.quantize(in, n, truth_q, truth_d, truth_s);
    for (uint32_t i = 0; i < blocks * 32; i++) { /* what the rule promises of itself */
        const char ok = truth_q[i] >= -127 && (i < n || truth_q[i] == 0);
        same_bytes("the range of quantize", "portable", "\1", &ok, 1);
    }
    record_bytes(truth_q, blocks * 32);
    record(truth_d, blocks);
    record_bytes(truth_s, blocks * 4);
    for (uint32_t k = 0; k < set_count; k++) {
        int8_t *q = guarded(1, blocks * 32);
        float *d = guarded(2, blocks * 4);
        int16_t *s = guarded(3, blocks * 4);
        sets[k]->quantize(in, n, q, d, s);
        same_bytes("quantize's q", sets[k]->name, truth_q, q, blocks * 32);
        same_floats("quantize's d", sets[k]->name, truth_d, d, blocks);
        same_bytes("quantize's s", sets[k]->name, truth_s, s, blocks * 4);
    }
}

static void check_rmsnorm(uint32_t n, int kind)
{
    const float eps = pick(3) ? 1e-5f : 0.0f;
    float *in = guarded(0, n * 4), *w = guarded(1, n * 4);
    fill_row(in, n, kind);
    fill_row(w, n, kind);
    qe_portable.rmsnorm(truth, in, w, n, eps);
    record(truth, n);
    for (uint32_t k = 0; k < set_count; k++) {
        float *out = guarded(2, n * 4);
        sets[k]->rmsnorm(out, in, w, n, eps);
        same_floats("rmsnorm", sets[k]->name, truth, out, n);
    }
}

static void check_silu(uint32_t n, int kind)
{
    float *up = guarded(0, n * 4);
    fill_row(x, n, kind);
    fill_row(up, n, kind);
    if (kind == EXTREME)
        for (uint32_t i = 0; i < n; i++)
            x[i] = pick(2) ? extreme() : ordinary() * 16.0f;
    memcpy(truth, x, n * 4);
    qe_portable.silu_mul(truth, up, n);
    record(truth, n);
    for (uint32_t k = 0; k < set_count; k++) {
        float *gate = guarded(1, n * 4);
        memcpy(gate, x, n * 4);
        sets[k]->silu_mul(gate, up, n);
        same_floats("silu_mul", sets[k]->name, truth, gate, n);
    }
}

static void check_softmax(uint32_t n, int kind)
{
    const uint32_t padded = qe_ceil(n, 32), character = pick(6);
    for (uint32_t i = 0; i < padded; i++) {
        x[i] = ordinary() * 4.0f;
        if (kind == EXTREME) {
            switch (character) {
            case 0: x[i] = qe_float(0xFF800000u); break; /* nothing is possible */
            case 1: x[i] = qe_float(QE_NAN_BITS); break; /* nothing is known */
            case 2: x[i] = pick(4) ? x[i] : extreme(); break;
            case 3: x[i] = x[i] * 0x1p100f; break; /* all but one vanish */
            case 4: x[i] = pick(4) ? qe_float(0xFF800000u) : x[i]; break;
            default: x[i] = 7.0f - 45.0f * (float)pick(2); break; /* about the limit of exp */
            }
        }
        if (i >= n)
            x[i] = pick(2) ? qe_float(QE_NAN_BITS)
                           : 1e30f; /* stale: must neither count nor stay */
    }
    memcpy(truth, x, padded * 4);
    const float inverse = qe_portable.softmax(truth, n);
    record(truth, padded);
    record(&inverse, 1);
    for (uint32_t k = 0; k < set_count; k++) {
        float *s = guarded(0, padded * 4);
        memcpy(s, x, padded * 4);
        const float found = sets[k]->softmax(s, n);
        same_floats("softmax", sets[k]->name, truth, s, padded);
        same_floats("softmax's inverse", sets[k]->name, &inverse, &found, 1);
    }
}

static void check_weights(uint32_t n, int kind)
{
    const float top = 30.0f, scale = kind == EXTREME && pick(4) == 0
                                         ? 1e6f
                                         : qe_float((120 + pick(14)) << 23);
    float *in = guarded(0, n * 4);
    for (uint32_t i = 0; i < n; i++) {
        in[i] = pick(8) ? top - (ordinary() + 8.0f) * 4.0f : top;
        if (kind == EXTREME && pick(4) == 0)
            in[i] = extreme();
        if (in[i] > top) /* top is the largest: the sampler's promise */
            in[i] = top;
    }
    uint32_t *want = (uint32_t *)(void *)y;
    qe_portable.weights(in, n, top, scale, 0, want);
    record_bytes(want, n * 4);
    for (uint32_t k = 0; k < set_count; k++) {
        uint32_t *w = guarded(1, n * 4);
        sets[k]->weights(in, n, top, scale, 0, w);
        same_bytes("weights", sets[k]->name, want, w, n * 4);
        sets[k]->weights(in, n, top, scale, 1u << 29, w); /* again: only of the largest */
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t right = want[i] < 1u << 29 ? 0 : want[i];
            same_bytes("weights at least so large", sets[k]->name, &right, &w[i], 4);
        }
        memcpy(w, want, n * 4);
        for (uint32_t level = 0; level < 31; level += 5) {
            uint64_t a, b;
            const uint32_t expected = qe_portable.survey(want, n, 1u << level, &a);
            const uint32_t found = sets[k]->survey(w, n, 1u << level, &b);
            same_bytes("survey's sum", sets[k]->name, &a, &b, sizeof a);
            same_bytes("survey's count", sets[k]->name, &expected, &found, sizeof found);
        }
    }
}

/* order, survey of all 32 bits, pick and first_largest, on what is no NaN. */
static void check_keys(uint32_t n, int kind)
{
    float *in = guarded(0, n * 4);
    uint32_t *keys = (uint32_t *)(void *)y, *want = (uint32_t *)(void *)truth, at = 0, sure = 0;
    for (uint32_t i = 0; i < n; i++) {
        in[i] = kind == EXTREME && pick(4) == 0 ? extreme() : ordinary();
        if (in[i] != in[i] || pick(6) == 0)
            in[i] = (float)pick(3) - 1.0f; /* equal ones */
    }
    if (kind == EXTREME) { /* of an evaluation that failed; a NaN is never the largest */
        const uint32_t first = pick(8) ? n : 0;
        float *odd = guarded(1, n * 4);
        memcpy(odd, in, n * 4);
        for (uint32_t i = first ? 1 : 0; i < n; i += 1 + pick(5))
            odd[i] = qe_float(QE_NAN_BITS);
        const uint32_t right = qe_portable.first_largest(odd, n);
        for (uint32_t k = 0; k < set_count; k++) {
            const uint32_t found = sets[k]->first_largest(odd, n);
            same_bytes("first_largest beside NaN", sets[k]->name, &right, &found, 4);
        }
    }
    qe_portable.order(in, n, keys);
    for (uint32_t i = 1; i < n; i++) {
        sure += (keys[i] > keys[i - 1]) >= (in[i] > in[i - 1]); /* -0 is below +0 */
        at = in[i] > in[at] ? i : at;
    }
    const uint32_t all = n ? n - 1 : 0, lo = keys[pick(n)], span = 1 + pick(1u << 30);
    same_bytes("order", "portable", &all, &sure, 4);
    uint64_t sum, right_sum;
    const uint32_t count = qe_portable.survey(keys, n, lo, &right_sum);
    uint32_t between = 0;
    for (uint32_t i = 0; i < n; i++)
        between += keys[i] - lo < span;
    qe_portable.pick(keys, n, lo, span, want, want + between);
    for (uint32_t k = 0; k < set_count; k++) {
        uint32_t *out = guarded(1, n * 4);
        sets[k]->order(in, n, out);
        same_bytes("order", sets[k]->name, keys, out, n * 4);
        const uint32_t found = sets[k]->survey(keys, n, lo, &sum);
        same_bytes("survey of keys", sets[k]->name, &count, &found, 4);
        same_bytes("sum of keys", sets[k]->name, &right_sum, &sum, 8);
        const uint32_t first = sets[k]->first_largest(in, n);
        same_bytes("first_largest", sets[k]->name, &at, &first, 4);
        out = guarded(1, (2 * between + 1) * 4);
        sets[k]->pick(keys, n, lo, span, out, out + between);
        same_bytes("pick", sets[k]->name, want, out, 2 * between * 4);
    }
}

void check_rows(void)
{
    const uint32_t rounds = quick ? 8 : 200;
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t i = 0, n; (n = length(i)) != 0; i++) {
            const int kind = round & 1 ? EXTREME : ORDINARY;
            describe("round %u, n %u, %s data", (unsigned)round, (unsigned)n,
                     kind ? "extreme" : "ordinary");
            check_quantize(n, kind);
            check_rmsnorm(n, kind);
            check_silu(n, kind);
            check_softmax(n, kind);
            check_weights(n, kind);
        }
}

void check_sampling(void)
{
    const uint32_t rounds = quick ? 8 : 200;
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t i = 0, n; (n = length(i)) != 0; i++)
            check_keys(n, round & 1 ? EXTREME : ORDINARY);
}
