/* raspberry.h - what Raspberry Pi's two microcontrollers have in common: Arm's PL011 as UART, a
 * timer of 64 bits that counts microseconds, a crystal and a PLL behind one way to start them,
 * and USB beside the UART. A port names the addresses (RESETS, CLOCKS, CLOCK_USB, XOSC,
 * PLL_SYS, PLL_USB, UART0, TIMER0), the bits of RESETS and the interrupts before it includes
 * this. Source: RP2040 datasheet 2.14 to 2.18, 4.1, 4.2, 4.6; RP2350
 * datasheet 7.5, 8.1, 8.6, 12.1, 12.7, 12.8. */
#ifndef QF_RASPBERRY_H
#define QF_RASPBERRY_H

#include "cortex/registers.h"
#include "port.h"
#include "ports/rp2040/usb.h"

#define IN_RAM __attribute__((section(".ramfunc"), noinline, long_call))

#define UART_DATA REGISTER(UART0)
#define UART_FLAGS REGISTER(UART0 + 0x18)
#define IRQ_ENABLE(number) (REGISTER(0xE000E100u + (number) / 32 * 4) = 1u << (number) % 32)
#define IRQ_DISABLE(number) (REGISTER(0xE000E180u + (number) / 32 * 4) = 1u << (number) % 32)
#define IRQ_FORGET(number) (REGISTER(0xE000E280u + (number) / 32 * 4) = 1u << (number) % 32)
enum { UART_BUSY = 1 << 3, RECEIVE_EMPTY = 1 << 4, TRANSMIT_FULL = 1 << 5 };

static void out_of_reset(uint32_t parts)
{
    CLEAR(RESETS) = parts;
    while ((REGISTER(RESETS + 8) & parts) != parts)
        ;
}

/* A PLL on the crystal's 12 MHz: times `multiply`, divided by two dividers of 1 to 7. `reset`
 * is its bit in RESETS. */
static void start_pll(uint32_t pll, uint32_t reset, uint32_t multiply, uint32_t divide_1,
                      uint32_t divide_2)
{
    SET(RESETS) = reset;
    out_of_reset(reset);
    REGISTER(pll) = 1; /* the crystal's 12 MHz undivided */
    REGISTER(pll + 8) = multiply;
    CLEAR(pll + 4) = 1 | 1 << 5; /* power to it and to its oscillator */
    while (!(REGISTER(pll) & 1u << 31))
        ;
    REGISTER(pll + 0x0C) = divide_1 << 16 | divide_2 << 12;
    CLEAR(pll + 4) = 1 << 3;
}

/* The crystal; the system on 1,500 MHz, divided by two dividers. */
static void start_clocks(uint32_t divide_1, uint32_t divide_2)
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
    start_pll(PLL_SYS, PLL_SYS_RESET, 125, divide_1, divide_2);
    REGISTER(CLOCKS + SYS_CTRL) = 0; /* auxiliary source: the PLL */
    SET(CLOCKS + SYS_CTRL) = 1;
    while (!(REGISTER(CLOCKS + SYS_SELECTED) & 2))
        ;
    REGISTER(CLOCKS + PERI_CTRL) = 1u << 11; /* from clk_sys */
}

/* Divides the clock by 16 (whole + fraction / 64) for the baud rate. The interrupt wakes the
 * processor and is never entered: it is enabled for no longer than that (port_read). */
static void open_uart(uint32_t whole, uint32_t fraction)
{
    REGISTER(UART0 + 0x24) = whole;
    REGISTER(UART0 + 0x28) = fraction;
    REGISTER(UART0 + 0x2C) = 3u << 5 | 1u << 4; /* 8 bits, FIFOs */
    REGISTER(UART0 + 0x30) = 1u << 9 | 1u << 8 | 1;
    REGISTER(UART0 + 0x34) = 0;                 /* interrupt at an eighth of the FIFO */
    REGISTER(UART0 + 0x38) = 1u << 6 | 1u << 4; /* or when it has been quiet */
}

/* A restart that does not reset USB must look like a new cable: the host begins anew. */
static void close_usb(void)
{
    SET(RESETS) = USB_RESET;
}

enum { UART_LINE = 0, USB_LINE = 1 };
static int line; /* that the last byte came by */

#if QF_USB_VENDOR
/* 48 MHz: the crystal's 12 times 100, divided by 5 twice. */
static void open_usb(const uint8_t id[8])
{
    start_pll(PLL_USB, PLL_USB_RESET, 100, 5, 5);
    REGISTER(CLOCK_USB) = 1u << 11;
    out_of_reset(USB_RESET);
    usb_open(id);
    IRQ_ENABLE(USB_IRQ);
}

/* Behind the core's 16 vectors (cortex/start.c); no other interrupt is entered. */
__attribute__((section(".vectors.interrupts"),
               used)) static const void *const interrupts[USB_IRQ + 1] = {
    [USB_IRQ] = (const void *)usb_interrupt};

int port_line(void)
{
    return line;
}
#else
static void open_usb(const uint8_t id[8])
{
    (void)id;
}
#endif

uint8_t port_read(void)
{
    for (;;) {
        const int byte = usb_read();
        line = byte < 0 ? UART_LINE : USB_LINE;
        if (byte >= 0)
            return (uint8_t)byte;
        if (!(UART_FLAGS & RECEIVE_EMPTY))
            return (uint8_t)UART_DATA;
        interrupts_off(); /* or one could come between looking and sleeping */
        IRQ_FORGET(UART0_IRQ);
        IRQ_ENABLE(UART0_IRQ);
        if (UART_FLAGS & RECEIVE_EMPTY && !usb_waiting())
            __asm volatile("wfi"); /* ends by what would be an interrupt */
        IRQ_DISABLE(UART0_IRQ);
        interrupts_on();
    }
}

void port_write(const uint8_t *bytes, size_t count)
{
    if (line == USB_LINE) {
        usb_write(bytes, count);
        return;
    }
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
static void drain_lines(void)
{
    usb_drain();
    while (UART_FLAGS & UART_BUSY)
        ;
}

#endif
