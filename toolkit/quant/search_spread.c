/* search_spread.c - see search_spread.h. Rows go side by side, ROWS at a time, so that each is
 * rounded by itself and sums need no order of their own: lanes are rows. A block's scales are
 * searched for its columns as they are compensated so far, then its levels are chosen anew, one
 * column after the other. */
#include "search_spread.h"

#include <string.h>

#include "search_kinds.h"
#include "search_quad.h"

#define NEAR 12582912.0f /* adding and subtracting it rounds to nearest even */
#define LEAST 1e-38f     /* smaller scales are none */

enum { ROWS = 16, TILE = 32 };

typedef float lanes[ROWS];

/* What a stored block says: scale * (level + bottom) + min, of each 16 columns. */
typedef struct {
    float scale[QS_SUBS], min[QS_SUBS];
    uint8_t levels[QS_SUPER];
} grid;

typedef struct {
    qs_kind kind;
    const qs_spread *spread;
    qs_frame frame[ROWS];
    float d[ROWS]; /* of rows of a2 to a6 */
    uint8_t *out[ROWS];
    void *fits;   /* work of a row of a2 to a6 */
    lanes *error; /* of a piece's columns: what was wanted less what is stored */
    lanes *x;     /* of a block's: what is to be rounded */
    uint32_t rows, columns;
} sheet;

int qs_can_spread(qs_kind kind)
{
    return kind != QS_Q8_0 && kind != QS_IQ4_NL;
}

size_t qs_spread_work_bytes(qs_kind kind, uint32_t columns, uint32_t piece)
{
    const uint32_t wide = (piece < columns ? piece : columns) + QS_SUPER;
    return sizeof(lanes) * (wide + QS_SUPER) + qs_work_bytes(kind, columns);
}

/* Adds to 32 columns of x what errors from column `from` to `stop` of the piece call for;
 * factors: the band of these columns, of `width` numbers a row. */
static void pass_on(lanes *x, const lanes *error, const float *factors, uint32_t width,
                    uint32_t from, uint32_t stop)
{
    for (int i = 0; i < TILE; i += 4)
        for (int at = 0; at < ROWS; at += 8) {
            quad low[4], high[4];
            for (int r = 0; r < 4; r++)
                low[r] = high[r] = all(0);
            for (uint32_t k = from; k < stop; k++) {
                const quad a = quad_at(error[k] + at), b = quad_at(error[k] + at + 4);
                for (int r = 0; r < 4; r++) {
                    const quad l = all(factors[(size_t)(i + r) * width + k]);
                    low[r] += l * a;
                    high[r] += l * b;
                }
            }
            for (int r = 0; r < 4; r++) {
                quad_to(x[i + r] + at, quad_at(x[i + r] + at) + low[r]);
                quad_to(x[i + r] + at + 4, quad_at(x[i + r] + at + 4) + high[r]);
            }
        }
}

static float bottom_of(qs_kind kind)
{
    switch (kind) {
    case QS_Q4_0: return -8;
    case QS_Q5_0: return -16;
    case QS_Q3_K: return -4;
    case QS_Q6_K: return -32;
    default: return 0;
    }
}

static int is_own(qs_kind kind)
{
    return kind >= QS_A2;
}

static int is_super(qs_kind kind)
{
    return qs_block(kind) == QS_SUPER;
}

static void read_grid(qs_kind kind, float row_d, const uint8_t *in, grid *g)
{
    if (is_super(kind)) {
        qs_super b;
        qs_get_super(kind, in, &b);
        const int wide = kind == QS_Q4_K || kind == QS_Q5_K; /* 32 columns a scale */
        for (int i = 0; i < QS_SUBS; i++) {
            g->scale[i] = qs_from_half(b.d) * (float)b.scale[wide ? i / 2 : i];
            g->min[i] = -qs_from_half(b.dmin) * (float)b.min[wide ? i / 2 : i];
        }
        return;
    }
    if (is_own(kind)) {
        uint8_t s, z;
        qs_get_own(qs_bits(kind), in, &s, &z, g->levels);
        g->scale[0] = row_d * (float)(s << (7 - qs_bits(kind)));
        g->min[0] = -row_d * (float)(s * z);
    } else {
        uint16_t d, m = 0;
        qs_get_plain(kind, in, &d, &m, g->levels);
        g->scale[0] = qs_from_half(d);
        g->min[0] = kind == QS_Q4_1 || kind == QS_Q5_1 ? qs_from_half(m) : 0;
    }
    g->scale[1] = g->scale[0];
    g->min[1] = g->min[0];
}

/* The block again, with the grid's levels. */
static void write_levels(qs_kind kind, const grid *g, uint8_t *out)
{
    if (is_super(kind)) {
        qs_super b;
        qs_get_super(kind, out, &b);
        memcpy(b.levels, g->levels, sizeof b.levels);
        qs_put_super(kind, &b, out);
    } else if (is_own(kind)) {
        uint8_t s, z, old[32];
        qs_get_own(qs_bits(kind), out, &s, &z, old);
        qs_put_own(qs_bits(kind), s, z, g->levels, out);
    } else {
        uint16_t d, m = 0;
        uint8_t old[32];
        qs_get_plain(kind, out, &d, &m, old);
        qs_put_plain(kind, d, m, g->levels, out);
    }
}

/* Scales for one row of a block that begins at column `first`. */
static void search(const sheet *s, uint32_t r, uint32_t first, uint32_t count)
{
    float row[QS_SUPER];
    qs_frame frame = s->frame[r];
    frame.importance += first;
    for (uint32_t j = 0; j < count; j++)
        row[j] = s->x[j][r];
    if (is_own(s->kind))
        qs_search_own_block(qs_bits(s->kind), &frame, s->d[r], row, count, s->out[r]);
    else
        qs_search_block(s->kind, &frame, row, 0, count, s->out[r]);
}

/* Levels of 32 columns, one after the other; each one's error goes to those behind it. */
static void round_tile(const sheet *s, grid *grids, uint32_t tile, uint32_t count,
                       const float *factors, uint32_t width, lanes *x, lanes *error)
{
    const float bottom = bottom_of(s->kind);
    const float top = bottom + (float)((1 << qs_bits(s->kind)) - 1);
    for (uint32_t half = 0; half < 2; half++) {
        lanes scale, min, inv, off;
        for (uint32_t r = 0; r < ROWS; r++) {
            scale[r] = grids[r].scale[tile * 2 + half];
            min[r] = grids[r].min[tile * 2 + half];
            inv[r] = scale[r] > LEAST || scale[r] < -LEAST ? 1 / scale[r] : 0;
            off[r] = -min[r] * inv[r];
        }
        for (uint32_t i = half * 16; i < half * 16 + 16 && i < count; i++) {
            lanes level;
            for (int r = 0; r < ROWS; r++) {
                float t = x[i][r] * inv[r] + off[r];
                t = t > bottom ? t : bottom;
                t = t < top ? t : top;
                level[r] = (t + NEAR) - NEAR;
                error[i][r] -= scale[r] * level[r] + min[r];
            }
            for (int r = 0; r < ROWS; r++)
                grids[r].levels[tile * TILE + i] = (uint8_t)(level[r] - bottom);
            for (uint32_t k = i + 1; k < count; k++) {
                const float factor = factors[(size_t)k * width + i];
                for (int r = 0; r < ROWS; r++)
                    x[k][r] += factor * error[i][r];
            }
        }
    }
}

/* A block of `count` columns that is at `at` in its piece, which begins at `piece`. */
static void block(const sheet *s, uint32_t piece, uint32_t at, uint32_t count,
                  const float *triangle)
{
    grid grids[ROWS];
    memset(grids, 0, sizeof grids);
    memcpy(s->x, s->error + at, sizeof(lanes) * count);
    for (uint32_t j = count; j % TILE; j++)
        memset(s->x[j], 0, sizeof(lanes));
    for (uint32_t j = 0; j < count; j += TILE)
        pass_on(s->x + j, (const lanes *)s->error, triangle + qs_triangle(at + j),
                at + j + TILE, 0, at);
    for (uint32_t r = 0; r < s->rows; r++) {
        search(s, r, piece + at, count);
        read_grid(s->kind, s->d[r], s->out[r], &grids[r]);
    }
    for (uint32_t j = 0; j < count; j += TILE) {
        const uint32_t width = at + j + TILE, left = count - j < TILE ? count - j : TILE;
        const float *factors = triangle + qs_triangle(at + j);
        pass_on(s->x + j, (const lanes *)s->error, factors, width, at, at + j);
        round_tile(s, grids, j / TILE, left, factors + at + j, width, s->x + j,
                   s->error + at + j);
    }
    for (uint32_t r = 0; r < s->rows; r++)
        write_levels(s->kind, &grids[r], s->out[r]);
}

static void quantize_rows(sheet *s, const float *values)
{
    const qs_kind kind = s->kind;
    const uint32_t columns = s->columns, width = qs_block(kind);
    const size_t bytes = qs_row_bytes(kind, width) - (is_own(kind) ? sizeof *s->d : 0);
    const float *triangle = s->spread->factors;
    for (uint32_t r = 0; r < s->rows && is_own(kind); r++) {
        s->d[r] = qs_fit_own(qs_bits(kind), &s->frame[r], values + (size_t)r * columns, columns,
                             s->fits);
        memcpy(s->out[r], &s->d[r], sizeof *s->d);
        s->out[r] += sizeof *s->d;
    }
    for (uint32_t piece = 0; piece < columns; piece += s->spread->piece) {
        const uint32_t left = columns - piece;
        const uint32_t wide = left < s->spread->piece ? left : s->spread->piece;
        memset(s->error, 0, sizeof(lanes) * wide);
        for (uint32_t r = 0; r < s->rows; r++)
            for (uint32_t j = 0; j < wide; j++)
                s->error[j][r] = values[(size_t)r * columns + piece + j];
        for (uint32_t at = 0; at < wide; at += width) {
            block(s, piece, at, wide - at < width ? wide - at : width, triangle);
            for (uint32_t r = 0; r < s->rows; r++)
                s->out[r] += bytes;
        }
        triangle += qs_triangle((wide + TILE - 1) / TILE * TILE);
    }
}

int64_t qs_quantize_spread(qs_kind kind, const float *values, uint32_t rows, uint32_t columns,
                           const qs_spread *spread, void *work, uint8_t *out)
{
    const size_t row_bytes = qs_row_bytes(kind, columns);
    const uint32_t wide = (spread->piece < columns ? spread->piece : columns) + QS_SUPER;
    sheet s;
    memset(&s, 0, sizeof s);
    s.kind = kind;
    s.spread = spread;
    s.columns = columns;
    s.error = work;
    s.x = s.error + wide;
    s.fits = s.x + QS_SUPER;
    const qs_frame frame = qs_frame_of(spread->weights, columns);
    for (uint32_t first = 0; first < rows; first += ROWS) {
        s.rows = rows - first < ROWS ? rows - first : ROWS;
        for (uint32_t r = 0; r < s.rows; r++) {
            s.frame[r] = frame;
            s.frame[r].unit = qs_unit_of(values + (size_t)(first + r) * columns, columns);
            if (!(s.frame[r].unit > 0))
                return first + r;
            s.out[r] = out + (size_t)(first + r) * row_bytes;
        }
        quantize_rows(&s, values + (size_t)first * columns);
    }
    return -1;
}
