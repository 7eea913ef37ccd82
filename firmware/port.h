/* port.h - what a board offers the firmware: everything that is not in the engine or the link.
 * A new port is one file with these functions, and a board file (boards/NAME.toml) for the
 * facts: memory map, flash slots, arena bytes, compiler flags.
 *
 * The board file's facts arrive as macros:
 *   QF_BOARD        the board's name, a string
 *   QF_FLOOR_AT     offset in flash of two erase blocks for the least security counter
 *   QF_SLOT_AT      offset in flash of the first slot; the second one follows it
 *   QF_SLOT_BYTES   of each slot, a multiple of QF_ERASE_BYTES
 *   QF_ERASE_BYTES  what one erase clears
 *   QF_RECORDS_AT   offset in flash of slot 0's records, those of slot 1 follow; not defined:
 *                   each slot's first erase block. QF_RECORD_BYTES is then the size of their
 *                   erase blocks, and of the floor's
 *   QF_FLASH_AT     where flash begins in memory, and QF_FLASH_BYTES of it
 *   QF_ARENA_BYTES  of the engine's arena, a static array
 *   QF_TICK_HZ      ticks a second of port_ticks, QF_BAUD of the serial line
 *   QF_USB_VENDOR, QF_USB_PRODUCT   what the board is on USB; 0: there is a serial line alone
 */
#ifndef QF_PORT_H
#define QF_PORT_H

#include <stddef.h>
#include <stdint.h>

enum { QF_PAGE_BYTES = 256 }; /* what one program operation takes, on every port */

/* Clocks, serial lines, flash. Runs once, before anything else. */
void port_open(void);

/* The next byte from any serial line; waits for it, asleep where the board can. */
uint8_t port_read(void);

/* To the line that the last byte came by. Never waits for ever: what nobody takes is dropped.
 */
void port_write(const uint8_t *bytes, size_t count);

/* Which line the last byte came by, below PORT_LINES: packets of two lines may come at once. */
#if defined QF_USB_VENDOR && QF_USB_VENDOR
enum { PORT_LINES = 2 };
int port_line(void);
#else
enum { PORT_LINES = 1 };
static inline int port_line(void)
{
    return 0;
}
#endif

/* A clock that never stops and does not wrap within the life of a board. */
uint64_t port_ticks(void);

/* Where the flash lies in memory: offset 0 of erase and program. Aligned to 64. */
const uint8_t *port_flash(void);

#ifndef QF_RECORDS_AT
#define QF_RECORD_BYTES QF_ERASE_BYTES
#endif

/* What is erased at an offset, for a port whose chip does not know. */
static inline uint32_t port_erase_bytes(uint32_t offset)
{
    const uint32_t in_slots = offset - QF_SLOT_AT; /* wraps in front of them */
    return in_slots < 2 * QF_SLOT_BYTES ? QF_ERASE_BYTES : QF_RECORD_BYTES;
}

/* Clears the erase block that begins at an offset to 0xFF, or programs a page; both return when
 * the flash has done it. Nothing else in the firmware writes to flash, and slots.c alone calls
 * these. */
void port_erase(uint32_t offset);
void port_program(uint32_t offset, const uint8_t page[QF_PAGE_BYTES]);

/* The board's unique id, the same for its whole life. */
void port_identity(uint8_t id[8]);

/* 1 when this is an emulator, whose clock counts instructions and not time. */
int port_emulated(void);

_Noreturn void port_reset(void);

#endif
