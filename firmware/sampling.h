/* sampling.h - how tokens are drawn, out of a message: the firmware's end of
 * runtime/sampling.py. */
#ifndef QF_SAMPLING_H
#define QF_SAMPLING_H

#include "engine/qedge.h"

extern const qe_sampler sampling_greedy;

/* The values of a `run` message (docs/link.md); what is absent is greedy's. 0 when one is of
 * another type or out of its range. */
int sampling_read(const uint8_t *map, uint32_t bytes, qe_sampler *sampler);

#endif
