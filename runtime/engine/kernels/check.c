/* check.c - whether a kernel set computes here what portable.c does: a few small products, so
 * that a wrong build or processor is noticed before it writes wrong text. It is not the proof
 * of equality, which is the tests' (tests/conformance/kernel_check.c). */
#include "kernels.h"

enum { COLUMNS = 64, TOKENS = 3, ROWS = 16, BLOCKS = COLUMNS / 32 };

/* What the products read and write; on the stack, about 4 KiB. */
typedef struct {
    _Alignas(64) uint8_t w[ROWS * 34 * BLOCKS];
    _Alignas(64) int8_t q[TOKENS * COLUMNS];
    _Alignas(64) float x[TOKENS * COLUMNS];
    _Alignas(64) float out[2][TOKENS * ROWS];
    float d[TOKENS * BLOCKS];
    int32_t s[TOKENS * BLOCKS];
} room;

static uint32_t next(uint32_t *state) /* a linear congruential generator */
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Tiles of 16 rows: any byte is a weight, scales are halves of 2^-8 and some. */
static void fill_weights(uint8_t *w, uint32_t type, uint32_t *state)
{
    const size_t bytes = qe_tile_bytes(type, ROWS);
    for (uint32_t b = 0; b < BLOCKS; b++, w += bytes) {
        for (size_t i = 0; i < bytes; i++)
            w[i] = (uint8_t)next(state);
        for (uint32_t r = 0; r < ROWS; r++) /* the high byte of each scale */
            w[2 * r + 1] = (uint8_t)(0x1C | (next(state) & 0x83));
    }
}

static int same(const qe_kernels *set, room *a, uint32_t type, uint32_t group)
{
    qe_matmul m = {
        .w = a->w,
        .type = type,
        .layout = QE_LAYOUT(ROWS, group),
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
        int32_t s[BLOCKS];
        int8_t *to = a.q + t * COLUMNS;
        set->quantize(a.x + t * COLUMNS, COLUMNS, to, a.d + t * BLOCKS, a.s + t * BLOCKS);
        qe_portable.quantize(a.x + t * COLUMNS, COLUMNS, q, d, s);
        if (memcmp(q, to, sizeof q) != 0 || memcmp(d, a.d + t * BLOCKS, sizeof d) != 0 ||
            memcmp(s, a.s + t * BLOCKS, sizeof s) != 0)
            return QE_ERR_KERNELS;
    }
    for (uint32_t type = QE_Q4_0; type <= QE_Q8_0; type += QE_Q8_0 - QE_Q4_0) {
        fill_weights(a.w, type, &state);
        if (!same(set, &a, type, 4) || !same(set, &a, type, 8))
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
