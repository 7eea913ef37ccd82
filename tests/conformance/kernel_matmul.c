/* kernel_matmul.c - kernel_check's cases for matmul: the product written down a second time,
 * straight from SPEC 2.5 over plain numbers, against every set, portable too, in every type and
 * layout of SPEC 3.5. That blocks are read right is test_formats.py's business. */
#include "kernel_check.h"

enum { ROWS = 172, COLUMNS = 576, TOKENS = 25, OUT = 176 };

static uint8_t stored[ROWS * 2640]; /* rows by themselves: groups of one */
static float plain[ROWS][COLUMNS], truth[TOKENS * OUT], found[TOKENS * OUT + 16];

static void fill_plain(uint32_t rows, uint32_t columns, int kind)
{
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < qe_ceil(columns, 32); i++)
            plain[r][i] = i >= columns                       ? 0.0f
                          : kind == EXTREME && pick(16) == 0 ? extreme()
                                                             : ordinary();
}

/* Rows as groups of one: any byte is a level or an integer scale. */
static void fill_weights(const qe_format *f, uint32_t rows, uint32_t columns, int kind)
{
    const size_t row = qe_group_bytes(f, 1, columns);
    const uint32_t levels = 4u * f->bits * f->period;
    for (uint32_t r = 0; r < rows; r++) {
        uint8_t *p = stored + r * row, *end = p + row;
        if (f->row_head) {
            const float d = pick(8) == 0 ? 0.0f : kind == EXTREME ? extreme() : ordinary();
            memcpy(p, &d, 4);
            p += 4;
        }
        while (p < end) {
            const uint32_t character = pick(8);
            for (uint32_t i = 0; i < f->halves; i++, p += 2)
                qe_store16(p, character == 3 ? 0 : scale_half(kind));
            for (uint32_t i = 2u * f->halves; i < f->head; i++)
                *p++ = (uint8_t)(character < 2 ? 255 * character : pick(256));
            for (uint32_t i = 0; i < levels; i++)
                *p++ = (uint8_t)(character < 2    ? 255 * character
                                 : character == 2 ? (i & 1 ? 255 : 0)
                                                  : pick(256));
        }
    }
}

/* SPEC 3.5: scales a row after the other, levels in fours of bytes. */
static void pack_groups(uint8_t *w, const qe_format *f, uint32_t rows, uint32_t columns,
                        uint32_t R)
{
    const size_t row_bytes = qe_group_bytes(f, 1, columns), levels = 4u * f->bits;
    const uint32_t periods = qe_ceil(columns, 32) / 32 / f->period;
    memset(w, 0, qe_ceil(rows, R) / R * qe_group_bytes(f, R, columns));
    for (uint32_t row = 0; row < rows; row++) {
        const uint32_t r = row % R;
        const uint8_t *p = stored + row * row_bytes;
        uint8_t *out = w + row / R * qe_group_bytes(f, R, columns);
        memcpy(out + 4 * r, p, f->row_head);
        p += f->row_head;
        out += f->row_head * R;
        for (uint32_t n = 0; n < periods; n++) {
            for (uint32_t i = 0; i < f->halves; i++, p += 2, out += 2 * R)
                memcpy(out + 2 * r, p, 2);
            for (uint32_t i = 2u * f->halves; i < f->head; i++, out += R)
                out[r] = *p++;
            for (size_t i = 0; i < f->period * levels; i += 4, p += 4, out += 4 * R)
                memcpy(out + 4 * r, p, 4);
        }
    }
}

static float step(uint32_t how, float acc, const qe_block *w, float dx, const int32_t isum[2],
                  const int16_t *xsum)
{
    const float both = (float)(isum[0] + isum[1]);
    float scale = w->d * dx, term;
    if (how == QE_STEP_ROW)
        return acc + dx * (float)(w->s[0] * (isum[0] + isum[1]));
    if (how == QE_STEP_SCALED)
        return acc + scale * both;
    if (how == QE_STEP_AFFINE) {
        term = dx * (float)(xsum[0] + xsum[1]);
        term = w->m * term;
        return acc + (scale * both + term);
    }
    term = scale * (float)(w->s[0] * isum[0] + w->s[1] * isum[1]);
    if (how == QE_STEP_HALVES_MIN) {
        scale = w->m * dx;
        term = term - scale * (float)(w->n[0] * xsum[0] + w->n[1] * xsum[1]);
    }
    return acc + term;
}

static void multiply_quantized(const qe_matmul *m, const qe_format *f)
{
    const size_t row = qe_group_bytes(f, 1, m->columns);
    for (uint32_t r = 0; r < m->rows; r++) {
        qe_block block = {.d = 0.0f};
        for (uint32_t t = 0; t < m->tokens; t++)
            truth[t * OUT + r] = 0.0f;
        for (uint32_t b = 0; b < qe_ceil(m->columns, 32) / 32; b++) {
            qe_block_read(f, stored + r * row, 1, 0, b, &block);
            for (uint32_t t = 0; t < m->tokens; t++) {
                const size_t at = t * (m->act.stride / 32) + b;
                int32_t isum[2] = {0, 0};
                for (uint32_t i = 0; i < 32; i++)
                    isum[i / 16] += block.q[i] * m->act.q[32 * at + i];
                truth[t * OUT + r] = step(f->step, truth[t * OUT + r], &block, m->act.d[at],
                                          isum, m->act.s + 2 * at);
            }
        }
        for (uint32_t t = 0; f->step == QE_STEP_ROW && t < m->tokens; t++)
            truth[t * OUT + r] = truth[t * OUT + r] * block.d;
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

static void check_quantized(const qe_format *f, uint32_t rows, uint32_t columns,
                            uint32_t tokens, int kind)
{
    static const uint32_t layouts[] = {1, 4, 16};
    const uint32_t padded = qe_ceil(columns, 32);
    qe_act act = {.q = guarded(0, tokens * padded),
                  .d = guarded(1, tokens * padded / 32 * 4),
                  .s = guarded(2, tokens * padded / 32 * 4),
                  .stride = padded};
    qe_matmul m = {
        .type = f->type, .rows = rows, .columns = columns, .act = act, .tokens = tokens};
    fill_act(&act, tokens, columns, kind);
    multiply_quantized(&m, f);
    for (uint32_t t = 0; t < tokens; t++)
        record(truth + t * OUT, rows);
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t R = layouts[i];
        uint8_t *w = guarded(3, (size_t)qe_tensor_bytes(f->type, R, rows, columns));
        pack_groups(w, f, rows, columns, R);
        m.w = w;
        m.layout = R;
        describe("type %u, %u rows, %u columns, %u tokens, layout %u, %s data",
                 (unsigned)f->type, (unsigned)rows, (unsigned)columns, (unsigned)tokens,
                 (unsigned)R, kind ? "extreme" : "ordinary");
        compare_all(&m);
    }
}

static void check_plain(uint32_t type, uint32_t rows, uint32_t columns, uint32_t tokens,
                        int kind)
{
    const uint32_t padded = qe_ceil(columns, 32), unit = type == QE_F32 ? 4 : 2;
    float *x = guarded(0, tokens * padded * 4);
    uint8_t *w = guarded(3, (size_t)rows * padded * unit);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < padded; i++) {
            uint8_t *at = w + ((size_t)r * padded + i) * unit;
            if (unit == 4) {
                memcpy(at, &plain[r][i], 4);
                continue;
            }
            qe_store16(at, type == QE_F16 ? qe_float_to_half(plain[r][i])
                                          : (uint16_t)(qe_bits(plain[r][i]) >> 16));
            plain[r][i] = type == QE_F16 ? qe_half_to_float(qe_load16(at))
                                         : qe_float((uint32_t)qe_load16(at) << 16);
        }
    for (uint32_t t = 0; t < tokens; t++) {
        fill_row(x + t * padded, columns, kind);
        memset(x + t * padded + columns, 0, (padded - columns) * 4);
    }
    qe_matmul m = {.w = w,
                   .type = type,
                   .layout = 1,
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
    static const uint32_t rows[] = {1, 15, 16, 17, ROWS},
                          columns[] = {8, 31, 32, 33, 172, COLUMNS};
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, TOKENS}, few[] = {1, 3, 7};
    const uint32_t count = quick ? 3 : 11;
    for (uint32_t type = 0; type <= QE_A6; type++) {
        const qe_format *f = qe_format_of(type);
        if (!f && type != QE_F32 && type != QE_F16 && type != QE_BF16)
            continue;
        for (uint32_t r = 0; r < 5; r++)
            for (uint32_t c = 0; c < 6; c++)
                for (uint32_t t = 0; t < count; t++) {
                    const uint32_t n = quick ? few[t] : tokens[t];
                    const int kind = pick(2) ? EXTREME : ORDINARY;
                    /* whole periods of them, of half as many at least */
                    const uint32_t wide = f && f->period > 1
                                              ? qe_ceil(columns[c] / 2, 32u * f->period)
                                              : columns[c];
                    if (quick && r == 4 && c == 5 && n != 1)
                        continue; /* the largest shape once is enough for a slow machine */
                    if (f && f->period > 1 && c % 3 != 2)
                        continue; /* the same as another */
                    if (f) {
                        fill_weights(f, rows[r], wide, kind);
                        check_quantized(f, rows[r], wide, n, kind);
                    } else {
                        fill_plain(rows[r], wide, kind);
                        check_plain(type, rows[r], wide, n, kind);
                    }
                }
    }
}
