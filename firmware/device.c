/* device.c - the link's messages to their rooms. A message that was answered and comes again,
 * because the answer was lost on the line, gets the same answer and is not done twice. */
#include "device.h"

#include "boot.h"
#include "frame.h"
#include "job.h"
#include "link.h"
#include "model.h"
#include "port.h"
#include "signature.h"
#include "stack.h"
#include "upload.h"

#ifndef QF_VERSION
#define QF_VERSION "0"
#endif

enum { HEAD_BYTES = 8, OP_READ = 0, OP_WRITE = 2, SECTION_BYTES = 1024 };

_Static_assert((int)LINK_RANGE == (int)SLOT_RANGE &&
                   (int)LINK_ACTIVE_SLOT == (int)SLOT_ACTIVE &&
                   (int)LINK_FLASH == (int)SLOT_FLASH,
               "a slot's errors go over the link as they are");

typedef struct {
    uint32_t op, version, group, command;
    const uint8_t *map;
    uint32_t bytes;
} message;

/* The last answer, and what it was the answer to. */
static uint8_t answer_packet[FRAME_PACKET_BYTES];
static uint32_t answer_bytes;
static uint8_t answered[32];
static int reset_wanted;

/* ---- our own group ---- */

static void put_slot(cbor_writer *w, int slot)
{
    const slot_record record = slot_read(slot);
    cbor_put_map(w);
    cbor_pair_uint(w, "sequence", record.sequence);
    if (record.sequence) {
        cbor_pair_uint(w, "bytes", record.bytes);
        cbor_pair_uint(w, "counter", record.counter);
        cbor_pair_bytes(w, "id", record.id, sizeof record.id);
    }
    cbor_put_end(w);
}

static int hello(cbor_writer *w)
{
    uint8_t id[8];
    port_identity(id);
    cbor_pair_text(w, "board", QF_BOARD);
    cbor_pair_bytes(w, "board_id", id, sizeof id);
    cbor_pair_text(w, "firmware", QF_VERSION);
    cbor_pair_text(w, "kernels", qe_kernels_name(qe_kernels_find(NULL, 0)));
    cbor_pair_uint(w, "arena", QF_ARENA_BYTES);
    cbor_pair_uint(w, "capacity", slot_capacity());
    cbor_pair_uint(w, "block", QF_ERASE_BYTES);
    cbor_pair_uint(w, "page", QF_PAGE_BYTES);
    cbor_pair_uint(w, "packet", FRAME_PACKET_BYTES);
    cbor_pair_uint(w, "tick_hz", QF_TICK_HZ);
    cbor_pair_bool(w, "emulated", port_emulated());
    cbor_pair_uint(w, "stack", stack_bytes());
    cbor_pair_uint(w, "stack_used", stack_used());
    if (signature_key()) {
        cbor_pair_bytes(w, "key", signature_key(), 32);
        cbor_pair_uint(w, "floor", slot_floor());
    }
    if (boot.error) {
        cbor_pair_uint(w, "start_error", (uint32_t)boot.error);
        cbor_pair_uint(w, "start_slot", (uint32_t)boot.slot);
        cbor_pair_bool(w, "fell_back", boot.fell_back);
    }
    const int active = slot_active();
    if (active != SLOT_NONE)
        cbor_pair_uint(w, "active", (uint32_t)active);
    cbor_put_text(w, "slots");
    cbor_put_array(w);
    for (int slot = 0; slot < SLOT_COUNT; slot++)
        put_slot(w, slot);
    cbor_put_end(w);
    return LINK_OK;
}

/* The first 8 bytes of each block's SHA-256: enough to see which blocks have changed; what is
 * written is verified whole afterwards. */
static int digest(const message *m, cbor_writer *w)
{
    static uint8_t digests[DIGESTS_AT_ONCE * DIGEST_BYTES];
    const uint32_t blocks = slot_capacity() / QF_ERASE_BYTES;
    uint32_t slot = SLOT_COUNT, first = UINT32_MAX, count = 0;
    int part = 0; /* what is sent to a slot lies in it */
    if (!cbor_get_uint(m->map, m->bytes, "slot", 0, SLOT_COUNT - 1, &slot) ||
        slot >= SLOT_COUNT)
        return LINK_RANGE;
    if (!cbor_get_bool(m->map, m->bytes, "part", &part) ||
        !cbor_get_uint(m->map, m->bytes, "count", 1, DIGESTS_AT_ONCE, &count) || !count ||
        !cbor_get_uint(m->map, m->bytes, "first", 0, UINT32_MAX - 1, &first) ||
        first == UINT32_MAX)
        return LINK_MESSAGE;
    memset(digests, 0, sizeof digests);
    for (uint32_t i = 0; i < count && first < blocks && i < blocks - first; i++) {
        uint8_t whole[32];
        qe_sha256 hash;
        qe_sha256_init(&hash);
        qe_sha256_update(&hash, slot_image((int)slot) + (first + i) * QF_ERASE_BYTES,
                         QF_ERASE_BYTES);
        qe_sha256_digest(&hash, whole);
        memcpy(digests + i * DIGEST_BYTES, whole, DIGEST_BYTES);
    }
    cbor_pair_bytes(w, "digests", digests, (size_t)count * DIGEST_BYTES);
    return LINK_OK;
}

/* A message that writes names the board that it is for: ports can be swapped meanwhile. */
static int is_for_us(const message *m)
{
    uint8_t id[8];
    uint32_t count = 0;
    const uint8_t *named = cbor_bytes(m->map, m->bytes, "id", &count);
    port_identity(id);
    return named && count == sizeof id && memcmp(named, id, sizeof id) == 0;
}

/* A slot, and a place in it; LINK_RANGE for what is none. */
static int place(const message *m, const char *slot_key, const char *offset_key, uint32_t step,
                 int *slot, uint32_t *offset)
{
    uint32_t number = SLOT_COUNT;
    *offset = UINT32_MAX;
    if (!cbor_get_uint(m->map, m->bytes, slot_key, 0, SLOT_COUNT - 1, &number) ||
        number >= SLOT_COUNT ||
        !cbor_get_uint(m->map, m->bytes, offset_key, 0, slot_capacity(), offset) ||
        *offset % step)
        return LINK_RANGE;
    *slot = (int)number;
    return LINK_OK;
}

static int write_bytes(const message *m)
{
    uint32_t count = 0, offset;
    int slot;
    if (!is_for_us(m))
        return LINK_OTHER_BOARD;
    const uint8_t *data = cbor_bytes(m->map, m->bytes, "data", &count);
    if (!data)
        return LINK_MESSAGE;
    const int error = place(m, "slot", "offset", QF_PAGE_BYTES, &slot, &offset);
    if (error)
        return error;
    job_cancel();
    return (int)slot_write(slot, offset, data, count);
}

static int copy_block(const message *m)
{
    uint8_t page[QF_PAGE_BYTES]; /* flash cannot be read while it is written */
    uint32_t source, offset;
    int from, slot;
    if (!is_for_us(m))
        return LINK_OTHER_BOARD;
    int error = place(m, "slot", "offset", QF_ERASE_BYTES, &slot, &offset);
    if (!error)
        error = place(m, "from", "source", QF_ERASE_BYTES, &from, &source);
    if (!error && source > slot_capacity() - QF_ERASE_BYTES)
        error = LINK_RANGE;
    if (error)
        return error;
    job_cancel();
    if (from == slot && source == offset) /* it would be erased before it is read */
        return (int)slot_clear(slot);
    for (uint32_t at = 0; at < QF_ERASE_BYTES && !error; at += sizeof page) {
        memcpy(page, slot_image(from) + source + at, sizeof page);
        error = (int)slot_write(slot, offset + at, page, sizeof page);
    }
    return error;
}

/* A piece of a section of the active image, of those that are verified as it is opened. */
static int section(const message *m, cbor_writer *w)
{
    static uint8_t piece[SECTION_BYTES];
    uint32_t kind = 0, offset = 0;
    const int active = slot_active();
    qe_image image;
    uint64_t bytes;
    if (!cbor_get_uint(m->map, m->bytes, "kind", 1, UINT32_MAX, &kind) || !kind ||
        !cbor_get_uint(m->map, m->bytes, "offset", 0, UINT32_MAX, &offset) ||
        kind == QE_SECTION_ROPE || kind == QE_SECTION_WEIGHTS)
        return LINK_MESSAGE;
    if (active == SLOT_NONE)
        return LINK_NO_IMAGE;
    const int error = model_peek(active, &image);
    if (error)
        return LINK_ENGINE - error;
    const uint8_t *data = qe_image_section(&image, kind, &bytes);
    cbor_pair_bool(w, "there", data != NULL);
    cbor_pair_uint(w, "bytes", bytes);
    const uint64_t left = offset < bytes ? bytes - offset : 0;
    const size_t count = left < sizeof piece ? (size_t)left : sizeof piece;
    if (count)
        memcpy(piece, data + offset, count);
    cbor_pair_bytes(w, "data", piece, count);
    return LINK_OK;
}

static int qedge(const message *m, cbor_writer *w)
{
    switch (m->command) {
    case QEDGE_HELLO: return hello(w);
    case QEDGE_DIGEST: return digest(m, w);
    case QEDGE_WRITE: return write_bytes(m);
    case QEDGE_COPY: return copy_block(m);
    case QEDGE_JOB: return job_begin(m->map, m->bytes);
    case QEDGE_STEP: return job_step(m->map, m->bytes, w);
    case QEDGE_SECTION: return section(m, w);
    }
    return LINK_UNKNOWN;
}

/* ---- SMP's own groups ---- */

static int echo(const message *m, cbor_writer *w)
{
    uint32_t count = 0;
    const uint8_t *text = cbor_bytes(m->map, m->bytes, "d", &count);
    if (!text || count > FRAME_PACKET_BYTES / 2)
        return SMP_INVALID;
    static char copy[FRAME_PACKET_BYTES / 2 + 1];
    memcpy(copy, text, count);
    copy[count] = 0;
    cbor_pair_text(w, "r", copy);
    return SMP_OK;
}

static int os(const message *m, cbor_writer *w)
{
    switch (m->command) {
    case OS_ECHO: return echo(m, w);
    case OS_RESET: reset_wanted = 1; return SMP_OK;
    case OS_PARAMETERS:
        cbor_pair_uint(w, "buf_size", FRAME_PACKET_BYTES);
        cbor_pair_uint(w, "buf_count", 1);
        return SMP_OK;
    }
    return SMP_UNSUPPORTED;
}

static int image(const message *m, cbor_writer *w)
{
    switch (m->command) {
    case IMAGE_STATE: return upload_state(m->map, m->bytes, m->op == OP_WRITE, w);
    case IMAGE_UPLOAD: return upload_take(m->map, m->bytes, w);
    case IMAGE_ERASE: return upload_erase(m->map, m->bytes);
    }
    return SMP_UNSUPPORTED;
}

/* ---- messages ---- */

static void put_error(cbor_writer *w, const message *m, int error)
{
    if (!m->version || m->group != GROUP_QEDGE) {
        cbor_pair_uint(w, "rc", (uint32_t)error);
        return;
    }
    cbor_put_text(w, "err");
    cbor_put_map(w);
    cbor_pair_uint(w, "group", m->group);
    cbor_pair_uint(w, "rc", (uint32_t)error);
    cbor_put_end(w);
}

static void answer(const uint8_t *packet, uint32_t bytes)
{
    const message m = {.op = packet[0] & 7,
                       .version = packet[0] >> 3 & 3,
                       .group = (uint32_t)packet[4] << 8 | packet[5],
                       .command = packet[7],
                       .map = packet + HEAD_BYTES,
                       .bytes = bytes - HEAD_BYTES};
    uint8_t *body = answer_packet + HEAD_BYTES;
    cbor_writer w = {.at = body, .end = answer_packet + sizeof answer_packet - 64};
    cbor_put_map(&w);
    int error = SMP_UNSUPPORTED;
    if ((m.op != OP_READ && m.op != OP_WRITE) || !cbor_is_map(m.map, m.bytes))
        error = m.group == GROUP_QEDGE ? LINK_MESSAGE : SMP_INVALID;
    else if (m.group == GROUP_OS)
        error = os(&m, &w);
    else if (m.group == GROUP_IMAGE)
        error = image(&m, &w);
    else if (m.group == GROUP_QEDGE)
        error = qedge(&m, &w);
    if (error || w.full) { /* no half answers */
        w = (cbor_writer){.at = body, .end = answer_packet + sizeof answer_packet};
        cbor_put_map(&w);
        put_error(&w, &m, error ? error : LINK_MESSAGE);
    }
    w.end = answer_packet + sizeof answer_packet;
    cbor_put_end(&w);
    const uint32_t length = (uint32_t)(w.at - body);
    memcpy(answer_packet, packet, HEAD_BYTES);
    answer_packet[0] = (uint8_t)(packet[0] + 1); /* the op of an answer is the next one */
    answer_packet[1] = 0;
    answer_packet[2] = (uint8_t)(length >> 8);
    answer_packet[3] = (uint8_t)length;
    answer_bytes = HEAD_BYTES + length;
}

/* Whether this packet is the one answered last; remembers it. */
static int seen(const uint8_t *packet, uint32_t bytes)
{
    uint8_t digest[32];
    qe_sha256 hash;
    qe_sha256_init(&hash);
    qe_sha256_update(&hash, packet, bytes);
    qe_sha256_digest(&hash, digest);
    const int same = answer_bytes && memcmp(digest, answered, sizeof digest) == 0;
    memcpy(answered, digest, sizeof digest);
    return same;
}

void device_run(void)
{
    static frame_reader readers[PORT_LINES];
    for (;;) {
        const uint8_t byte = port_read();
        frame_reader *reader = &readers[port_line()];
        const uint32_t bytes = frame_take(reader, byte);
        const uint8_t *packet = reader->bytes + 2;
        if (bytes < HEAD_BYTES ||
            ((uint32_t)packet[2] << 8 | packet[3]) != bytes - HEAD_BYTES || packet[0] & 1)
            continue;
        if (!seen(packet, bytes))
            answer(packet, bytes);
        if (stack_overrun()) /* then nothing that it found can be trusted */
            port_reset();
        frame_send(answer_packet, answer_bytes);
        if (reset_wanted)
            port_reset();
    }
}
