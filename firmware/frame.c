/* frame.c - see frame.h. */
#include "frame.h"

#include "port.h"

enum { FIRST_1 = 0x06, FIRST_2 = 0x09, MORE_1 = 0x04, MORE_2 = 0x14, LINE_DIGITS = 124 };

static uint32_t crc16(const uint8_t *bytes, uint32_t count)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < count; i++) {
        crc ^= (uint32_t)bytes[i] << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1;
    }
    return crc & 0xFFFF;
}

static int digit_value(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* One base64 digit, or '=' as zero bits: what is too much is cut off by the packet's length. */
static void take_digit(frame_reader *r, uint8_t c)
{
    const int value = c == '=' ? 0 : digit_value(c);
    if (value < 0) {
        r->state = FRAME_NOISE;
        r->have = 0;
        return;
    }
    r->quad = r->quad << 6 | (uint32_t)value;
    if (++r->digits < 4)
        return;
    for (int shift = 16; shift >= 0; shift -= 8)
        if (r->have < sizeof r->bytes)
            r->bytes[r->have++] = (uint8_t)(r->quad >> shift);
    r->digits = r->quad = 0;
}

/* After a line: the packet's bytes when it is complete and right. */
static uint32_t finished(frame_reader *r)
{
    if (r->have < 4)
        return 0;
    const uint32_t counted = (uint32_t)r->bytes[0] << 8 | r->bytes[1];
    if (counted < 2 || counted + 2 > sizeof r->bytes) {
        r->have = 0;
        return 0;
    }
    if (r->have < counted + 2)
        return 0;
    const uint8_t *crc = r->bytes + counted;
    r->have = 0;
    return crc16(r->bytes + 2, counted - 2) == ((uint32_t)crc[0] << 8 | crc[1]) ? counted - 2
                                                                                : 0;
}

uint32_t frame_take(frame_reader *r, uint8_t byte)
{
    if (byte == '\n') {
        const int text = r->state == FRAME_TEXT && !r->digits;
        r->state = FRAME_START;
        if (!text)
            r->have = 0;
        return text ? finished(r) : 0;
    }
    switch (r->state) {
    case FRAME_NOISE: /* a packet may begin behind noise on the same line */
    case FRAME_START:
        if (byte == FIRST_1)
            r->state = FRAME_FIRST;
        else if (byte == MORE_1 && r->state == FRAME_START && r->have)
            r->state = FRAME_MORE;
        else
            r->state = FRAME_NOISE;
        break;
    case FRAME_FIRST:
    case FRAME_MORE:
        if (r->state == FRAME_FIRST)
            r->have = 0;
        if (byte == (r->state == FRAME_FIRST ? FIRST_2 : MORE_2)) {
            r->digits = r->quad = 0;
            r->state = FRAME_TEXT;
        } else {
            r->state = byte == FIRST_1 ? FRAME_FIRST : FRAME_NOISE;
        }
        break;
    case FRAME_TEXT:
        if (byte == FIRST_1) /* the line's end was lost */
            r->state = FRAME_FIRST;
        else if (byte != '\r')
            take_digit(r, byte);
        break;
    }
    return 0;
}

typedef struct {
    uint8_t line[LINE_DIGITS + 3];
    uint32_t used, quad, bytes;
    int more;
} line_writer;

static void put_line(line_writer *w)
{
    if (w->used == 2)
        return;
    w->line[0] = w->more ? MORE_1 : FIRST_1;
    w->line[1] = w->more ? MORE_2 : FIRST_2;
    w->line[w->used++] = '\n';
    port_write(w->line, w->used);
    w->used = 2;
    w->more = 1;
}

static void put_quad(line_writer *w)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint32_t quad = w->quad << 8 * (3 - w->bytes);
    for (uint32_t i = 0; i < 4; i++)
        w->line[w->used++] =
            i <= w->bytes ? (uint8_t)digits[quad >> (18 - 6 * i) & 63] : (uint8_t)'=';
    w->quad = w->bytes = 0;
    if (w->used - 2 == LINE_DIGITS)
        put_line(w);
}

static void put_bytes(line_writer *w, const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        w->quad = w->quad << 8 | bytes[i];
        if (++w->bytes == 3)
            put_quad(w);
    }
}

void frame_send(const uint8_t *packet, uint32_t bytes)
{
    line_writer w = {.used = 2};
    const uint32_t crc = crc16(packet, bytes), counted = bytes + 2;
    put_bytes(&w, (const uint8_t[]){(uint8_t)(counted >> 8), (uint8_t)counted}, 2);
    put_bytes(&w, packet, bytes);
    put_bytes(&w, (const uint8_t[]){(uint8_t)(crc >> 8), (uint8_t)crc}, 2);
    if (w.bytes)
        put_quad(&w);
    put_line(&w);
}
