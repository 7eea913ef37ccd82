/* signature.c - the signature behind an image's last byte (SPEC 3.8), checked with a key. It
 * does not know whose key that is, nor which counters were accepted before. */
#include "ed25519.h"
#include "qedge.h"

enum { AT_VERSION = 8, AT_COUNTER = 12, AT_SIGNATURE = 16, MESSAGE_BYTES = 52 };

static const char magic[] = "QEDGESIG", context[] = "qedge image v1\n";

int qe_image_signature(const qe_image *image, const void *trailer, uint64_t bytes,
                       const uint8_t key[32], uint32_t *counter)
{
    const uint8_t *s = trailer;
    const uint8_t version[4] = {1, 0, 0, 0};
    uint8_t message[MESSAGE_BYTES];
    *counter = 0;
    if (bytes < QE_SIGNATURE_BYTES || memcmp(s, magic, 8) != 0)
        return QE_UNSIGNED;
    if (memcmp(s + AT_VERSION, version, sizeof version) != 0)
        return QE_SIGNED_BY_ANOTHER;
    memcpy(message, context, 16);
    memcpy(message + 16, image->id, 32);
    memcpy(message + 48, s + AT_COUNTER, 4);
    if (!qe_ed25519_verify(key, message, MESSAGE_BYTES, s + AT_SIGNATURE))
        return QE_SIGNED_BY_ANOTHER;
    *counter = (uint32_t)s[AT_COUNTER] | (uint32_t)s[AT_COUNTER + 1] << 8 |
               (uint32_t)s[AT_COUNTER + 2] << 16 | (uint32_t)s[AT_COUNTER + 3] << 24;
    return QE_SIGNED;
}
