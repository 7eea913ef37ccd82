/* slots.c - see slots.h. The only caller of port_erase and port_program, and the only place
 * that knows where slots lie: every address is made by place() or is refused. */
#include "slots.h"

#include <string.h>

#include "port.h"

enum {
    MAGIC = 0x54534551, /* "QEST" */
    RECORD_BYTES = 52,
    RECORDS = QF_ERASE_BYTES / QF_PAGE_BYTES
};

/* A record in flash: magic, sequence, bytes, counter, id, and the CRC-32 of them all; little
 * endian, as the machine. */
typedef struct {
    uint32_t magic, sequence, bytes, counter;
    uint8_t id[32];
    uint32_t crc;
} stored;
_Static_assert(sizeof(stored) == RECORD_BYTES, "a record has no padding");
_Static_assert(QF_SLOT_BYTES % QF_ERASE_BYTES == 0 && QF_SLOT_AT % QF_ERASE_BYTES == 0,
               "slots are whole erase blocks");

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

uint32_t slot_capacity(void)
{
    return QF_SLOT_BYTES - QF_ERASE_BYTES;
}

const uint8_t *slot_image(int slot)
{
    return port_flash() + place(slot) + QF_ERASE_BYTES;
}

static int blank(const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (bytes[i] != 0xFF)
            return 0;
    return 1;
}

/* The latest whole record of a slot; *room is the first page after which all is blank. */
static slot_record latest(int slot, uint32_t *room)
{
    const uint8_t *pages = port_flash() + place(slot);
    slot_record found = {0};
    *room = 0;
    for (uint32_t i = 0; i < RECORDS; i++) {
        const uint8_t *page = pages + i * QF_PAGE_BYTES;
        stored s;
        if (!blank(page, QF_PAGE_BYTES))
            *room = i + 1;
        memcpy(&s, page, sizeof s);
        if (s.magic != MAGIC || s.crc != crc32(page, RECORD_BYTES - 4) || !s.sequence ||
            s.bytes > slot_capacity() || s.sequence <= found.sequence)
            continue;
        found.sequence = s.sequence;
        found.bytes = s.bytes;
        found.counter = s.counter;
        memcpy(found.id, s.id, sizeof s.id);
    }
    return found;
}

slot_record slot_read(int slot)
{
    uint32_t room;
    return latest(slot, &room);
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
    const uint32_t at = place(slot);
    if (!blank(port_flash() + at, QF_ERASE_BYTES))
        port_erase(at);
    return blank(port_flash() + at, QF_ERASE_BYTES) ? SLOT_OK : SLOT_FLASH;
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
        offset > slot_capacity() || count > slot_capacity() - offset)
        return SLOT_RANGE;
    enum slot_error error = slot_clear(slot);
    const uint32_t at = place(slot) + QF_ERASE_BYTES + offset;
    for (uint32_t done = 0; done < count && !error; done += QF_PAGE_BYTES)
        error = put_page(at + done, bytes + done);
    return error;
}

enum slot_error slot_activate(int slot, const slot_record *record)
{
    const int active = slot_active();
    uint8_t page[QF_PAGE_BYTES];
    stored s = {.magic = MAGIC, .bytes = record->bytes, .counter = record->counter};
    uint32_t room;
    if (slot < 0 || slot >= SLOT_COUNT)
        return SLOT_RANGE;
    latest(slot, &room);
    if (slot == active)
        return SLOT_OK;
    if (room == RECORDS) {
        const enum slot_error error = slot_clear(slot);
        if (error)
            return error;
        room = 0;
    }
    s.sequence = active == SLOT_NONE ? 1 : slot_read(active).sequence + 1;
    memcpy(s.id, record->id, sizeof s.id);
    s.crc = crc32((const uint8_t *)&s, RECORD_BYTES - 4);
    memset(page, 0xFF, sizeof page);
    memcpy(page, &s, sizeof s);
    const uint32_t at = place(slot) + room * QF_PAGE_BYTES;
    port_program(at, page);
    return memcmp(port_flash() + at, page, QF_PAGE_BYTES) == 0 ? SLOT_OK : SLOT_FLASH;
}
