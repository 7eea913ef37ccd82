/* boot.c - see boot.h. Taking up an image runs it, so each try is noted in flash before: an
 * image that ends the board in its golden test is tried TRIES times, and then left alone. */
#include "boot.h"

#include "job.h"
#include "link.h"
#include "model.h"
#include "slots.h"

enum { TRIES = 3 };

boot_report boot;

static void report(int slot, int error)
{
    boot = (boot_report){.slot = slot, .error = error};
}

/* Verifies, tests and activates a slot's image; 1 when it is active now. What fails by itself
 * is not tried again, until something else is written there. */
static int take_up(int slot, const uint8_t *id)
{
    const slot_marks marks = slot_read_marks(slot);
    int error = marks.refused ? (int)marks.refused : LINK_TRIED;
    if (!marks.refused && marks.tries < TRIES &&
        slot_put_mark(slot, MARK_TRIED, 0) == SLOT_OK) {
        error = job_activate(slot, id);
        if (error)
            slot_put_mark(slot, MARK_REFUSED, (uint32_t)error);
    }
    if (error)
        report(slot, error);
    return !error;
}

/* What was dropped is what its owner wants to run, whatever was active before. */
static int take_up_dropped(void)
{
    for (int slot = 0; slot < SLOT_COUNT; slot++) {
        const slot_marks marks = slot_read_marks(slot);
        if (marks.dropped && take_up(slot, marks.id))
            return 1;
    }
    return 0;
}

/* A board that never had a record takes up the first image that it finds. */
static void take_up_any(void)
{
    for (int slot = 0; slot < SLOT_COUNT && slot_active() == SLOT_NONE; slot++) {
        qe_image image;
        if (model_peek(slot, &image) == QE_OK && !slot_read_marks(slot).dropped)
            take_up(slot, NULL);
    }
}

/* An active image that is not what was activated is not opened; the one before comes back,
 * where there is one. */
static void check_active(void)
{
    const int active = slot_active(), other = active ? 0 : 1;
    const slot_record record = slot_read(active);
    const int error = job_verify(active, record.id);
    if (!error)
        return;
    model_distrust(active, error);
    const slot_record before = slot_read(other);
    const int fell_back = before.sequence && take_up(other, before.id);
    report(active, error);
    boot.fell_back = fell_back;
}

void boot_run(void)
{
    slot_raise_floor(slot_floor()); /* power may have failed after a record, before its floor */
    if (!take_up_dropped()) {
        if (slot_active() == SLOT_NONE)
            take_up_any();
        else
            check_active();
    }
}
