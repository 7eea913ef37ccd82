/* sampling.c - see sampling.h. */
#include "sampling.h"

#include "cbor.h"

const qe_sampler sampling_greedy = {.top_p = 1.0f, .repeat_penalty = 1.0f};

/* The float of a key, by the bits of a float32. */
static int get_float(const uint8_t *map, uint32_t bytes, const char *key, float *value)
{
    uint32_t bits;
    memcpy(&bits, value, sizeof bits);
    const int ok = cbor_get_uint(map, bytes, key, 0, UINT32_MAX, &bits);
    memcpy(value, &bits, sizeof bits);
    return ok;
}

int sampling_read(const uint8_t *map, uint32_t bytes, qe_sampler *s)
{
    uint32_t count = 8;
    cbor_item item;
    const uint8_t *seed = cbor_bytes(map, bytes, "seed", &count);
    *s = sampling_greedy;
    if (seed && count == 8)
        memcpy(&s->random, seed, 8);
    return count == 8 && (seed || !cbor_find(map, bytes, "seed", &item)) &&
           get_float(map, bytes, "temperature", &s->temperature) &&
           cbor_get_uint(map, bytes, "top_k", 0, UINT32_MAX, &s->top_k) &&
           get_float(map, bytes, "top_p", &s->top_p) &&
           get_float(map, bytes, "min_p", &s->min_p) &&
           get_float(map, bytes, "repeat_penalty", &s->repeat_penalty) &&
           qe_sampler_check(s) == QE_OK;
}
