/* power_cut.c - a port whose flash is simulated and whose power fails: during an update,
 * before, within and after every erase and every program. After each, a child process starts
 * the firmware anew on what the flash then holds and says which image is active, verified and
 * passes its golden test: the old one or the new one; anything else is a failure.
 *
 * power_cut FLASH IMAGE [FINISH]: FLASH has an active image; IMAGE is written to the other slot
 * block by block as the toolkit does, and activated. Every FINISH-th child also goes on with
 * the update and must end with the new image. Prints one JSON object. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "job.h"
#include "model.h"
#include "port.h"
#include "slots.h"
#include "stack.h"

enum {
    OLD = 10,
    NEW = 11,
    OLD_THEN_NEW = 12,
    NEITHER = 13,
    UNFINISHED = 14,
    MESSAGE_BYTES = 1024
};
enum tear { UNTOUCHED, FIRST_HALF, LAST_HALF, SOME_BITS, WHOLE, TEARS };

static uint8_t *flash, *image;
static uint32_t image_bytes, operations, cuts, finish_every, finished;
static uint32_t ends[UNFINISHED + 1];
static uint8_t old_id[32], new_id[32];
static int child;

static int update(void);

/* What the flash holds when power fails in the change of `count` bytes at `at`; `target` is
 * what the whole change would give. */
static void tear(enum tear how, uint32_t at, const uint8_t *target, uint32_t count)
{
    uint32_t random = at * 2654435761u + operations;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t mask = 0;
        random = random * 1664525u + 1013904223u;
        if (how == WHOLE || (how == FIRST_HALF && i < count / 2) ||
            (how == LAST_HALF && i >= count / 2))
            mask = 0xFF;
        else if (how == SOME_BITS)
            mask = (uint8_t)(random >> 24);
        flash[at + i] = (uint8_t)((flash[at + i] & ~mask) | (target[i] & mask));
    }
}

/* What a board that starts now is: OLD, NEW or NEITHER. */
static int start(void)
{
    uint8_t space[256];
    cbor_writer w = {.at = space, .end = space + sizeof space};
    static const uint8_t test[] = "\xa1\x63job\x64test";
    const int slot = slot_active();
    if (slot == SLOT_NONE || model_open(slot) != 0)
        return NEITHER;
    const int32_t leaves = qe_image_verify(&model.image, 0, 1u << 30);
    if (leaves <= 0)
        return NEITHER;
    const int is_old = memcmp(model.image.id, old_id, 32) == 0;
    if (!is_old && memcmp(model.image.id, new_id, 32) != 0)
        return NEITHER;
    if (job_begin(test, sizeof test - 1) != 0)
        return NEITHER;
    for (int error = 0;;) { /* until the test is over: then there is no job */
        w.at = space;
        error = job_step(test, sizeof test - 1, &w);
        if (error == 6)
            return is_old ? OLD : NEW;
        if (error)
            return NEITHER;
    }
}

static int outcome(enum tear how, uint32_t at, const uint8_t *target, uint32_t count,
                   int finish)
{
    tear(how, at, target, count);
    child = 1;
    model.slot = SLOT_NONE;
    int found = start();
    if (found == OLD && finish)
        found = update() == 0 && start() == NEW ? OLD_THEN_NEW : UNFINISHED;
    return found;
}

static void operate(uint32_t at, const uint8_t *target, uint32_t count)
{
    operations += !child;
    for (int how = 0; how < TEARS && !child; how++) {
        uint8_t before[QF_ERASE_BYTES];
        cuts++;
        const int finish = finish_every && cuts % finish_every == 0;
        memcpy(before, flash + at, count);
        fflush(stdout);
        const pid_t pid = fork(); /* the flash is private to each process */
        if (pid == 0)
            _exit(outcome((enum tear)how, at, target, count, finish));
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
            abort();
        const int code = WIFEXITED(status) ? WEXITSTATUS(status) : NEITHER;
        ends[code >= OLD && code <= UNFINISHED ? code : NEITHER]++;
        finished += code == OLD_THEN_NEW;
    }
    memcpy(flash + at, target, count);
}

/* ---- the port ---- */

void port_open(void)
{
}

uint8_t port_read(void)
{
    abort();
}

void port_write(const uint8_t *bytes, size_t count)
{
    (void)bytes;
    (void)count;
}

uint64_t port_ticks(void)
{
    return 0;
}

const uint8_t *port_flash(void)
{
    return flash;
}

void port_erase(uint32_t offset)
{
    uint8_t target[QF_ERASE_BYTES];
    memset(target, 0xFF, sizeof target);
    operate(offset, target, port_erase_bytes(offset));
}

void port_program(uint32_t offset, const uint8_t page[QF_PAGE_BYTES])
{
    uint8_t target[QF_PAGE_BYTES];
    for (uint32_t i = 0; i < QF_PAGE_BYTES; i++)
        target[i] = flash[offset + i] & page[i];
    operate(offset, target, sizeof target);
}

void port_identity(uint8_t id[8])
{
    memset(id, 0, 8);
}

int port_emulated(void)
{
    return 1;
}

void port_reset(void)
{
    abort();
}

uint32_t stack_bytes(void)
{
    return 0;
}

int stack_overrun(void)
{
    return 0;
}

uint32_t stack_used(void)
{
    return 0;
}

/* ---- the update ---- */

/* Writes what differs and activates, as toolkit/device/flash.py does. Returns 0 or an error. */
static int update(void)
{
    const int slot = slot_active() == 0 ? 1 : 0;
    for (uint32_t at = 0; at < image_bytes; at += QF_ERASE_BYTES) {
        if (memcmp(slot_image(slot) + at, image + at, QF_ERASE_BYTES) == 0)
            continue;
        for (uint32_t i = 0; i < QF_ERASE_BYTES; i += MESSAGE_BYTES) {
            const enum slot_error error =
                slot_write(slot, at + i, image + at + i, MESSAGE_BYTES);
            if (error)
                return (int)error;
        }
    }
    return job_activate(slot, NULL);
}

static uint8_t *read_file(const char *name, uint32_t *bytes)
{
    FILE *file = fopen(name, "rb");
    if (!file) {
        perror(name);
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    *bytes = (uint32_t)ftell(file);
    rewind(file);
    const uint32_t room = (*bytes + QF_ERASE_BYTES - 1) / QF_ERASE_BYTES * QF_ERASE_BYTES;
    uint8_t *data =
        mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(data, 0xFF, room);
    if (fread(data, 1, *bytes, file) != *bytes)
        exit(2);
    fclose(file);
    return data;
}

int main(int argc, char **argv)
{
    uint32_t flash_bytes;
    qe_image opened;
    if (argc < 3)
        return 2;
    flash = read_file(argv[1], &flash_bytes);
    image = read_file(argv[2], &image_bytes);
    finish_every = argc > 3 ? (uint32_t)atoi(argv[3]) : 0;
    if (flash_bytes < QF_FLASH_BYTES || image_bytes > slot_capacity() ||
        slot_active() == SLOT_NONE || qe_image_open(&opened, image, image_bytes) != 0)
        return 2;
    memcpy(new_id, opened.id, 32);
    const slot_record record = slot_read(slot_active());
    memcpy(old_id, record.id, 32);
    const int error = update();
    const int now = start();
    printf("{\"operations\": %u, \"cuts\": %u, \"old\": %u, \"new\": %u, \"neither\": %u, "
           "\"finished\": %u, \"unfinished\": %u, \"updated\": %s}\n",
           operations, cuts, ends[OLD] + ends[OLD_THEN_NEW], ends[NEW], ends[NEITHER], finished,
           ends[UNFINISHED], error == 0 && now == NEW ? "true" : "false");
    return ends[NEITHER] || ends[UNFINISHED] || error || now != NEW;
}
