/* rp2040/port.c - Raspberry Pi Pico: clocks at 125 MHz, UART 0 on GPIO 0 and 1, USB, the flash
 * behind the SSI, written by commands from SRAM while nothing can be read from it. Source:
 * RP2040 datasheet (2.3.2 interrupts, 2.6.3 XIP, 2.14 resets, 2.15 clocks, 2.18 PLL, 4.1
 * USB, 4.2 UART, 4.6 timer, 4.7 watchdog, 4.10 SSI); Winbond W25Q16JV (commands, status
 * register 2). */

enum {
    RESETS = 0x4000C000,
    CLOCKS = 0x40008000,
    IO_BANK0 = 0x40014000,
    QSPI_SS_CTRL = 0x4001800C,
    XOSC = 0x40024000,
    CLOCK_USB = CLOCKS + 0x54,
    PLL_SYS = 0x40028000,
    PLL_USB = 0x4002C000,
    UART0 = 0x40034000,
    TIMER0 = 0x40054000,
    WATCHDOG = 0x40058000,
    WATCHDOG_TICK = WATCHDOG + 0x2C,
    PSM_WDSEL = 0x40010008,
    PLATFORM = 0x40000004,
    XIP_FLUSH = 0x14000004,
    SSI = 0x18000000,
    PLL_SYS_RESET = 1 << 12,
    PLL_USB_RESET = 1 << 13,
    USB_RESET = 1 << 24,
    USB_IRQ = 5,
    UART0_IRQ = 20
};

#include "cortex/raspberry.h"

static void open_line(void)
{
    out_of_reset(1u << 22 | 1u << 21 | 1u << 8 | 1u << 5); /* UART 0, timer, pads, IO */
    open_uart(67, 52);             /* 115,200 baud: 125 MHz / 16 / (67 + 52 / 64) */
    REGISTER(IO_BANK0 + 0x04) = 2; /* GPIO 0: transmit, GPIO 1: receive */
    REGISTER(IO_BANK0 + 0x0C) = 2;
}

/* ---- flash ---- */

enum {
    READ_STATUS_1 = 0x05,
    READ_STATUS_2 = 0x35,
    WRITE_ENABLE = 0x06,
    WRITE_STATUS_2 = 0x31,
    PROGRAM = 0x02,
    ERASE_4K = 0x20,
    READ_ID = 0x4B,
    BUSY = 1,
    QUAD_ENABLE = 2,
    FIFO = 14 /* bytes in flight, of 16 */
};

static inline void chip_select(int on)
{
    REGISTER(QSPI_SS_CTRL) = (uint32_t)(on ? 2 : 3) << 8; /* override the output: low, high */
}

/* Sends count bytes and keeps what comes back; NULL for what does not matter. */
static IN_RAM void exchange(const uint8_t *send, uint8_t *receive, uint32_t count)
{
    uint32_t sent = 0, got = 0;
    while (got < count) {
        if (sent < count && sent - got < FIFO) {
            REGISTER(SSI + 0x60) = send ? send[sent] : 0;
            sent++;
        }
        if (REGISTER(SSI + 0x28) & 1u << 3) {
            const uint8_t byte = (uint8_t)REGISTER(SSI + 0x60);
            if (receive)
                receive[got] = byte;
            got++;
        }
    }
}

/* One command: its bytes, then more to send or to receive. */
static IN_RAM void command(const uint8_t *bytes, uint32_t count, const uint8_t *send,
                           uint8_t *receive, uint32_t more)
{
    chip_select(1);
    exchange(bytes, NULL, count);
    exchange(send, receive, more);
    chip_select(0);
}

static IN_RAM uint8_t status(uint8_t which)
{
    uint8_t value;
    command(&which, 1, NULL, &value, 1);
    return value;
}

/* The SSI as a plain SPI master, on commands of ours; flash cannot be read until serve(). */
static IN_RAM void take_flash(void)
{
    REGISTER(SSI + 0x08) = 0;
    REGISTER(SSI + 0x14) = 6;
    REGISTER(SSI) = 7u << 16; /* frames of 8 bits, both ways */
    REGISTER(SSI + 0x08) = 1;
    chip_select(0);
}

/* The flash as memory again: command EBh, address and data on four lines. The chip is told the
 * command every time (it is never in its continuous mode), so that nothing has to be left
 * before other commands. Six wait cycles: the mode bits' two and four. */
static IN_RAM void serve_flash(void)
{
    REGISTER(SSI + 0x08) = 0;
    REGISTER(QSPI_SS_CTRL) = 0;
    REGISTER(SSI + 0x14) = 2;
    REGISTER(SSI) = 2u << 21 | 31u << 16 | 3u << 8; /* four lines, 32 bits, EEPROM read */
    REGISTER(SSI + 0x04) = 0;
    REGISTER(SSI + 0xF4) = 0xEBu << 24 | 6u << 11 | 2u << 8 | 6u << 2 | 1;
    REGISTER(SSI + 0x08) = 1;
    REGISTER(XIP_FLUSH) = 1;
    (void)REGISTER(XIP_FLUSH); /* waits until it is done */
}

static IN_RAM void write_enable(void)
{
    const uint8_t enable = WRITE_ENABLE;
    command(&enable, 1, NULL, NULL, 0);
}

/* Enables writing, gives the command and waits until the chip has done it. */
static IN_RAM void change(const uint8_t *bytes, uint32_t count, const uint8_t *data,
                          uint32_t more)
{
    write_enable();
    command(bytes, count, data, NULL, more);
    while (status(READ_STATUS_1) & BUSY)
        ;
}

static IN_RAM void change_at(uint8_t what, uint32_t offset, const uint8_t *data, uint32_t more)
{
    const uint8_t bytes[4] = {what, (uint8_t)(offset >> 16), (uint8_t)(offset >> 8),
                              (uint8_t)offset};
    interrupts_off(); /* USB's code is in flash */
    take_flash();
    change(bytes, sizeof bytes, data, more);
    serve_flash();
    interrupts_on();
}

static uint8_t identity[8];

/* Reads the chip's unique id and makes it ready for four lines; a chip that is ready is left
 * alone, as its status register wears out. */
static IN_RAM void open_flash(void)
{
    uint8_t read_id[13] = {READ_ID}, answer[13];
    take_flash();
    chip_select(1);
    exchange(read_id, answer, sizeof answer);
    chip_select(0);
    for (int i = 0; i < 8; i++)
        identity[i] = answer[5 + i];
    const uint8_t second = status(READ_STATUS_2);
    if (!(second & QUAD_ENABLE)) {
        const uint8_t bytes[2] = {WRITE_STATUS_2, second | QUAD_ENABLE};
        change(bytes, sizeof bytes, NULL, 0);
    }
    serve_flash();
}

void port_open(void)
{
    interrupts_off();
    close_usb();
    start_clocks(6, 2);                     /* 125 MHz */
    REGISTER(WATCHDOG_TICK) = 1u << 9 | 12; /* the timer's microsecond */
    open_line();
    open_flash();
    open_usb(identity);
    interrupts_on();
}

void port_erase(uint32_t offset)
{
    change_at(ERASE_4K, offset, NULL, 0);
}

void port_program(uint32_t offset, const uint8_t page[QF_PAGE_BYTES])
{
    static uint8_t copy[QF_PAGE_BYTES]; /* the caller's may lie in flash */
    for (uint32_t i = 0; i < QF_PAGE_BYTES; i++)
        copy[i] = page[i];
    change_at(PROGRAM, offset, copy, QF_PAGE_BYTES);
}

void port_identity(uint8_t id[8])
{
    for (int i = 0; i < 8; i++)
        id[i] = identity[i];
}

int port_emulated(void)
{
    return !(REGISTER(PLATFORM) & 2); /* an ASIC says so */
}

void port_reset(void)
{
    drain_lines();
    REGISTER(PSM_WDSEL) = 0x1FFFC; /* all but the oscillators */
    SET(WATCHDOG) = 1u << 31;
    for (;;)
        ;
}
