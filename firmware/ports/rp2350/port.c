/* rp2350/port.c - Raspberry Pi Pico 2: one Cortex-M33 at 150 MHz, UART 0 on GPIO 0 and 1, USB,
 * flash behind the QMI, read as the boot ROM set it up. Written by the data sheet; it builds,
 * and no emulator of this chip is known, so it was never run. Source: RP2350 datasheet (3.2
 * interrupts, 5.9 image definitions, 7.5 resets, 8.1 clocks, 8.5 ticks, 8.6 PLL, 9.11
 * pads, 12.1 UART, 12.8 timer, 12.9 watchdog, 12.14 QMI, 13 OTP). */

#define RESETS 0x40020000u
#define CLOCKS 0x40010000u
#define IO_BANK0 0x40028000u
#define PADS_BANK0 0x40038000u
#define XOSC 0x40048000u
#define CLOCK_USB (CLOCKS + 0x60)
#define PLL_SYS 0x40050000u
#define PLL_USB 0x40058000u
#define UART0 0x40070000u
#define TIMER0 0x400B0000u
#define WATCHDOG 0x400D8000u
#define PSM_WDSEL 0x40018008u
#define TICKS_TIMER0 0x40108018u
#define QMI 0x400D0000u
#define OTP_DATA 0x40130000u
#define XIP_MAINTAIN 0x18000000u

enum {
    PLL_SYS_RESET = 1 << 14,
    PLL_USB_RESET = 1 << 15,
    USB_RESET = 1 << 28,
    USB_IRQ = 14,
    UART0_IRQ = 33
};

#include "cortex/raspberry.h"

/* What the boot ROM looks for in the first 4 KiB: an executable for Arm, secure. */
__attribute__((section(".vectors.definition"), used)) static const uint32_t definition[5] = {
    0xFFFFDED3, 0x10210142, 0x000001FF, 0, 0xAB123579};

static void open_line(void)
{
    out_of_reset(1u << 26 | 1u << 23 | 1u << 9 | 1u << 6); /* UART 0, timer 0, pads, IO */
    open_uart(81, 24);                       /* 115,200 baud: 150 MHz / 16 / (81 + 24 / 64) */
    for (uint32_t pin = 0; pin < 2; pin++) { /* transmit, receive */
        REGISTER(IO_BANK0 + 8 * pin + 4) = 2;
        SET(PADS_BANK0 + 4 + 4 * pin) = 1u << 6;   /* input enabled */
        CLEAR(PADS_BANK0 + 4 + 4 * pin) = 1u << 8; /* no longer isolated */
    }
}

/* ---- flash ---- */

enum { WRITE_ENABLE = 0x06, READ_STATUS = 0x05, PROGRAM = 0x02, ERASE_4K = 0x20, BUSY = 1 };
enum { DIRECT = 1, DIRECT_BUSY = 2, SELECTED = 4, RX_EMPTY = 1 << 16 };

/* One byte out and one in, on one line. */
static IN_RAM uint8_t exchange(uint8_t byte)
{
    REGISTER(QMI + 4) = 1u << 19 | byte; /* the output drives the line */
    while (REGISTER(QMI) & RX_EMPTY)
        ;
    return (uint8_t)REGISTER(QMI + 8);
}

static IN_RAM void command(const uint8_t *bytes, uint32_t count, const uint8_t *data,
                           uint32_t more)
{
    SET(QMI) = SELECTED;
    for (uint32_t i = 0; i < count; i++)
        exchange(bytes[i]);
    for (uint32_t i = 0; i < more; i++)
        exchange(data[i]);
    CLEAR(QMI) = SELECTED;
}

/* Gives a command while flash is no memory, and waits until the chip has done it. */
static IN_RAM void change(const uint8_t *bytes, const uint8_t *data, uint32_t more,
                          uint32_t offset, uint32_t count)
{
    const uint8_t enable = WRITE_ENABLE;
    REGISTER(QMI) = 6u << 22 | DIRECT; /* clock: a sixth of the system's */
    while (REGISTER(QMI) & DIRECT_BUSY)
        ;
    command(&enable, 1, NULL, 0);
    command(bytes, 4, data, more);
    uint8_t status;
    do {
        SET(QMI) = SELECTED;
        exchange(READ_STATUS);
        status = exchange(0);
        CLEAR(QMI) = SELECTED;
    } while (status & BUSY);
    CLEAR(QMI) = DIRECT;
    for (uint32_t at = 0; at < count; at += 8) /* what the cache holds of it is old */
        *(volatile uint8_t *)(XIP_MAINTAIN + offset + at) = 0; /* invalidate by address */
}

static void change_at(uint8_t what, uint32_t offset, const uint8_t *data, uint32_t more,
                      uint32_t count)
{
    const uint8_t bytes[4] = {what, (uint8_t)(offset >> 16), (uint8_t)(offset >> 8),
                              (uint8_t)offset};
    interrupts_off(); /* USB's code is in flash */
    change(bytes, data, more, offset, count);
    interrupts_on();
}

void port_open(void)
{
    uint8_t id[8];
    interrupts_off();
    close_usb();
    start_clocks(5, 2);              /* 150 MHz */
    REGISTER(TICKS_TIMER0 + 4) = 12; /* the timer's microsecond */
    REGISTER(TICKS_TIMER0) = 1;
    open_line();
    port_identity(id);
    open_usb(id);
    interrupts_on();
}

void port_erase(uint32_t offset)
{
    change_at(ERASE_4K, offset, NULL, 0, QF_ERASE_BYTES);
}

void port_program(uint32_t offset, const uint8_t page[QF_PAGE_BYTES])
{
    static uint8_t copy[QF_PAGE_BYTES]; /* the caller's may lie in flash */
    for (uint32_t i = 0; i < QF_PAGE_BYTES; i++)
        copy[i] = page[i];
    change_at(PROGRAM, offset, copy, QF_PAGE_BYTES, QF_PAGE_BYTES);
}

void port_identity(uint8_t id[8])
{
    for (uint32_t i = 0; i < 8; i++) /* the chip's id: four rows of 16 bits from the start */
        id[i] = (uint8_t)(REGISTER(OTP_DATA + (i & 4)) >> i % 4 * 8);
}

int port_emulated(void)
{
    return 0;
}

void port_reset(void)
{
    drain_lines();
    REGISTER(PSM_WDSEL) = 0x01FFFFE3; /* all but the oscillators */
    SET(WATCHDOG) = 1u << 31;
    for (;;)
        ;
}
