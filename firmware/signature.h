/* signature.h - whether an image is from someone whom the board trusts, and not older than what
 * it has accepted. A board trusts one Ed25519 key, that its firmware was built with (QF_KEY);
 * one that was built without takes any image. The engine reads the signature (SPEC 3.8).
 */
#ifndef QF_SIGNATURE_H
#define QF_SIGNATURE_H

#include "engine/qedge.h"

/* The key's 32 bytes, or NULL. */
const uint8_t *signature_key(void);

/* Checks the opened image at slot_image(slot); *counter becomes its security counter, 0 when it
 * has no signature or nobody asks for one. Returns a link error. */
int signature_check(int slot, const qe_image *image, uint32_t *counter);

#endif
