/* slots.c - see slots.h. The only caller of port_erase and port_program, and the only place
 * that knows where slots lie: every address is made by place() or is refused. */
#include "slots.h"

#include <string.h>

#include "port.h"

#ifdef QF_RECORDS_AT /* they have erase blocks of their own, and a slot is all image */
enum { HEAD_BYTES = 0, RECORDS_AT = QF_RECORDS_AT, RECORDS_STEP = QF_RECORD_BYTES };
#else /* a slot's first erase block holds them */
enum { HEAD_BYTES = QF_ERASE_BYTES, RECORDS_AT = QF_SLOT_AT, RECORDS_STEP = QF_SLOT_BYTES };
#endif

enum {
    RECORD = 0x54534551,  /* "QEST" */
    DROPPED = 0x52444551, /* "QEDR": toolkit/bare/uf2.py writes it */
    TRIED = 0x52544551,   /* "QETR" */
    REFUSED = 0x46524551, /* "QERF": the error is its sequence */
    FLOOR = 0x4C464551,   /* "QEFL": the floor is its counter */
    RECORD_BYTES = 52,
    RECORDS = QF_RECORD_BYTES / QF_PAGE_BYTES,
    FLOOR_BLOCKS = 2
};

/* A record or mark in flash: magic, sequence, bytes, counter, id, and the CRC-32 of them all;
 * little endian, as the machine. */
typedef struct {
    uint32_t magic, sequence, bytes, counter;
    uint8_t id[32];
    uint32_t crc;
} stored;
_Static_assert(sizeof(stored) == RECORD_BYTES, "a record has no padding");
_Static_assert(QF_SLOT_BYTES % QF_ERASE_BYTES == 0 && QF_SLOT_AT % QF_ERASE_BYTES == 0,
               "slots are whole erase blocks");
_Static_assert(QF_FLOOR_AT % QF_RECORD_BYTES == 0 &&
                   (QF_FLOOR_AT + FLOOR_BLOCKS * QF_RECORD_BYTES <= QF_SLOT_AT ||
                    QF_FLOOR_AT >= QF_SLOT_AT + SLOT_COUNT * QF_SLOT_BYTES),
               "the floor has whole erase blocks of its own");

static uint32_t crc32(const uint8_t *bytes, size_t count)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1));
    }
    return ~crc;
}

static uint32_t place(int slot)
{
    return QF_SLOT_AT + (uint32_t)slot * QF_SLOT_BYTES;
}

static uint32_t records_of(int slot)
{
    return RECORDS_AT + (uint32_t)slot * RECORDS_STEP;
}

uint32_t slot_capacity(void)
{
    return QF_SLOT_BYTES - HEAD_BYTES;
}

const uint8_t *slot_image(int slot)
{
    return port_flash() + place(slot) + HEAD_BYTES;
}

/* Whole pages: by words, since a block of 16 KiB is looked at for each page written. */
static int blank(const uint8_t *pages, uint32_t bytes)
{
    const uint32_t *words = (const uint32_t *)(const void *)pages;
    for (uint32_t i = 0; i < bytes / sizeof *words; i++)
        if (words[i] != UINT32_MAX)
            return 0;
    return 1;
}

/* A whole page of this kind at an offset in flash; 0 when it is not one. */
static int read_page(uint32_t at, uint32_t magic, stored *s)
{
    const uint8_t *page = port_flash() + at;
    memcpy(s, page, sizeof *s);
    return s->magic == magic && s->crc == crc32(page, RECORD_BYTES - 4);
}

static enum slot_error put_stored(uint32_t at, stored s)
{
    uint8_t page[QF_PAGE_BYTES];
    s.crc = crc32((const uint8_t *)&s, RECORD_BYTES - 4);
    memset(page, 0xFF, sizeof page);
    memcpy(page, &s, sizeof s);
    port_program(at, page);
    return memcmp(port_flash() + at, page, QF_PAGE_BYTES) == 0 ? SLOT_OK : SLOT_FLASH;
}

/* The first page of a block after which all is blank; RECORDS: there is none. */
static uint32_t room_in(uint32_t block)
{
    uint32_t room = RECORDS;
    while (room && blank(port_flash() + block + (room - 1) * QF_PAGE_BYTES, QF_PAGE_BYTES))
        room--;
    return room;
}

slot_record slot_read(int slot)
{
    slot_record found = {0};
    for (uint32_t i = 0; i < RECORDS; i++) {
        stored s;
        if (!read_page(records_of(slot) + i * QF_PAGE_BYTES, RECORD, &s) || !s.sequence ||
            s.bytes > slot_capacity() || s.sequence <= found.sequence)
            continue;
        found.sequence = s.sequence;
        found.bytes = s.bytes;
        found.counter = s.counter;
        memcpy(found.id, s.id, sizeof s.id);
    }
    return found;
}

slot_marks slot_read_marks(int slot)
{
    slot_marks found = {0};
    for (uint32_t i = 0; i < RECORDS; i++) {
        const uint32_t at = records_of(slot) + i * QF_PAGE_BYTES;
        stored s;
        if (read_page(at, RECORD, &s))
            found = (slot_marks){0};
        if (read_page(at, DROPPED, &s)) {
            found = (slot_marks){.dropped = 1};
            memcpy(found.id, s.id, sizeof s.id);
        }
        found.tries += (uint32_t)read_page(at, TRIED, &s);
        if (read_page(at, REFUSED, &s))
            found.refused = s.sequence;
    }
    return found;
}

enum slot_error slot_put_mark(int slot, enum slot_mark mark, uint32_t code)
{
    const uint32_t room = room_in(records_of(slot));
    const stored s = {.magic = mark == MARK_TRIED ? TRIED : REFUSED, .sequence = code};
    if (room == RECORDS)
        return SLOT_RANGE;
    return put_stored(records_of(slot) + room * QF_PAGE_BYTES, s);
}

int slot_active(void)
{
    const uint32_t first = slot_read(0).sequence, second = slot_read(1).sequence;
    if (!first && !second)
        return SLOT_NONE;
    return second > first;
}

enum slot_error slot_clear(int slot)
{
    if (slot < 0 || slot >= SLOT_COUNT)
        return SLOT_RANGE;
    if (slot == slot_active())
        return SLOT_ACTIVE;
    const uint32_t at = records_of(slot);
    if (!blank(port_flash() + at, QF_RECORD_BYTES))
        port_erase(at);
    return blank(port_flash() + at, QF_RECORD_BYTES) ? SLOT_OK : SLOT_FLASH;
}

/* Programs one page; erases its block before, when the page is the block's first. A page that
 * holds these bytes already is left alone. */
static enum slot_error put_page(uint32_t at, const uint8_t *page)
{
    const uint8_t *flash = port_flash();
    if (at % QF_ERASE_BYTES == 0 && !blank(flash + at, QF_ERASE_BYTES))
        port_erase(at);
    if (memcmp(flash + at, page, QF_PAGE_BYTES) == 0)
        return SLOT_OK;
    port_program(at, page);
    return memcmp(flash + at, page, QF_PAGE_BYTES) == 0 ? SLOT_OK : SLOT_FLASH;
}

enum slot_error slot_write(int slot, uint32_t offset, const uint8_t *bytes, uint32_t count)
{
    if (slot < 0 || slot >= SLOT_COUNT || offset % QF_PAGE_BYTES || count % QF_PAGE_BYTES ||
        !count || offset > slot_capacity() || count > slot_capacity() - offset)
        return SLOT_RANGE;
    enum slot_error error = slot_clear(slot);
    const uint32_t at = place(slot) + HEAD_BYTES + offset;
    for (uint32_t done = 0; done < count && !error; done += QF_PAGE_BYTES)
        error = put_page(at + done, bytes + done);
    return error;
}

enum slot_error slot_activate(int slot, const slot_record *record)
{
    const int active = slot_active();
    stored s = {.magic = RECORD, .bytes = record->bytes, .counter = record->counter};
    if (slot < 0 || slot >= SLOT_COUNT)
        return SLOT_RANGE;
    if (slot == active)
        return SLOT_OK;
    uint32_t room = room_in(records_of(slot));
    if (room == RECORDS) {
        const enum slot_error error = slot_clear(slot);
        if (error)
            return error;
        room = 0;
    }
    s.sequence = active == SLOT_NONE ? 1 : slot_read(active).sequence + 1;
    memcpy(s.id, record->id, sizeof s.id);
    return put_stored(records_of(slot) + room * QF_PAGE_BYTES, s);
}

/* ---- the floor ---- */

static uint32_t floor_block(uint32_t block)
{
    return QF_FLOOR_AT + block * QF_RECORD_BYTES;
}

/* The highest that is noted in a block. */
static uint32_t noted_in(uint32_t block)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < RECORDS; i++) {
        stored s;
        if (read_page(floor_block(block) + i * QF_PAGE_BYTES, FLOOR, &s) && s.counter > most)
            most = s.counter;
    }
    return most;
}

uint32_t slot_floor(void)
{
    uint32_t most = noted_in(0) > noted_in(1) ? noted_in(0) : noted_in(1);
    for (int slot = 0; slot < SLOT_COUNT; slot++) {
        const slot_record record = slot_read(slot);
        most = record.counter > most ? record.counter : most;
    }
    return most;
}

/* A block is erased only when both are full, and then the one that the other is above. */
enum slot_error slot_raise_floor(uint32_t counter)
{
    const stored s = {.magic = FLOOR, .counter = counter};
    const uint32_t first = noted_in(0), second = noted_in(1);
    if (counter <= first || counter <= second)
        return SLOT_OK;
    for (uint32_t block = 0; block < FLOOR_BLOCKS; block++) {
        const uint32_t room = room_in(floor_block(block));
        if (room < RECORDS)
            return put_stored(floor_block(block) + room * QF_PAGE_BYTES, s);
    }
    const uint32_t lower = floor_block(first > second);
    port_erase(lower);
    return put_stored(lower, s);
}
