/* mcu_matmul.c - one matrix of one type by one row of activations, as often as REPEAT says, on
 * a bare Cortex-M under QEMU: what mcu_kernels.py counts the instructions of. TYPE: the number
 * of the type. Levels and integer scales are random bytes, activations as a normal
 * distribution's rounded to 127 at most. */
#include "../../runtime/engine/kernels/kernels.h"

enum { ROWS = 64, COLUMNS = 256 };

static _Alignas(64) uint8_t weights[ROWS * COLUMNS * 5 / 4];
static _Alignas(64) int8_t q[COLUMNS];
static float d[COLUMNS / 32], out[ROWS];
static int16_t s[COLUMNS / 16];

static uint32_t state = 20240607;

static uint32_t pick(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 16) * below >> 16;
}

static void fill_activations(void)
{
    for (uint32_t i = 0; i < COLUMNS; i++) {
        int32_t sum = 0;
        for (int k = 0; k < 4; k++)
            sum += (int32_t)pick(95) - 47;
        q[i] = (int8_t)(sum > 127 ? 127 : sum < -127 ? -127 : sum);
        s[i / 16] = (int16_t)(s[i / 16] + q[i]);
    }
    for (uint32_t i = 0; i < COLUMNS / 32; i++)
        d[i] = qe_float(0x3C000000u + pick(0x10000) * 0x100u); /* 2^-7 .. 2^-5 */
}

static void fill_weights(const qe_format *f)
{
    uint8_t *p = weights;
    for (uint32_t four = 0; four < ROWS / 4; four++) {
        for (uint32_t r = 0; r < f->row_head; r++, p += 4)
            memcpy(p, &d[r % 8], 4);
        for (uint32_t b = 0; b < COLUMNS / 32; b += f->period) {
            for (uint32_t i = 0; i < 4u * f->halves; i++, p += 2)
                qe_store16(p, (uint16_t)(pick(2) << 15 | (0x1800 + pick(0x2000))));
            for (uint32_t n = 4u * (f->head - 2u * f->halves) + 16u * f->bits * f->period; n;
                 n--)
                *p++ = (uint8_t)pick(256);
        }
    }
}

static void leave(void) /* semihosting: an application's own end */
{
    register uint32_t what __asm("r0") = 0x18, why __asm("r1") = 0x20026;
    __asm volatile("bkpt 0xAB" : : "r"(what), "r"(why) : "memory");
}

void _start(void);

void _start(void)
{
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* the float unit is on */
    __asm volatile("dsb\n isb");
#endif
    const qe_format *f = qe_format_of(TYPE);
    const qe_kernels *set = qe_kernels_find(NULL, 0);
    const qe_matmul m = {.w = weights,
                         .type = TYPE,
                         .layout = 4,
                         .rows = ROWS,
                         .columns = COLUMNS,
                         .act = {q, d, s, COLUMNS},
                         .out = out,
                         .out_stride = ROWS,
                         .tokens = 1};
    fill_activations();
    fill_weights(f);
    for (int i = 0; i < REPEAT; i++)
        set->matmul(&m, 0, ROWS / 16);
    leave();
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    (const void *)STACK_TOP, (const void *)_start};
