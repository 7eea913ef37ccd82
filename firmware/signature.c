/* signature.c - see signature.h. */
#include "signature.h"

#include "link.h"
#include "slots.h"

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

int signature_check(int slot, const qe_image *image, uint32_t *counter)
{
    const uint8_t *key = signature_key();
    *counter = 0;
    if (!key)
        return LINK_OK;
    if (qe_image_signature(image, slot_image(slot) + image->bytes,
                           slot_capacity() - image->bytes, key, counter) != QE_SIGNED)
        return LINK_UNSIGNED;
    return *counter < slot_floor() ? LINK_OLDER : LINK_OK;
}
