/* neon_base.h - the float kernels of the AArch64 sets, and small pieces that their products are
 * made of. Included inside the set's target pragma. */
#include "kernels.h"
#include <arm_neon.h>

#define W 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

static inline vf half_load(const uint8_t *p)
{
    return (vf)vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

static inline vi most(vi a, vi b)
{
    return (vi)vmaxq_s32((int32x4_t)a, (int32x4_t)b);
}

static inline int32_t most_of(vi v)
{
    return vmaxvq_s32((int32x4_t)v);
}

static inline int32_t sum_of(vi v)
{
    return vaddvq_s32((int32x4_t)v);
}

static inline vf larger(vf a, vf b)
{
    const float32x4_t x = (float32x4_t)a, y = (float32x4_t)b;
    return (vf)vbslq_f32(vcgtq_f32(x, y), x, y);
}

static inline float largest_of(vf v)
{
    return vmaxvq_f32((float32x4_t)v);
}

static inline void low_bytes(const vi v[8], int8_t *q)
{
    int8x16_t pair[4];
    for (int i = 0; i < 4; i++)
        pair[i] = (int8x16_t)vuzp1q_s16((int16x8_t)v[2 * i], (int16x8_t)v[2 * i + 1]);
    vst1q_s8(q, vuzp1q_s8(pair[0], pair[1]));
    vst1q_s8(q + 16, vuzp1q_s8(pair[2], pair[3]));
}

#include "lanes.h"

#define INLINE static inline __attribute__((always_inline))

INLINE int8x16_t quants(const uint8_t *p)
{
    return vreinterpretq_s8_u8(vld1q_u8(p));
}

/* 32 bytes. GCC 12 hardly ever pairs loads of q registers by itself. */
INLINE void load_pair(const void *p, int8x16_t *a, int8x16_t *b)
{
    const int8x16_t *v = p;
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("ldp %q0, %q1, %2" : "=&w"(*a), "=w"(*b) : "Ump"(v[0]), "m"(v[1]));
#else
    *a = v[0];
    *b = v[1];
#endif
}

INLINE void load_floats(const float *p, float32x4_t *a, float32x4_t *b)
{
    int8x16_t v[2];
    load_pair(p, &v[0], &v[1]);
    *a = vreinterpretq_f32_s8(v[0]);
    *b = vreinterpretq_f32_s8(v[1]);
}

INLINE void load_sums(const int32_t *p, int32x4_t *a, int32x4_t *b)
{
    int8x16_t v[2];
    load_pair(p, &v[0], &v[1]);
    *a = vreinterpretq_s32_s8(v[0]);
    *b = vreinterpretq_s32_s8(v[1]);
}

/* *acc + term in acc's own register: GCC 12 takes another and moves it back. */
INLINE void add_to(float32x4_t *acc, float32x4_t term)
{
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("fadd %0.4s, %0.4s, %1.4s" : "+w"(*acc) : "w"(term));
#else
    *acc = vaddq_f32(*acc, term);
#endif
}

/* The scales of 16 rows. */
INLINE void scales_of(const uint8_t *w, float32x4_t d[4])
{
    int8x16_t half[2];
    load_pair(w, &half[0], &half[1]);
    for (int i = 0; i < 2; i++) {
        const float16x8_t h = vreinterpretq_f16_s8(half[i]);
        d[2 * i] = vcvt_f32_f16(vget_low_f16(h));
        d[2 * i + 1] = vcvt_high_f32_f16(h);
    }
}

INLINE int8x16_t low_nibbles(int8x16_t v)
{
    return vandq_s8(v, vdupq_n_s8(15));
}

INLINE int8x16_t high_nibbles(int8x16_t v)
{
    return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 4));
}

/* acc + (dw * dx) * isum, each step rounded */
INLINE float32x4_t scaled(float32x4_t acc, float32x4_t dw, float dx, int32x4_t isum)
{
    return vaddq_f32(acc, vmulq_f32(vmulq_n_f32(dw, dx), vcvtq_f32_s32(isum)));
}

/* Products of the upper eight bytes. */
INLINE uint16x8_t wide_high(uint8x16_t a, uint8x16_t b)
{
    return vmull_high_u8(a, b);
}

/* The end of QE_STEP_ROW: sums of `tokens` rows by the scales of 16 rows, at w. */
INLINE void scale_rows(const uint8_t *w, uint32_t tokens, float *out, size_t stride)
{
    float d[16];
    memcpy(d, w, sizeof d);
    for (uint32_t t = 0; t < tokens; t++, out += stride)
        for (int r = 0; r < 16; r += 4)
            vst1q_f32(out + r, vmulq_f32(vld1q_f32(out + r), vld1q_f32(d + r)));
}

/* The table's bytes by indices 0 .. 15. */
INLINE int8x16_t lookup(uint8x16_t table, uint8x16_t index)
{
    return vreinterpretq_s8_u8(vqtbl1q_u8(table, index));
}

/* Products with a lane of x, which is constant after inlining. */
INLINE float32x4_t by_token(float32x4_t v, float32x4_t x, int lane)
{
    switch (lane) {
    case 0: return vmulq_laneq_f32(v, x, 0);
    case 1: return vmulq_laneq_f32(v, x, 1);
    case 2: return vmulq_laneq_f32(v, x, 2);
    default: return vmulq_laneq_f32(v, x, 3);
    }
}

INLINE int32x4_t times_sum(int32x4_t v, int32x4_t x, int lane)
{
    switch (lane) {
    case 0: return vmulq_laneq_s32(v, x, 0);
    case 1: return vmulq_laneq_s32(v, x, 1);
    case 2: return vmulq_laneq_s32(v, x, 2);
    default: return vmulq_laneq_s32(v, x, 3);
    }
}

INLINE int32x4_t plus_times_sum(int32x4_t a, int32x4_t v, int32x4_t x, int lane)
{
    switch (lane) {
    case 0: return vmlaq_laneq_s32(a, v, x, 0);
    case 1: return vmlaq_laneq_s32(a, v, x, 1);
    case 2: return vmlaq_laneq_s32(a, v, x, 2);
    default: return vmlaq_laneq_s32(a, v, x, 3);
    }
}

INLINE size_t block_bytes(int q4)
{
    return q4 ? 288 : 544; /* 16 rows by 32 columns */
}
