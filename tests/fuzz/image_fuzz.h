/* image_fuzz.h - what the fuzzer of images shares: chance from a seed, memory that ends where
 * it should, and its rooms: image_damage.c makes a damaged image, image_use.c uses what opens,
 * image_golden.c its golden section; image_fuzz.c is main. */
#ifndef IMAGE_FUZZ_H
#define IMAGE_FUZZ_H

#include "engine/kernels/kernels.h"

enum { HEADER = 128, ENTRY = 32, TENSOR = 40, GOLDEN = 48, TOKENS = 24 };

extern const uint8_t *whole; /* the undamaged image */
extern uint64_t whole_bytes;
extern uint64_t seed; /* of this case */
extern unsigned long encoded, evaluated, compared, golden, golden_refused;

/* abort() with these words, which names the seed. */
void require(int holds, const char *what);

uint64_t draw(void); /* 64 bits that follow from the seed */
uint64_t below(uint64_t n);
int chance(unsigned percent);

/* Memory that ends exactly where it should: the next byte is ASan's. */
void *exactly(size_t bytes);

void put32(uint8_t *p, uint32_t v);
void put64(uint8_t *p, uint64_t v);

/* Where a section of the undamaged image lies. */
uint64_t place(uint32_t type, uint64_t *bytes);
/* Another value for one that was there: an edge, or near it. */
uint64_t boundary(uint64_t was);

/* A damaged copy in memory of exactly its size; damage to the golden section only, or to any.
 */
uint8_t *damaged(int only_golden, uint64_t *size);
void damage_golden(uint8_t *image);

void decode_some(const qe_image *image);
void encode_some(const qe_image *image);
void evaluate_some(const qe_image *image);
void read_golden(const qe_image *image);

#endif
