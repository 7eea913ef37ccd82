/* slots.h - two places in flash for an image, of which one is active, whatever happens; and the
 * least security counter that the board takes, which outlives both.
 *
 * A slot is one erase block of records and then the image's blocks; on a chip whose sectors
 * differ the records may lie apart, in small ones (QF_RECORDS_AT). A record (a page of its
 * own) says that the image in the slot was verified and passed its golden test, and carries a
 * sequence number; of all the records whose CRC is right, the highest number names the active
 * slot. So
 * - a slot that is being written has no record: they are erased before its first block is;
 * - activation is the programming of one page, which either gives a record with a right CRC or
 *   does not;
 * - the active slot is never erased or programmed.
 * Power may fail between and during any two operations: what was active stays active, until a
 * complete record says otherwise.
 *
 * Beside records, pages of that block may be marks: an image was dropped into the slot (by the
 * boot ROM, and whoever dropped it wants it to run), taking it up was tried, it was refused.
 * The floor has two erase blocks of its own, since a drop erases a slot's records: a page each
 * time that it rises, and it is the highest of them all.
 */
#ifndef QF_SLOTS_H
#define QF_SLOTS_H

#include <stddef.h>
#include <stdint.h>

enum { SLOT_COUNT = 2, SLOT_NONE = -1 };

enum slot_error {
    SLOT_OK = 0,
    SLOT_RANGE = 1,  /* no such slot, or not inside it, or not on a page */
    SLOT_ACTIVE = 2, /* the active slot is not to be written */
    SLOT_FLASH = 3   /* the flash does not read back what was programmed */
};

typedef struct {
    uint32_t sequence; /* 0: the slot has no record */
    uint32_t bytes;    /* of the image */
    uint32_t counter;  /* security counter of its signature, 0 when it has none */
    uint8_t id[32];    /* image_id */
} slot_record;

/* What a slot's marks say that came after its last record. */
typedef struct {
    int dropped; /* an image was put there to run; its id follows */
    uint8_t id[32];
    uint32_t tries;   /* of taking it up, that did not end */
    uint32_t refused; /* the link error for which it was not activated, 0: none */
} slot_marks;

enum slot_mark { MARK_TRIED, MARK_REFUSED };

/* Bytes that an image may have. */
uint32_t slot_capacity(void);

/* The image in a slot, in memory; aligned to 64. */
const uint8_t *slot_image(int slot);

/* The slot's latest record; all zero when it has none. */
slot_record slot_read(int slot);

/* The slot that holds the active image, or SLOT_NONE. */
int slot_active(void);

/* Programs bytes (a multiple of the page, at a multiple of it, not none) of the image. A block
 * is erased when its first page is written, so a block is written from its start, or not at
 * all. What is out of range is refused before anything is changed. */
enum slot_error slot_write(int slot, uint32_t offset, const uint8_t *bytes, uint32_t count);

/* Makes the slot's image the active one: programs its record. The caller has verified and
 * tested it. */
enum slot_error slot_activate(int slot, const slot_record *record);

/* Erases the slot's records and marks, so that it holds no image. */
enum slot_error slot_clear(int slot);

/* A slot's marks; all zero when it has none. */
slot_marks slot_read_marks(int slot);

/* Programs a mark. SLOT_RANGE when there is no room for one. */
enum slot_error slot_put_mark(int slot, enum slot_mark mark, uint32_t code);

/* The least security counter that is taken: the largest that was ever accepted. */
uint32_t slot_floor(void);

/* Makes the floor at least this. */
enum slot_error slot_raise_floor(uint32_t counter);

#endif
