/* check.c - whether a kernel set computes here what portable.c does: a few small products, so
 * that a wrong build or processor is noticed before it writes wrong text. It is not the proof
 * of equality, which is the tests' (tests/conformance/kernel_check.c). */
#include "kernels.h"

enum { COLUMNS = 256, TOKENS = 3, ROWS = 16, BLOCKS = COLUMNS / 32 };

/* What the products read and write; on the stack, about 9 KiB. */
typedef struct {
    _Alignas(64) uint8_t w[ROWS * 34 * BLOCKS]; /* q8_0 is the largest */
    _Alignas(64) int8_t q[TOKENS * COLUMNS];
    _Alignas(64) float x[TOKENS * COLUMNS];
    _Alignas(64) float out[2][TOKENS * ROWS];
    float d[TOKENS * BLOCKS];
    int16_t s[TOKENS * BLOCKS * 2];
} room;

static uint32_t next(uint32_t *state) /* a linear congruential generator */
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Groups of 16 rows: any byte is a level or an integer scale, float scales are halves of 2^-8
 * and some. */
static void fill_weights(uint8_t *w, const qe_format *f, uint32_t *state)
{
    const size_t bytes = qe_group_bytes(f, ROWS, COLUMNS), period = 32u * f->period;
    for (size_t i = 0; i < bytes; i++)
        w[i] = (uint8_t)next(state);
    for (uint32_t r = 0; r < ROWS && f->row_head; r++) /* between 2^-9 and 2^-8 */
        w[4 * r + 3] = 0x3B;
    for (uint32_t at = 0; at < COLUMNS; at += period, w += qe_group_bytes(f, ROWS, period))
        for (uint32_t r = 0; r < ROWS * f->halves; r++)
            w[2 * r + 1] = (uint8_t)(0x1C | (next(state) & 0x83));
}

static int same(const qe_kernels *set, room *a, uint32_t type)
{
    qe_matmul m = {
        .w = a->w,
        .type = type,
        .layout = ROWS,
        .rows = ROWS,
        .columns = COLUMNS,
        .act = {.q = a->q, .d = a->d, .s = a->s, .stride = COLUMNS},
        .out = a->out[0],
        .out_stride = ROWS,
        .tokens = TOKENS,
    };
    set->matmul(&m, 0, 1);
    m.out = a->out[1];
    qe_portable_matmul(&m, 0, 1);
    return memcmp(a->out[0], a->out[1], sizeof a->out[0]) == 0;
}

int qe_kernels_check(const void *kernels)
{
    const qe_kernels *set = kernels;
    uint32_t state = 1;
    room a;
    if (set == &qe_portable)
        return QE_OK;
    for (uint32_t i = 0; i < TOKENS * COLUMNS; i++)
        a.x[i] = (float)((int32_t)(next(&state) & 0xFFFF) - 0x8000) * 0x1p-12f;
    for (uint32_t t = 0; t < TOKENS; t++) {
        int8_t q[COLUMNS];
        float d[BLOCKS];
        int16_t s[2 * BLOCKS];
        int8_t *to = a.q + t * COLUMNS;
        set->quantize(a.x + t * COLUMNS, COLUMNS, to, a.d + t * BLOCKS, a.s + 2 * t * BLOCKS);
        qe_portable.quantize(a.x + t * COLUMNS, COLUMNS, q, d, s);
        if (memcmp(q, to, sizeof q) != 0 || memcmp(d, a.d + t * BLOCKS, sizeof d) != 0 ||
            memcmp(s, a.s + 2 * t * BLOCKS, sizeof s) != 0)
            return QE_ERR_KERNELS;
    }
    for (uint32_t type = 0; type <= QE_A6; type++) {
        const qe_format *f = qe_format_of(type);
        if (!f)
            continue;
        fill_weights(a.w, f, &state);
        if (!same(set, &a, type))
            return QE_ERR_KERNELS;
    }
    return QE_OK;
}

const char *qe_kernels_wrong(uint32_t features)
{
    const char *name;
    int usable;
    for (uint32_t i = 0; (name = qe_kernels_list(i, features, &usable)) != NULL; i++)
        if (usable && qe_kernels_check(qe_kernels_find(name, features)) != QE_OK)
            return name;
    return NULL;
}
