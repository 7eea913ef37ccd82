/* registers.h - a word of a peripheral, the aliases by which Raspberry Pi's microcontrollers
 * set and clear bits of it, and code that no interrupt comes between. Source: RP2040
 * datasheet 2.1.2; RP2350 datasheet 2.1.3. */
#ifndef QF_REGISTERS_H
#define QF_REGISTERS_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define SET(address) REGISTER((address) + 0x2000u) /* writing sets the bits that are 1 */
#define CLEAR(address) REGISTER((address) + 0x3000u)

#ifdef __arm__
static inline void interrupts_off(void)
{
    __asm volatile("cpsid i" ::: "memory");
}

static inline void interrupts_on(void)
{
    __asm volatile("cpsie i" ::: "memory");
}

/* Of the processor: several of any slower clock's. */
static inline void wait_12_cycles(void)
{
    __asm volatile("nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop");
}
#else /* a test on this machine: there are no interrupts, and nothing to wait for */
static inline void interrupts_off(void)
{
}

static inline void interrupts_on(void)
{
}

static inline void wait_12_cycles(void)
{
}
#endif

#endif
