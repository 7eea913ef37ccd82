/* upload.h - MCUmgr's image group, so that tools that speak SMP can send an image: state,
 * upload and erase. The toolkit's own way is slots.h by GROUP_QEDGE, which sends changes only;
 * both write through slot_write. */
#ifndef QF_UPLOAD_H
#define QF_UPLOAD_H

#include "cbor.h"

/* Each takes a message and writes the answer; they return an SMP error. */
int upload_state(const uint8_t *map, uint32_t bytes, int write, cbor_writer *answer);
int upload_take(const uint8_t *map, uint32_t bytes, cbor_writer *answer);
int upload_erase(const uint8_t *map, uint32_t bytes);

#endif
