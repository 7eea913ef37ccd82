/* tiles.c - see tiles.h. Takes rows apart into heads and levels, and puts these where a group
 * of rows has them. */
#include "tiles.h"

enum { LONGEST = 256 }; /* columns of a period */

static int is_plain(uint32_t type)
{
    return type == QE_F32 || type == QE_F16 || type == QE_BF16;
}

size_t qt_row_bytes(uint32_t type, uint32_t columns)
{
    const qe_format *f = qe_format_of(type == QT_TQ1_0 ? QE_TQ2_0 : type);
    if (!f)
        return is_plain(type) ? (size_t)columns * (type == QE_F32 ? 4 : 2) : 0;
    if (columns % (32u * f->period) && !f->row_head)
        return 0;
    const size_t periods = (columns + 32u * f->period - 1) / (32u * f->period);
    return f->row_head + periods * qt_period_bytes(type, f);
}

int qt_takes(uint32_t from, uint32_t to)
{
    if (is_plain(from))
        return to == QE_Q4_0 || to == QE_Q8_0;
    return qe_format_of(to) && (from == to || (from == QT_TQ1_0 && to == QE_TQ2_0));
}

/* The inverse of qe_levels_read. */
static void place_levels(const uint8_t *q, uint32_t bits, uint32_t R, uint32_t r, uint8_t *p)
{
    const uint32_t low = bits == 3 ? 2 : bits == 5 || bits == 6 ? 4 : bits;
    const uint32_t planes[2] = {low, bits - low};
    for (uint32_t i = 0, shift = 0; i < 2 && planes[i]; i++) {
        const uint32_t width = planes[i], mask = (1u << width) - 1;
        for (uint32_t k = 0; k < 4; k++)
            for (uint32_t four = 0; four < width; four++) {
                uint32_t byte = 0;
                if (width == 8)
                    byte = q[4 * four + k];
                else if (width == 4)
                    byte = (q[4 * four + k] >> shift & mask) |
                           (q[4 * four + k + 16] >> shift & mask) << 4;
                else
                    for (uint32_t n = 0; n < 8 / width; n++)
                        byte |= (q[(8 / width * four + n) * 4 + k] >> shift & mask)
                                << n * width;
                p[four * 4 * R + 4 * r + k] = (uint8_t)byte;
            }
        p += 4 * width * R;
        shift += width;
    }
}

/* A head as a group of one row has it to its places among R rows. */
static void place_head(const uint8_t *head, const qe_format *f, uint32_t R, uint32_t r,
                       uint8_t *out)
{
    for (uint32_t i = 0; i < f->halves; i++, head += 2, out += 2 * R)
        memcpy(out + 2 * r, head, 2);
    for (uint32_t i = 2u * f->halves; i < f->head; i++, out += R)
        out[r] = *head++;
}

/* One row; in is NULL for one of zeros. 0 when something is not finite. */
static int pack_row(const qt_source *s, const uint8_t *in, const qe_format *f, uint32_t R,
                    uint32_t r, uint8_t *out)
{
    const uint32_t period = 32u * f->period, unit = s->type == QE_F32 ? 4 : 2;
    const size_t levels = 4u * f->bits, step = is_plain(s->type) ? period * unit
                                               : in              ? qt_period_bytes(s->type, f)
                                                                 : 0;
    uint8_t head[32] = {0}, q[LONGEST];
    if (f->row_head) {
        const uint32_t d = in ? qe_load32(in) : 0;
        memcpy(out + 4 * r, &d, 4);
        if (in && (d & 0x7F800000u) == 0x7F800000u)
            return 0;
        in = in ? in + f->row_head : in;
        out += f->row_head * R;
    }
    for (uint32_t at = 0; at < s->columns; at += period) {
        memset(q, 0, sizeof q);
        if (in && !is_plain(s->type)) {
            if (!qt_take_period(in, s->type, f, head, q))
                return 0;
        } else if (in) {
            const uint32_t left = s->columns - at;
            if (!qt_quantize(in, left < 32 ? left : 32, s->type, f->type, head, q))
                return 0;
        }
        place_head(head, f, R, r, out);
        for (uint32_t b = 0; b < f->period; b++)
            place_levels(q + 32 * b, f->bits, R, r, out + f->head * R + b * levels * R);
        out += R * (f->head + f->period * levels);
        in = in ? in + step : in;
    }
    return 1;
}

int64_t qt_pack(const qt_source *s, uint32_t first, uint32_t stop, uint32_t to, uint32_t R,
                uint8_t *out)
{
    const qe_format *f = qe_format_of(to);
    const size_t group = qe_group_bytes(f, R, s->columns);
    for (uint32_t top = first; top < stop; top += R, out += group)
        for (uint32_t r = 0; r < R; r++) {
            const uint32_t row = top + r;
            const uint8_t *in = NULL;
            if (row < s->rows)
                in = s->bytes +
                     s->stride * (s->order ? (ptrdiff_t)s->order[row] : (ptrdiff_t)row);
            if (!pack_row(s, in, f, R, r, out))
                return row;
        }
    return -1;
}

void qt_unpack(const uint8_t *groups, uint32_t type, uint32_t R, uint32_t rows,
               uint32_t columns, float *out)
{
    const qe_format *f = qe_format_of(type);
    const size_t group = qe_group_bytes(f, R, columns);
    qe_block block;
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t c = 0; c < columns; c++, out++) {
            if (c % 32 == 0)
                qe_block_read(f, groups + row / R * group, R, row % R, c / 32, &block);
            *out = qe_block_value(f, &block, c % 32);
        }
}
