/* raspberry.h - what Raspberry Pi's two microcontrollers have in common: Arm's PL011 as UART, a
 * timer of 64 bits that counts microseconds, a crystal and a PLL behind one way to start them,
 * registers with aliases that set and clear bits. A port names the addresses (RESETS, CLOCKS,
 * XOSC, PLL_SYS, UART0, TIMER0) and UART0_IRQ before it includes this.
 * Source: RP2040 datasheet 2.1.2, 2.14 to 2.18, 4.2, 4.6; RP2350
 * datasheet 2.1.3, 7.5, 8.1, 8.6, 12.1, 12.8. */
#ifndef QF_RASPBERRY_H
#define QF_RASPBERRY_H

#include "port.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define SET(address) REGISTER((address) + 0x2000u) /* writing sets the bits that are 1 */
#define CLEAR(address) REGISTER((address) + 0x3000u)
#define IN_RAM __attribute__((section(".ramfunc"), noinline, long_call))

#define UART_DATA REGISTER(UART0)
#define UART_FLAGS REGISTER(UART0 + 0x18)
#define IRQ_ENABLE REGISTER(0xE000E100u + UART0_IRQ / 32 * 4)
#define IRQ_FORGET REGISTER(0xE000E280u + UART0_IRQ / 32 * 4)
enum { UART_BUSY = 1 << 3, RECEIVE_EMPTY = 1 << 4, TRANSMIT_FULL = 1 << 5 };

static void out_of_reset(uint32_t parts)
{
    CLEAR(RESETS) = parts;
    while ((REGISTER(RESETS + 8) & parts) != parts)
        ;
}

/* The system on the crystal's 12 MHz times 125, divided by two dividers of 1 to 7. `pll` is the
 * PLL's bit in RESETS. */
static void start_clocks(uint32_t pll, uint32_t divide_1, uint32_t divide_2)
{
    enum {
        REF_CTRL = 0x30,
        REF_SELECTED = 0x38,
        SYS_CTRL = 0x3C,
        SYS_SELECTED = 0x44,
        PERI_CTRL = 0x48
    };
    REGISTER(XOSC + 0x0C) = 47;            /* start-up: 1 ms at 12 MHz */
    REGISTER(XOSC) = 0xFABu << 12 | 0xAA0; /* enable, 1 to 15 MHz */
    while (!(REGISTER(XOSC + 4) & 1u << 31))
        ;
    REGISTER(CLOCKS + REF_CTRL) = 2; /* the reference is the crystal */
    while (!(REGISTER(CLOCKS + REF_SELECTED) & 1u << 2))
        ;
    CLEAR(CLOCKS + SYS_CTRL) = 1; /* off the PLL while it is set */
    while (!(REGISTER(CLOCKS + SYS_SELECTED) & 1))
        ;
    SET(RESETS) = pll;
    out_of_reset(pll);
    REGISTER(PLL_SYS) = 1;           /* the crystal's 12 MHz undivided */
    REGISTER(PLL_SYS + 8) = 125;     /* times 125: 1500 MHz */
    CLEAR(PLL_SYS + 4) = 1 | 1 << 5; /* power to it and to its oscillator */
    while (!(REGISTER(PLL_SYS) & 1u << 31))
        ;
    REGISTER(PLL_SYS + 0x0C) = divide_1 << 16 | divide_2 << 12;
    CLEAR(PLL_SYS + 4) = 1 << 3;
    REGISTER(CLOCKS + SYS_CTRL) = 0; /* auxiliary source: the PLL */
    SET(CLOCKS + SYS_CTRL) = 1;
    while (!(REGISTER(CLOCKS + SYS_SELECTED) & 2))
        ;
    REGISTER(CLOCKS + PERI_CTRL) = 1u << 11; /* from clk_sys */
}

/* Divides the clock by 16 (whole + fraction / 64) for the baud rate. The interrupt wakes the
 * processor and is never entered. */
static void open_uart(uint32_t whole, uint32_t fraction)
{
    REGISTER(UART0 + 0x24) = whole;
    REGISTER(UART0 + 0x28) = fraction;
    REGISTER(UART0 + 0x2C) = 3u << 5 | 1u << 4; /* 8 bits, FIFOs */
    REGISTER(UART0 + 0x30) = 1u << 9 | 1u << 8 | 1;
    REGISTER(UART0 + 0x34) = 0;                 /* interrupt at an eighth of the FIFO */
    REGISTER(UART0 + 0x38) = 1u << 6 | 1u << 4; /* or when it has been quiet */
    IRQ_ENABLE = 1u << UART0_IRQ % 32;
}

uint8_t port_read(void)
{
    for (;;) {
        IRQ_FORGET = 1u << UART0_IRQ % 32; /* comes again while the FIFO holds something */
        if (!(UART_FLAGS & RECEIVE_EMPTY))
            return (uint8_t)UART_DATA;
        __asm volatile("wfi");
    }
}

void port_write(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (UART_FLAGS & TRANSMIT_FULL)
            ;
        UART_DATA = bytes[i];
    }
}

uint64_t port_ticks(void)
{
    uint32_t high, low;
    do {
        high = REGISTER(TIMER0 + 0x24);
        low = REGISTER(TIMER0 + 0x28);
    } while (high != REGISTER(TIMER0 + 0x24));
    return (uint64_t)high << 32 | low;
}

const uint8_t *port_flash(void)
{
    return (const uint8_t *)(uintptr_t)QF_FLASH_AT;
}

/* The last answer has to leave before a reset. */
static void drain_uart(void)
{
    while (UART_FLAGS & UART_BUSY)
        ;
}

#endif
