/* upload.c - see upload.h. MCUmgr's slot 0 is the active image, slot 1 the other one. An image
 * that was uploaded becomes active when its state is written with its hash (the image_id), as
 * `test` or `confirm`: here both verify it, run its golden test and activate it. */
#include "upload.h"

#include "job.h"
#include "link.h"
#include "model.h"
#include "port.h"
#include "signature.h"

static struct {
    uint32_t bytes, at;          /* of the file; 0 bytes: no upload */
    uint8_t page[QF_PAGE_BYTES]; /* its last, incomplete page */
} upload;

static int other_slot(void)
{
    return slot_active() == 0 ? 1 : 0;
}

static int smp_error_of(int error)
{
    switch (error) {
    case LINK_OK: return SMP_OK;
    case LINK_RANGE: return SMP_TOO_LARGE;
    case LINK_ACTIVE_SLOT: return SMP_BAD_STATE;
    case LINK_FLASH: return SMP_UNKNOWN;
    case LINK_NO_IMAGE: return SMP_NO_ENTRY;
    default: return SMP_CORRUPT;
    }
}

static void put_state(cbor_writer *answer, uint32_t number, int slot)
{
    qe_image image;
    if (model_peek(slot, &image) != QE_OK)
        return;
    const int active = slot == slot_active();
    cbor_put_map(answer);
    cbor_pair_uint(answer, "slot", number);
    cbor_pair_text(answer, "version", image.board);
    cbor_pair_bytes(answer, "hash", image.id, sizeof image.id);
    cbor_pair_bool(answer, "bootable", 1);
    cbor_pair_bool(answer, "pending", 0);
    cbor_pair_bool(answer, "confirmed", active);
    cbor_pair_bool(answer, "active", active);
    cbor_pair_bool(answer, "permanent", active);
    cbor_put_end(answer);
}

static int holds(int slot, const uint8_t id[32], qe_image *image)
{
    return model_peek(slot, image) == QE_OK && memcmp(id, image->id, sizeof image->id) == 0;
}

/* The image with this id is active afterwards, and every byte of it was read now. The other
 * slot has it when it was uploaded: it takes the place of an active one that is damaged, or
 * whose signature is an older one. */
static int confirm(const uint8_t id[32])
{
    const int active = slot_active(), other = other_slot();
    const slot_record none = {0}, record = active == SLOT_NONE ? none : slot_read(active);
    qe_image image;
    uint32_t counter;
    int error = LINK_NO_IMAGE;
    if (record.sequence && memcmp(id, record.id, sizeof record.id) == 0) {
        error = job_verify(active, id);
        if (!error && (!holds(other, id, &image) || signature_check(other, &image, &counter) ||
                       counter <= record.counter))
            return LINK_OK;
    }
    return holds(other, id, &image) ? job_activate(other, id) : error;
}

int upload_state(const uint8_t *map, uint32_t bytes, int write, cbor_writer *answer)
{
    if (write) {
        uint32_t count = 32;
        const uint8_t *hash = cbor_bytes(map, bytes, "hash", &count);
        const int active = slot_active();
        const slot_record none = {0}, record = active == SLOT_NONE ? none : slot_read(active);
        if (count != 32 || (!hash && !record.sequence))
            return SMP_INVALID;
        const int error = smp_error_of(confirm(hash ? hash : record.id));
        if (error)
            return error;
    }
    cbor_put_text(answer, "images");
    cbor_put_array(answer);
    if (slot_active() != SLOT_NONE)
        put_state(answer, 0, slot_active());
    put_state(answer, 1, other_slot());
    cbor_put_end(answer);
    cbor_pair_uint(answer, "splitStatus", 0);
    return SMP_OK;
}

int upload_take(const uint8_t *map, uint32_t bytes, cbor_writer *answer)
{
    const uint32_t offset = cbor_uint(map, bytes, "off", UINT32_MAX);
    uint32_t count = 0;
    const uint8_t *data = cbor_bytes(map, bytes, "data", &count);
    if (!data || offset == UINT32_MAX || cbor_uint(map, bytes, "image", 0))
        return SMP_INVALID;
    job_cancel();
    if (!offset) {
        const uint32_t whole = cbor_uint(map, bytes, "len", 0);
        upload.bytes = upload.at = 0;
        if (!whole || whole > slot_capacity())
            return whole ? SMP_TOO_LARGE : SMP_INVALID;
        upload.bytes = whole;
    }
    if (!upload.bytes)
        return SMP_BAD_STATE;
    if (offset == upload.at) {
        if (count > upload.bytes - upload.at)
            return SMP_INVALID;
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t in_page = upload.at++ % QF_PAGE_BYTES;
            upload.page[in_page] = data[i];
            const int last = upload.at == upload.bytes;
            if (last)
                memset(upload.page + in_page + 1, 0xFF, QF_PAGE_BYTES - 1 - in_page);
            if (in_page != QF_PAGE_BYTES - 1 && !last)
                continue;
            const int error = smp_error_of((int)slot_write(
                other_slot(), upload.at - 1 - in_page, upload.page, QF_PAGE_BYTES));
            if (error) {
                upload.bytes = 0;
                return error;
            }
        }
    }
    cbor_pair_uint(answer, "rc", 0);
    cbor_pair_uint(answer, "off", upload.at); /* where to go on */
    if (upload.at == upload.bytes) {
        cbor_pair_bool(answer, "match", 1);
        upload.bytes = 0;
    }
    return SMP_OK;
}

int upload_erase(const uint8_t *map, uint32_t bytes)
{
    (void)map;
    (void)bytes;
    job_cancel();
    return smp_error_of((int)slot_clear(other_slot()));
}
