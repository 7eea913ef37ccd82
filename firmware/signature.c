/* signature.c - see signature.h. */
#include "signature.h"

#include "ed25519.h"
#include "link.h"
#include "slots.h"

enum { BYTES = 80, AT_COUNTER = 12, AT_SIGNATURE = 16, MESSAGE_BYTES = 52 };

static const char magic[] = "QEDGESIG", context[] = "qedge image v1\n";

#if defined(QF_KEY)
static const uint8_t trusted[32] = QF_KEY;
#endif

const uint8_t *signature_key(void)
{
#if defined(QF_KEY)
    return trusted;
#else
    return NULL;
#endif
}

uint32_t signature_floor(void)
{
    uint32_t most = 0;
    for (int slot = 0; slot < SLOT_COUNT; slot++) {
        const slot_record record = slot_read(slot);
        most = record.counter > most ? record.counter : most;
    }
    return most;
}

int signature_check(int slot, const qe_image *image, uint32_t *counter)
{
    const uint8_t *key = signature_key(), *s = slot_image(slot) + image->bytes;
    uint8_t message[MESSAGE_BYTES];
    *counter = 0;
    const int present = image->bytes + BYTES <= slot_capacity() &&
                        memcmp(s, magic, 8) == 0 && s[8] == 1 && !s[9] && !s[10] && !s[11];
    if (!key)
        return LINK_OK;
    if (!present)
        return LINK_UNSIGNED;
    memcpy(message, context, 16);
    memcpy(message + 16, image->id, 32);
    memcpy(message + 48, s + AT_COUNTER, 4);
    if (!ed25519_verify(key, message, MESSAGE_BYTES, s + AT_SIGNATURE))
        return LINK_UNSIGNED;
    memcpy(counter, s + AT_COUNTER, 4);
    return *counter < signature_floor() ? LINK_OLDER : LINK_OK;
}
