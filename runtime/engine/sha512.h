/* sha512.h - SHA-512 (FIPS 180-4), of messages that are in memory whole: what ed25519 needs. */
#ifndef QE_SHA512_H
#define QE_SHA512_H

#include <stddef.h>
#include <stdint.h>

/* Of parts one after the other; `bytes` 0 ends the list. At most 1 KiB in all. */
typedef struct {
    const uint8_t *data;
    size_t bytes;
} qe_sha512_part;

void qe_sha512(const qe_sha512_part *parts, uint8_t digest[64]);

#endif
