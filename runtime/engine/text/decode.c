/* decode.c - the bytes that a token stands for in generated text. Joining them to characters,
 * and dropping the space before the first word, are the caller's.
 */
#include "vocab_internal.h"

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes that come one by one: those before `skip` are left out, and those beyond max. */
typedef struct {
    uint8_t *out;
    size_t max, written;
    uint32_t skip;
} window;

/* Zero when there is no room for it. */
static int put_byte(window *w, uint8_t byte)
{
    if (w->skip > 0) {
        w->skip--;
        return 1;
    }
    if (w->written >= w->max)
        return 0;
    w->out[w->written++] = byte;
    return 1;
}

/* All that a token stands for; zero when the window ends before it. <0x41> as a byte token is
 * the byte 41; any other spelling of one is the string itself. */
static int put_token(const qe_vocab *vocab, unsigned type, const uint8_t *string,
                     uint32_t bytes, window *w)
{
    const int marks = vocab->kind != QE_VOCAB_BPE && type == QE_TOKEN_NORMAL;
    if (type == QE_TOKEN_BYTE && bytes == 6 && string[0] == '<' && string[1] == '0' &&
        string[2] == 'x') {
        int high = hex_digit(string[3]), low = hex_digit(string[4]);
        if (high >= 0 && low >= 0)
            return put_byte(w, (uint8_t)(high * 16 + low));
    }
    for (uint32_t i = 0; i < bytes; i++) {
        int is_mark = marks && bytes - i >= 3 && string[i] == 0xE2 && string[i + 1] == 0x96 &&
                      string[i + 2] == 0x81;
        if (!put_byte(w, is_mark ? ' ' : string[i]))
            return 0;
        i += is_mark ? 2 : 0;
    }
    return 1;
}

/* Whether all of the token fit is *whole. */
static int32_t decode(const qe_vocab *vocab, uint32_t id, int special, window *w, int *whole)
{
    if (id >= vocab->token_count)
        return QE_ERR_USAGE;
    uint32_t bytes = 0;
    const uint8_t *string = qe_vocab_string(vocab, id, &bytes);
    if (string == NULL || bytes > INT32_MAX)
        return QE_ERR_IMAGE;
    unsigned type = vocab->attributes[id] & QE_TOKEN_TYPE;
    *whole = 1;
    switch (type) {
    case QE_TOKEN_UNKNOWN:
    case QE_TOKEN_CONTROL:
        if (!special)
            break;
        *whole = put_token(vocab, type, string, bytes, w);
        break;
    case QE_TOKEN_USER_DEFINED:
    case QE_TOKEN_NORMAL:
    case QE_TOKEN_BYTE: *whole = put_token(vocab, type, string, bytes, w); break;
    default: break;
    }
    return (int32_t)w->written;
}

int32_t qe_vocab_decode(const qe_vocab *vocab, uint32_t id, int special, uint8_t *out,
                        size_t max)
{
    window w = {out, max, 0, 0};
    int whole = 1;
    int32_t written = decode(vocab, id, special, &w, &whole);
    return written >= 0 && !whole ? QE_ERR_SPACE : written;
}

int32_t qe_vocab_decode_at(const qe_vocab *vocab, uint32_t id, int special, uint32_t start,
                           uint8_t *out, size_t max)
{
    window w = {out, max, 0, start};
    int whole;
    return decode(vocab, id, special, &w, &whole);
}
