/* ed25519.h - verifies Ed25519 signatures (RFC 8032, 5.1.7). It knows no secret, so its time
 * may depend on what it works on. */
#ifndef QE_ED25519_H
#define QE_ED25519_H

#include <stdint.h>

/* 1 when `signature` is that of `message` (at most 900 bytes) by `key`. */
int qe_ed25519_verify(const uint8_t key[32], const uint8_t *message, uint32_t bytes,
                      const uint8_t signature[64]);

#endif
