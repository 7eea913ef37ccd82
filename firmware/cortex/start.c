/* start.c - what every Cortex-M runs first, and the C library's part that the compiler and the
 * engine take for granted. */
#include <stddef.h>
#include <stdint.h>

#include "stack.h"

extern uint32_t qf_stack_low[], qf_stack_top[]; /* these come from link.ld */
extern uint32_t qf_data_load[], qf_data[], qf_data_end[], qf_bss[], qf_bss_end[];

int main(void);

enum { PATTERN = 0x5AFEC0DE };

uint32_t stack_bytes(void)
{
    return (uint32_t)((uintptr_t)qf_stack_top - (uintptr_t)qf_stack_low);
}

uint32_t stack_used(void)
{
    const uint32_t *at = qf_stack_low;
    while (at < qf_stack_top && *at == PATTERN)
        at++;
    return (uint32_t)((uintptr_t)qf_stack_top - (uintptr_t)at);
}

int stack_overrun(void)
{
    return *qf_stack_low != PATTERN;
}

_Noreturn void qf_reset(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the floating-point unit is on */
    __asm volatile("dsb\n isb");
#endif
    const uint32_t *from = qf_data_load;
    for (uint32_t *to = qf_data; to < qf_data_end;)
        *to++ = *from++;
    for (uint32_t *to = qf_bss; to < qf_bss_end;)
        *to++ = 0;
    for (uint32_t *at = qf_stack_low; at < qf_stack_top; at++)
        *at = PATTERN;
#if defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
    __asm volatile("msr psplim, %0" ::"r"(qf_stack_low)); /* going beyond is a fault */
#endif
    /* from here on the processor uses this stack, and the other one for faults only */
    __asm volatile("msr psp, %0\n\t"
                   "msr control, %1\n\t"
                   "isb\n\t"
                   "bl main" ::"r"(qf_stack_top),
                   "r"(2)
                   : "memory");
    __builtin_unreachable();
}

/* A fault ends in a reset, so that a board comes back with the image that it had. It has a
 * stack of its own, because what overflows the other one is a fault. Interrupts of a port have
 * it, too; `qedge firmware size` counts what they need. */
static _Alignas(8) uint32_t fault_stack[64];

static void fault(void)
{
    *(volatile uint32_t *)0xE000ED0C = 0x05FA0004; /* AIRCR: SYSRESETREQ */
    for (;;)
        ;
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    fault_stack + 64,    (const void *)qf_reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault,    (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault,    (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault,    (const void *)fault, (const void *)fault};

/* The compiler may not turn these loops into calls of the functions that they are: clang is
 * told so here, gcc on its command line. Words where both ends allow it. */
#if defined(__clang__)
#define PLAIN __attribute__((no_builtin("memcpy", "memset", "memmove", "memcmp", "strlen")))
#else
#define PLAIN
#endif

PLAIN void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if ((((uintptr_t)t | (uintptr_t)f) & 3) == 0)
        for (; count >= 4; count -= 4, t += 4, f += 4)
            *(uint32_t *)(void *)t = *(const uint32_t *)(const void *)f;
    while (count--)
        *t++ = *f++;
    return to;
}

PLAIN void *memmove(void *to, const void *from, size_t count)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if (t <= f || t >= f + count) {
        while (count--)
            *t++ = *f++;
        return to;
    }
    while (count--)
        t[count] = f[count];
    return to;
}

PLAIN void *memset(void *to, int value, size_t count)
{
    uint8_t *t = to;
    const uint32_t word = (uint8_t)value * 0x01010101u;
    for (; count && ((uintptr_t)t & 3); count--)
        *t++ = (uint8_t)value;
    for (; count >= 4; count -= 4, t += 4)
        *(uint32_t *)(void *)t = word;
    while (count--)
        *t++ = (uint8_t)value;
    return to;
}

PLAIN int memcmp(const void *a, const void *b, size_t count)
{
    const uint8_t *x = a, *y = b;
    for (; count; count--, x++, y++)
        if (*x != *y)
            return *x < *y ? -1 : 1;
    return 0;
}

PLAIN size_t strlen(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (uint8_t)*a - (uint8_t)*b;
}
