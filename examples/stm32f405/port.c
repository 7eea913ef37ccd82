/* port.c - an STM32F405: one Cortex-M4F on its internal oscillator, USART 1 on PA9 (out) and
 * PA10 (in), timer 2 as clock, flash written by its controller. No crystal and no caches: it is
 * right on every board with this chip, and slow (16 of 168 MHz).
 * Written by RM0090 rev 19 (chapters in brackets); run by QEMU's netduinoplus2 only, which has
 * USART and timer, and reads as 0 what it has not: clocks, pins, flash controller. */
#include "port.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* Reset and clock control [7.3]: after a reset the chip runs on its oscillator of 16 MHz, all
 * buses undivided, flash without wait states [3.5.1]. */
#define RCC_AHB1ENR REGISTER(0x40023830)
#define RCC_APB1ENR REGISTER(0x40023840)
#define RCC_APB2ENR REGISTER(0x40023844)
enum { CLOCK_HZ = 16000000, GPIOA_ON = 1, TIM2_ON = 1, USART1_ON = 1 << 4 };

/* Pins [8.4] */
#define GPIOA_MODER REGISTER(0x40020000)
#define GPIOA_PUPDR REGISTER(0x4002000C)
#define GPIOA_AFRH REGISTER(0x40020024)

/* USART 1 [30.6]; its interrupt [12.1.3] */
#define USART_SR REGISTER(0x40011000)
#define USART_DR REGISTER(0x40011004)
#define USART_BRR REGISTER(0x40011008)
#define USART_CR1 REGISTER(0x4001100C)
enum { RECEIVED = 1 << 5, SENT_ALL = 1 << 6, SEND_EMPTY = 1 << 7 };
enum { RECEIVER = 1 << 2, SENDER = 1 << 3, INTERRUPT = 1 << 5, USART_ON = 1 << 13 };
enum { USART1_IRQ = 37 };
#define IRQ_ENABLE REGISTER(0xE000E100 + USART1_IRQ / 32 * 4)

/* Timer 2 [18.4], of 32 bits */
#define TIM2_CR1 REGISTER(0x40000000)
#define TIM2_EGR REGISTER(0x40000014)
#define TIM2_CNT REGISTER(0x40000024)
#define TIM2_PSC REGISTER(0x40000028)
#define TIM2_ARR REGISTER(0x4000002C)
enum { EMULATED_TIMER_HZ = 1000000000 }; /* what QEMU feeds its timers with */

/* Flash interface [3.9] */
#define FLASH_KEYR REGISTER(0x40023C04)
#define FLASH_SR REGISTER(0x40023C0C)
#define FLASH_CR REGISTER(0x40023C10)
enum { FLASH_ERRORS = 0xF2, FLASH_BUSY = 1 << 16 };
enum { PROGRAM = 1, ERASE = 2, SECTOR_AT = 3, WORDS = 2 << 8, START = 1 << 16 };
static const uint32_t FLASH_LOCK = 1u << 31;

#define UNIQUE_ID ((const volatile uint32_t *)0x1FFF7A10) /* [39.1] */
#define RESET_CONTROL REGISTER(0xE000ED0C)

int port_emulated(void)
{
    return !(FLASH_CR & FLASH_LOCK); /* locked, whenever nothing is written; QEMU's reads 0 */
}

/* ---- line: one byte comes every 87 us and the receiver holds one, so an interrupt takes it,
 * the only one there is ---- */

enum { RING_BYTES = 512 }; /* what comes while a line of a packet is worked on */
static volatile uint8_t ring[RING_BYTES];
static volatile uint32_t ring_in, ring_out; /* count up; only their difference matters */

static void usart_received(void)
{
    const uint32_t state = USART_SR; /* this, then that, ends an overrun, too [30.6.1] */
    const uint8_t byte = (uint8_t)USART_DR;
    if (state & RECEIVED && ring_in - ring_out < RING_BYTES) {
        ring[ring_in % RING_BYTES] = byte;
        ring_in++;
    }
}

/* Behind the 16 of every Cortex-M (cortex/start.c). */
__attribute__((section(".vectors.irq"), used)) static void (*const irqs[])(void) = {
    [USART1_IRQ] = usart_received};

uint8_t port_read(void)
{
    while (ring_in == ring_out) {
        __asm volatile("cpsid i"); /* what comes from here on ends the sleep all the same */
        if (ring_in == ring_out)
            __asm volatile("wfi");
        __asm volatile("cpsie i");
    }
    const uint8_t byte = ring[ring_out % RING_BYTES];
    ring_out++;
    return byte;
}

void port_write(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (!(USART_SR & SEND_EMPTY))
            ;
        USART_DR = bytes[i];
    }
}

static void open_line(void)
{
    RCC_AHB1ENR |= GPIOA_ON;
    RCC_APB2ENR |= USART1_ON;
    (void)RCC_APB2ENR; /* a clock needs two cycles until its registers answer [7.3] */
    GPIOA_AFRH = (GPIOA_AFRH & ~0xFF0u) | 0x770;            /* function 7 on pins 9 and 10 */
    GPIOA_PUPDR = (GPIOA_PUPDR & ~0x300000u) | 1u << 20;    /* an open line is a quiet one */
    GPIOA_MODER = (GPIOA_MODER & ~0x3C0000u) | 0xAu << 18u; /* both to their function */
    USART_BRR = (CLOCK_HZ + QF_BAUD / 2) / QF_BAUD;         /* by 16 [30.3.4] */
    USART_CR1 = USART_ON | SENDER | RECEIVER | INTERRUPT;
    IRQ_ENABLE = 1u << USART1_IRQ % 32;
}

/* ---- clock ---- */

static void open_timer(void)
{
    const uint32_t hz = port_emulated() ? EMULATED_TIMER_HZ : CLOCK_HZ;
    RCC_APB1ENR |= TIM2_ON;
    (void)RCC_APB1ENR;
    TIM2_PSC = hz / QF_TICK_HZ - 1;
    TIM2_ARR = 0xFFFFFFFF;
    TIM2_EGR = 1; /* takes the prescaler up */
    TIM2_CR1 = 1;
}

/* The timer wraps after 71 minutes; a job's step takes less, and asks. */
uint64_t port_ticks(void)
{
    static uint32_t last, wraps;
    const uint32_t now = TIM2_CNT;
    if (now < last)
        wraps++;
    last = now;
    return (uint64_t)wraps << 32 | now;
}

/* ---- flash: what reads it while it is written waits, code too [3.5], so nothing here has to
 * run from RAM ---- */

const uint8_t *port_flash(void)
{
    return (const uint8_t *)(uintptr_t)QF_FLASH_AT;
}

static void wait(void)
{
    __asm volatile("dsb");
    while (FLASH_SR & FLASH_BUSY)
        ;
}

/* Words of 32 bits want 2.7 V or more [3.6.2]. */
static void unlock(uint32_t operation)
{
    wait();
    FLASH_KEYR = 0x45670123; /* [3.6.1] */
    FLASH_KEYR = 0xCDEF89AB;
    FLASH_SR = FLASH_ERRORS; /* old ones would stop this one; writing clears them */
    FLASH_CR = WORDS | operation;
}

static void lock(void)
{
    wait();
    FLASH_CR = FLASH_LOCK;
}

/* Four sectors of 16 KiB, one of 64, seven of 128 [3.3, table 5]. */
static uint32_t sector_of(uint32_t offset)
{
    if (offset < 0x10000)
        return offset >> 14;
    return 4 + (offset >> 17);
}

/* [3.6.3]: 0.25 s of 16 KiB, 1 s of 128, at most twice as long (DS8626, 6.3.12). */
void port_erase(uint32_t offset)
{
    unlock(ERASE | sector_of(offset) << SECTOR_AT);
    FLASH_CR |= START;
    lock();
}

void port_program(uint32_t offset, const uint8_t page[QF_PAGE_BYTES])
{
    unlock(PROGRAM);
    for (uint32_t i = 0; i < QF_PAGE_BYTES; i += 4) {
        uint32_t word;
        __builtin_memcpy(&word, page + i, sizeof word);
        REGISTER(QF_FLASH_AT + offset + i) = word;
        wait();
    }
    lock();
}

/* The chip's 96 bits, folded to 64; QEMU has none, and reading there is a fault. */
void port_identity(uint8_t id[8])
{
    static const char emulated[8] = {'e', 'm', 'u', 'l', 'a', 't', 'e', 'd'};
    uint32_t words[2];
    if (port_emulated()) {
        __builtin_memcpy(id, emulated, sizeof emulated);
        return;
    }
    words[0] = UNIQUE_ID[0];
    words[1] = UNIQUE_ID[1] ^ UNIQUE_ID[2];
    __builtin_memcpy(id, words, sizeof words);
}

void port_open(void)
{
    open_line();
    open_timer();
    __asm volatile("cpsie i");
}

void port_reset(void)
{
    while (!(USART_SR & SENT_ALL)) /* the last answer has to leave before */
        ;
    RESET_CONTROL = 0x05FA0004;
    for (;;)
        ;
}
