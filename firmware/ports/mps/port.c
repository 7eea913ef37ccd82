/* mps/port.c - Arm's MPS2 and MPS3 boards as QEMU has them: a CMSDK UART, a clock, and a RAM
 * that stands for NOR flash (QEMU keeps it in a file). The board file gives QF_UART_AT,
 * QF_UART_IRQ and QF_FLASH_AT, and the clock: QF_TIMER_AT of a CMSDK timer (MPS2) or
 * QF_COUNTER_AT of the SSE-300's system counter (MPS3).
 * Sources: Arm DDI 0479 (CMSDK: UART 4.3, timer 4.1), 101773 (SSE-300: system counter), DAI
 * 0385 and DAI 0547 (memory maps). */
#include "port.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define UART_DATA REGISTER(QF_UART_AT)
#define UART_STATE REGISTER(QF_UART_AT + 4) /* bit 0: transmitter full, 1: receiver full */
#define UART_CONTROL REGISTER(QF_UART_AT + 8)
#define UART_DIVIDER REGISTER(QF_UART_AT + 16)
#define UART_INTERRUPT REGISTER(QF_UART_AT + 12) /* bit 1: received; writing clears */
#define RESET_CONTROL REGISTER(0xE000ED0C)
#define IRQ_ENABLE REGISTER(0xE000E100 + QF_UART_IRQ / 32 * 4)
#define IRQ_FORGET REGISTER(0xE000E280 + QF_UART_IRQ / 32 * 4)

enum { TRANSMIT_FULL = 1, RECEIVE_FULL = 2, RECEIVE_INTERRUPT = 2 };
enum {
    LOOKS = 20000
}; /* at the line before sleeping: waking costs QEMU more than a byte does */
static const uint32_t UART_IRQ_BIT = 1u << QF_UART_IRQ % 32;

static volatile uint8_t *const nor = (volatile uint8_t *)(uintptr_t)QF_FLASH_AT;

#if defined(QF_COUNTER_AT)
#define COUNTER_CONTROL REGISTER(QF_COUNTER_AT)
#define COUNTER_LOW REGISTER(QF_COUNTER_AT + 8)
#define COUNTER_HIGH REGISTER(QF_COUNTER_AT + 12)

static void clock_open(void)
{
    COUNTER_CONTROL = 1;
}

uint64_t port_ticks(void)
{
    uint32_t high, low;
    do {
        high = COUNTER_HIGH;
        low = COUNTER_LOW;
    } while (high != COUNTER_HIGH);
    return (uint64_t)high << 32 | low;
}
#else
#define TIMER_CONTROL REGISTER(QF_TIMER_AT)
#define TIMER_VALUE REGISTER(QF_TIMER_AT + 4) /* counts down */
#define TIMER_RELOAD REGISTER(QF_TIMER_AT + 8)

static void clock_open(void)
{
    TIMER_RELOAD = 0xFFFFFFFF;
    TIMER_VALUE = 0xFFFFFFFF;
    TIMER_CONTROL = 1;
}

/* The timer wraps after 171 s; a job's step takes less, and asks. */
uint64_t port_ticks(void)
{
    static uint32_t last, wraps;
    const uint32_t now = ~TIMER_VALUE;
    if (now < last)
        wraps++;
    last = now;
    return (uint64_t)wraps << 32 | now;
}
#endif

void port_open(void)
{
    UART_DIVIDER = 16;
    __asm volatile("cpsid i"); /* interrupts wake the processor and are never entered */
    UART_CONTROL = 0xB;        /* transmitter, receiver, interrupt when something came */
    IRQ_ENABLE = UART_IRQ_BIT;
    clock_open();
}

uint8_t port_read(void)
{
    for (uint32_t looks = 0; !(UART_STATE & RECEIVE_FULL); looks++) {
        if (looks < LOOKS)
            continue;
        __asm volatile("wfi");
        UART_INTERRUPT = RECEIVE_INTERRUPT;
        IRQ_FORGET = UART_IRQ_BIT;
    }
    return (uint8_t)UART_DATA;
}

void port_write(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (UART_STATE & TRANSMIT_FULL)
            ;
        UART_DATA = bytes[i];
    }
}

const uint8_t *port_flash(void)
{
    return (const uint8_t *)(uintptr_t)QF_FLASH_AT;
}

void port_erase(uint32_t offset)
{
    const uint32_t count = port_erase_bytes(offset);
    for (uint32_t i = 0; i < count; i++)
        nor[offset + i] = 0xFF;
}

void port_program(uint32_t offset, const uint8_t page[QF_PAGE_BYTES])
{
    for (uint32_t i = 0; i < QF_PAGE_BYTES; i++)
        nor[offset + i] &= page[i];
}

void port_identity(uint8_t id[8])
{
    for (int i = 0; i < 8; i++)
        id[i] = nor[QF_FLASH_BYTES + (uint32_t)i];
}

int port_emulated(void)
{
    return 1;
}

void port_reset(void)
{
    RESET_CONTROL = 0x05FA0004;
    for (;;)
        ;
}
