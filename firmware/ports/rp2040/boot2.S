/* boot2.S - the RP2040's second stage. The boot ROM copies 252 bytes from the start of flash to
 * SRAM, checks their CRC-32 (the toolkit fills it in behind them) and runs them. Flash becomes
 * readable in its plainest way, command 03h on one line, that every chip understands; port.c
 * makes it fast later.
 * Source: RP2040 datasheet, 2.8.1 (flash boot), 4.10 (SSI). */
    .syntax unified
    .cpu cortex-m0plus
    .thumb
    .section .boot, "ax"
    .global qf_boot2
qf_boot2:
    ldr r0, =0x18000000     /* SSI */
    movs r1, #0
    str r1, [r0, #0x08]     /* SSIENR: off while it is set up */
    movs r1, #4
    str r1, [r0, #0x14]     /* BAUDR: an even divider of clk_sys */
    ldr r1, =0x001F0300     /* CTRLR0: standard SPI, frames of 32 bits, EEPROM read */
    str r1, [r0]
    movs r1, #0
    str r1, [r0, #0x04]     /* CTRLR1: one frame an access */
    ldr r1, =0x03000218     /* SPI_CTRLR0: command 03h of 8 bits, address of 24 */
    ldr r2, =0x180000F4
    str r1, [r2]
    movs r1, #1
    str r1, [r0, #0x08]
    ldr r0, =0x10000100     /* the vectors lie behind this stage */
    ldr r1, =0xE000ED08     /* VTOR */
    str r0, [r1]
    ldmia r0, {r0, r1}
    msr msp, r0
    bx r1
    .pool
    .org 252, 0
    .word 0xFFFFFFFF        /* the CRC's place */
