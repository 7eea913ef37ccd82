/* kernel_attention.c - kernel_check's cases for attention's entries, over caches whose unused
 * positions hold garbage: score_q8, weigh_q8, mix_q8, and the f16 and f32 ones. */
#include "kernel_check.h"

enum { POSITIONS = 5 * 32, HEADS = 9 };

static float truth[HEADS * POSITIONS], truth_d[HEADS * POSITIONS / 32];
static int8_t truth_q[HEADS * POSITIONS];

static uint8_t any_byte(void)
{
    const uint32_t r = pick(8);
    return (uint8_t)(r == 0 ? 0x80 : r == 1 ? 0x7F : r == 2 ? 0x81 : pick(256));
}

/* Scales are never negative where quantize wrote them; garbage may be anything. */
static uint16_t cache_scale(int kind, int garbage)
{
    const uint16_t scale = scale_half(garbage ? EXTREME : kind);
    return garbage ? (uint16_t)(pick(4) ? pick(65536) : scale) : scale & 0x7FFF;
}

static void check_score_q8(uint32_t head_size, uint32_t heads, uint32_t tiles, uint32_t n,
                           int kind)
{
    const uint32_t padded = qe_ceil(head_size, 32), stride = POSITIONS;
    const size_t bytes = qe_key_tile_bytes(head_size);
    uint8_t *keys = guarded(0, tiles * bytes);
    qe_act act = {.q = guarded(1, heads * padded),
                  .d = guarded(2, heads * padded / 32 * 4),
                  .s = guarded(3, heads * padded / 32 * 4),
                  .stride = padded};
    for (size_t i = 0; i < tiles * bytes; i++)
        keys[i] = any_byte();
    for (uint32_t tile = 0; tile < tiles; tile++)
        for (uint32_t b = 0; b * 32 < head_size; b++)
            for (uint32_t p = 0; p < 16;
                 p++) /* blocks before b are whole: 32 scale bytes, 512 of quants */
                qe_store16(keys + tile * bytes + b * 544 + 2 * p,
                           cache_scale(kind, tile * 16 + p >= n));
    fill_act(&act, heads, head_size, kind);
    qe_portable.score_q8(keys, tiles, head_size, &act, heads, truth, stride);
    for (uint32_t h = 0; h < heads; h++)
        record(truth + h * stride, n);
    for (uint32_t k = 0; k < set_count; k++) {
        float *scores = guarded(4, ((heads - 1) * stride + tiles * 16) * 4);
        memset(scores, 0xA5, ((heads - 1) * stride + tiles * 16) * 4);
        sets[k]->score_q8(keys, tiles, head_size, &act, heads, scores, stride);
        for (uint32_t h = 0; h < heads; h++) {
            same_floats("score_q8", sets[k]->name, truth + h * stride, scores + h * stride,
                        tiles * 16);
            if (h + 1 < heads && tiles * 16 < stride) {
                const uint32_t untouched = 0xA5A5A5A5;
                same_bytes("what follows score_q8's row", sets[k]->name, &untouched,
                           scores + h * stride + tiles * 16, 4);
            }
        }
    }
}

/* The outputs of all heads, going on from what `out` held; the second tile on in a second call.
 */
static void mix(const qe_kernels *set, const uint8_t *values, uint32_t head_size,
                uint32_t tiles, uint32_t c, uint32_t heads, float *out)
{
    const uint32_t width = head_size - c * 32 < 32 ? head_size - c * 32 : 32;
    for (uint32_t i = 0; i < heads * width; i++)
        out[i] = 0.0f;
    set->mix_q8(values, 1, head_size, c, width, heads, truth_q, truth_d, POSITIONS, out, width);
    if (tiles > 1)
        set->mix_q8(values + qe_value_tile_bytes(head_size), tiles - 1, head_size, c, width,
                    heads, truth_q + 32, truth_d + 1, POSITIONS, out, width);
}

static void compare_mix(const uint8_t *values, uint32_t head_size, uint32_t tiles, uint32_t c,
                        uint32_t heads)
{
    const uint32_t width = head_size - c * 32 < 32 ? head_size - c * 32 : 32;
    mix(&qe_portable, values, head_size, tiles, c, heads, truth);
    record(truth, heads * width);
    for (uint32_t k = 0; k < set_count; k++) {
        float *out = guarded(4, heads * width * 4);
        mix(sets[k], values, head_size, tiles, c, heads, out);
        same_floats("mix_q8", sets[k]->name, truth, out, heads * width);
    }
}

static void check_weigh_and_mix(uint32_t head_size, uint32_t heads, uint32_t tiles, uint32_t n,
                                int kind)
{
    const size_t bytes = qe_value_tile_bytes(head_size);
    const uint32_t blocks = (head_size + 31) / 32;
    uint8_t *values = guarded(0, tiles * bytes);
    float *e = guarded(1, heads * tiles * 32 * 4);
    for (size_t i = 0; i < tiles * bytes; i++)
        values[i] = any_byte();
    for (uint32_t p = 0; p < tiles * 32; p++) {
        for (uint32_t c = 0; c < blocks; c++)
            qe_store16(values + p / 32 * bytes + c * 64 + p % 32 * 2,
                       cache_scale(kind, p >= n));
        for (uint32_t h = 0; h < heads; h++) {
            const float other = qe_float((64 + pick(64)) << 23 | pick(1u << 23));
            e[h * tiles * 32 + p] = p >= n || pick(6) == 0 ? 0.0f : pick(8) ? other : 1.0f;
        }
    }
    for (uint32_t c = 0; c < blocks; c++) {
        for (uint32_t h = 0; h < heads; h++) {
            int8_t *q = truth_q + h * POSITIONS;
            float *d = truth_d + h * (POSITIONS / 32);
            qe_portable.weigh_q8(values, tiles, head_size, c, e + h * tiles * 32, q, d);
            record_bytes(q, tiles * 32);
            record(d, tiles);
            for (uint32_t k = 0; k < set_count; k++) {
                int8_t *uq = guarded(2, tiles * 32);
                float *du = guarded(3, tiles * 4);
                sets[k]->weigh_q8(values, tiles, head_size, c, e + h * tiles * 32, uq, du);
                same_bytes("weigh_q8's q", sets[k]->name, q, uq, tiles * 32);
                same_floats("weigh_q8's d", sets[k]->name, d, du, tiles);
            }
        }
        compare_mix(values, head_size, tiles, c, heads);
        for (uint32_t i = 0; i < heads * POSITIONS; i++) /* the most that weights can be */
            truth_q[i] = (int8_t)(pick(8) ? 127 : 0);
        compare_mix(values, head_size, tiles, c, heads);
    }
}

/* Caches of f16 (unit 2) or f32 (unit 4). */
static void check_plain(uint32_t head_size, uint32_t n, uint32_t unit, int kind)
{
    uint8_t *cache = guarded(0, (size_t)n * head_size * unit);
    float *q = guarded(1, head_size * 4), *e = guarded(2, n * 4);
    const char *names[2] = {unit == 2 ? "score_f16" : "score_f32",
                            unit == 2 ? "mix_f16" : "mix_f32"};
    for (uint32_t i = 0; i < n * head_size; i++) {
        const int odd = kind == EXTREME && pick(4) == 0;
        const float value = odd ? extreme() : ordinary();
        if (unit == 2)
            qe_store16(cache + 2 * i, odd ? (uint16_t)pick(65536) : scale_half(ORDINARY));
        else
            memcpy(cache + 4 * i, &value, 4);
    }
    fill_row(q, head_size, kind);
    for (uint32_t j = 0; j < n; j++)
        e[j] = pick(6) ? qe_float((64 + pick(64)) << 23 | pick(1u << 23)) : (float)pick(2);
    (unit == 2 ? qe_portable.score_f16 : qe_portable.score_f32)(cache, n, head_size, q, truth);
    record(truth, n);
    for (uint32_t k = 0; k < set_count; k++) {
        float *s = guarded(3, n * 4);
        (unit == 2 ? sets[k]->score_f16 : sets[k]->score_f32)(cache, n, head_size, q, s);
        same_floats(names[0], sets[k]->name, truth, s, n);
    }
    (unit == 2 ? qe_portable.mix_f16 : qe_portable.mix_f32)(cache, n, head_size, e, truth);
    record(truth, head_size);
    for (uint32_t k = 0; k < set_count; k++) {
        float *out = guarded(3, head_size * 4);
        (unit == 2 ? sets[k]->mix_f16 : sets[k]->mix_f32)(cache, n, head_size, e, out);
        same_floats(names[1], sets[k]->name, truth, out, head_size);
    }
}

void check_attention(void)
{
    static const uint32_t sizes[] = {4, 8, 12, 32, 40, 64, 96, 128};
    static const uint32_t lengths[] = {1, 2, 15, 16, 17, 31, 32, 33, 47, 64, 65, 130};
    const uint32_t rounds = quick ? 2 : 24;
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            for (uint32_t j = 0; j < sizeof lengths / sizeof lengths[0]; j++) {
                const int kind = round & 1 ? EXTREME : ORDINARY;
                const uint32_t n = lengths[j], hs = sizes[i],
                               heads = (round + j) % 5 == 4 ? HEADS : (round + j) % 5 + 1;
                describe("round %u, head size %u, %u heads, %u positions, %s data",
                         (unsigned)round, (unsigned)hs, (unsigned)heads, (unsigned)n,
                         kind ? "extreme" : "ordinary");
                check_score_q8(hs, heads, (n + 15) / 16, n, kind);
                check_weigh_and_mix(hs, heads, (n + 31) / 32, n, kind);
                check_plain(hs, n, 2, kind);
                check_plain(hs, n, 4, kind);
            }
}
