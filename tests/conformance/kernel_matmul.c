/* kernel_matmul.c - kernel_check's cases for matmul: the product written down a second time,
 * straight from SPEC 2.5 over plain numbers, against every set, portable too, in every layout
 * of SPEC 3.5. */
#include "kernel_check.h"

enum { ROWS = 172, COLUMNS = 576, TOKENS = 25, OUT = 176 };

static int8_t quant[ROWS][COLUMNS]; /* q4_0: -8 .. 7 */
static uint16_t scale[ROWS][COLUMNS / 32];
static float plain[ROWS][COLUMNS], truth[TOKENS * OUT], found[TOKENS * OUT + 16];

static void fill_weights(uint32_t type, uint32_t rows, uint32_t columns, int kind)
{
    const uint32_t padded = qe_ceil(columns, 32);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t b = 0; b < padded / 32; b++) {
            const uint32_t character = pick(8);
            scale[r][b] = character == 3 ? 0 : scale_half(kind);
            for (uint32_t i = b * 32; i < b * 32 + 32; i++) {
                const int32_t low = type == QE_Q4_0 ? -8 : -128,
                              high = type == QE_Q4_0 ? 7 : 127;
                int32_t q = low + (int32_t)pick((uint32_t)(high - low + 1));
                q = character == 0   ? low
                    : character == 1 ? high
                    : character == 2 ? (i & 1 ? low : high)
                                     : q;
                quant[r][i] = (int8_t)(i < columns && character != 3 ? q : 0);
                plain[r][i] = i >= columns                       ? 0.0f
                              : kind == EXTREME && pick(16) == 0 ? extreme()
                                                                 : ordinary();
            }
        }
}

/* SPEC 3.5: tiles of R rows by 32 columns, groups of g bytes. */
static void pack_tiles(uint8_t *w, uint32_t type, uint32_t rows, uint32_t columns, uint32_t R,
                       uint32_t g)
{
    for (uint32_t row = 0; row < qe_ceil(rows, R); row += R)
        for (uint32_t b = 0; b < qe_ceil(columns, 32) / 32; b++, w += qe_tile_bytes(type, R))
            for (uint32_t r = 0; r < R; r++) {
                const int zero = row + r >= rows;
                uint8_t *quants = w + 2 * R;
                qe_store16(w + 2 * r, zero ? 0 : scale[row + r][b]);
                for (uint32_t c = 0; c < (type == QE_Q4_0 ? 16u : 32u); c++) {
                    const int8_t *q = &quant[zero ? 0 : row + r][b * 32 + c];
                    const uint32_t byte =
                        zero              ? 0
                        : type == QE_Q8_0 ? (uint8_t)q[0]
                                          : (uint32_t)(q[0] + 8) | (uint32_t)(q[16] + 8) << 4;
                    quants[c / g * R * g + r * g + c % g] = (uint8_t)byte;
                }
            }
}

static void multiply_quantized(const qe_matmul *m)
{
    for (uint32_t t = 0; t < m->tokens; t++)
        for (uint32_t r = 0; r < m->rows; r++) {
            float acc = 0.0f;
            for (uint32_t b = 0; b < qe_ceil(m->columns, 32) / 32; b++) {
                int32_t isum = 0;
                for (uint32_t i = 0; i < 32; i++)
                    isum += quant[r][b * 32 + i] * m->act.q[t * m->act.stride + b * 32 + i];
                acc = acc +
                      (qe_half_to_float(scale[r][b]) * m->act.d[t * (m->act.stride / 32) + b]) *
                          (float)isum;
            }
            truth[t * OUT + r] = acc;
        }
}

static void multiply_plain(const qe_matmul *m)
{
    for (uint32_t t = 0; t < m->tokens; t++)
        for (uint32_t r = 0; r < m->rows; r++) {
            float lane[16] = {0};
            for (uint32_t i = 0; i < qe_ceil(m->columns, 32); i++)
                lane[i % 16] = lane[i % 16] + plain[r][i] * m->x[t * m->x_stride + i];
            for (uint32_t width = 8; width; width /= 2)
                for (uint32_t l = 0; l < width; l++)
                    lane[l] = lane[l] + lane[l + width];
            truth[t * OUT + r] = lane[0];
        }
}

/* All groups in two calls, the second half first. Padded rows may be written, nothing else. */
static void compare(qe_matmul m, const qe_kernels *set)
{
    const uint32_t untouched = 0xA5A5A5A5, groups = (m.rows + 15) / 16, half = groups / 2;
    memset(found, 0xA5, sizeof found);
    m.out = found;
    m.out_stride = OUT;
    set->matmul(&m, half, groups - half);
    if (half)
        set->matmul(&m, 0, half);
    for (uint32_t t = 0; t < m.tokens; t++) {
        same_floats("matmul", set->name, truth + t * OUT, found + t * OUT, m.rows);
        for (uint32_t r = groups * 16; r < OUT; r++)
            same_bytes("what follows matmul's rows", set->name, &untouched, found + t * OUT + r,
                       4);
    }
    same_bytes("what follows matmul's output", set->name, &untouched, found + m.tokens * OUT,
               4);
}

static void compare_all(const qe_matmul *m)
{
    compare(*m, &qe_portable);
    for (uint32_t k = 0; k < set_count; k++)
        compare(*m, sets[k]);
}

static void check_quantized(uint32_t type, uint32_t rows, uint32_t columns, uint32_t tokens,
                            int kind)
{
    static const uint32_t layouts[4] = {1, 4, 8, 16};
    const uint32_t padded = qe_ceil(columns, 32);
    qe_act act = {.q = guarded(0, tokens * padded),
                  .d = guarded(1, tokens * padded / 32 * 4),
                  .s = guarded(2, tokens * padded / 32 * 4),
                  .stride = padded};
    qe_matmul m = {
        .type = type, .rows = rows, .columns = columns, .act = act, .tokens = tokens};
    fill_act(&act, tokens, columns, kind);
    multiply_quantized(&m);
    for (uint32_t t = 0; t < tokens; t++)
        record(truth + t * OUT, rows);
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t R = layouts[i / 2], g = i & 1 ? 8 : 4;
        const size_t bytes = qe_ceil(rows, R) / R * (padded / 32) * qe_tile_bytes(type, R);
        uint8_t *w = guarded(3, bytes);
        pack_tiles(w, type, rows, columns, R, g);
        m.w = w;
        m.layout = QE_LAYOUT(R, g);
        describe("type %u, %u rows, %u columns, %u tokens, layout %u x %u, %s data",
                 (unsigned)type, (unsigned)rows, (unsigned)columns, (unsigned)tokens,
                 (unsigned)R, (unsigned)g, kind ? "extreme" : "ordinary");
        compare_all(&m);
    }
}

static void check_plain(uint32_t type, uint32_t rows, uint32_t columns, uint32_t tokens,
                        int kind)
{
    const uint32_t padded = qe_ceil(columns, 32), unit = type == QE_F16 ? 2 : 4;
    float *x = guarded(0, tokens * padded * 4);
    uint8_t *w = guarded(3, (size_t)rows * padded * unit);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < padded; i++) {
            uint8_t *at = w + ((size_t)r * padded + i) * unit;
            if (unit == 4) {
                memcpy(at, &plain[r][i], 4);
                continue;
            }
            qe_store16(at, qe_float_to_half(plain[r][i]));
            plain[r][i] = qe_half_to_float(qe_load16(at));
        }
    for (uint32_t t = 0; t < tokens; t++) {
        fill_row(x + t * padded, columns, kind);
        memset(x + t * padded + columns, 0, (padded - columns) * 4);
    }
    qe_matmul m = {.w = w,
                   .type = type,
                   .layout = QE_LAYOUT_PLAIN,
                   .rows = rows,
                   .columns = columns,
                   .x = x,
                   .x_stride = padded,
                   .tokens = tokens};
    multiply_plain(&m);
    for (uint32_t t = 0; t < tokens; t++)
        record(truth + t * OUT, rows);
    describe("type %u, %u rows, %u columns, %u tokens, %s data", (unsigned)type, (unsigned)rows,
             (unsigned)columns, (unsigned)tokens, kind ? "extreme" : "ordinary");
    compare_all(&m);
}

void check_matmul(void)
{
    static const uint32_t types[] = {QE_Q4_0, QE_Q8_0, QE_F16, QE_F32};
    static const uint32_t rows[] = {1, 15, 16, 17, ROWS},
                          columns[] = {8, 31, 32, 33, 172, COLUMNS};
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, TOKENS}, few[] = {1, 3, 7};
    const uint32_t count = quick ? 3 : 11;
    for (uint32_t type = 0; type < 4; type++)
        for (uint32_t r = 0; r < 5; r++)
            for (uint32_t c = 0; c < 6; c++)
                for (uint32_t t = 0; t < count; t++) {
                    const uint32_t n = quick ? few[t] : tokens[t];
                    const int kind = pick(2) ? EXTREME : ORDINARY;
                    if (quick && r == 4 && c == 5 && n != 1)
                        continue; /* the largest shape once is enough for a slow machine */
                    fill_weights(types[type], rows[r], columns[c], kind);
                    if (type < 2)
                        check_quantized(types[type], rows[r], columns[c], n, kind);
                    else
                        check_plain(types[type], rows[r], columns[c], n, kind);
                }
}
