/* normalize.c - the normalizer of a folder: steps that change a piece of text before words are
 * cut out of it. The tables of Unicode's forms lie in the section, and only where a model wants
 * them; characters.c has these steps, sentencepiece.c that of tokenizer.model.
 */
#include "unicode.h"
#include "vocab_internal.h"

/* Words of a step; the offsets are into the strings. */
enum { OP, ARGUMENT, FIRST, FIRST_BYTES, SECOND, SECOND_BYTES };

/* Two texts of a step; 0 when one lies outside the strings. */
typedef struct {
    const uint8_t *first, *second;
    uint32_t first_bytes, second_bytes;
} texts;

static int read_texts(const qe_vocab *vocab, const uint8_t *step, texts *t)
{
    uint32_t first = qe_vocab_load(step, FIRST), second = qe_vocab_load(step, SECOND);
    t->first_bytes = qe_vocab_load(step, FIRST_BYTES);
    t->second_bytes = qe_vocab_load(step, SECOND_BYTES);
    if (first > vocab->string_bytes || t->first_bytes > vocab->string_bytes - first ||
        second > vocab->string_bytes || t->second_bytes > vocab->string_bytes - second) {
        return 0;
    }
    t->first = vocab->strings + first;
    t->second = vocab->strings + second;
    return 1;
}

static int append(const qe_room *room, size_t *written, const uint8_t *from, size_t bytes)
{
    if (bytes > room->bytes - *written)
        return QE_ERR_SPACE;
    memcpy(room->base + *written, from, bytes);
    *written += bytes;
    return QE_OK;
}

/* The next place of the pattern, or the text's end. */
static size_t find(const uint8_t *text, size_t bytes, size_t at, const texts *t)
{
    while (bytes - at >= t->first_bytes) {
        const uint8_t *hit = NULL;
        for (size_t i = at; i <= bytes - t->first_bytes && !hit; i++)
            hit = text[i] == t->first[0] ? text + i : NULL;
        if (!hit)
            break;
        at = (size_t)(hit - text);
        if (memcmp(hit, t->first, t->first_bytes) == 0)
            return at;
        at++;
    }
    return bytes;
}

/* Every occurrence of the first text becomes the second one, from the left. For the library the
 * second one comes from where the last character of the first one does. */
static int replace(const texts *t, const uint8_t *text, size_t bytes, const qe_room *room,
                   qe_work *work, size_t *written, size_t *origin)
{
    size_t at = 0, made = 0, last = t->first_bytes - 1;
    while (last > 0 && (t->first[last] & 0xC0) == 0x80)
        last--;
    while (at < bytes) {
        size_t hit = find(text, bytes, at, t);
        int error = append(room, written, text + at, hit - at);
        error = error ? error : qe_work_did(work, hit - at + 8);
        size_t end = hit < *origin ? hit : *origin;
        made += end > at ? end - at : 0;
        if (!error && hit < bytes) {
            error = append(room, written, t->second, t->second_bytes);
            made += hit + last < *origin ? t->second_bytes : 0;
        }
        if (error)
            return error;
        at = hit < bytes ? hit + t->first_bytes : bytes;
    }
    *origin = made;
    return QE_OK;
}

/* White space at the ends is cut off where it lies. */
static void strip(uint32_t argument, const uint8_t **text, size_t *bytes, size_t *origin)
{
    uint32_t code_point;
    while ((argument & QE_STRIP_LEFT) && *bytes) {
        size_t length = qe_utf8_read(*text, *bytes, &code_point);
        if (length == 0 || !(qe_unicode_class(code_point) & QE_UNICODE_SPACE))
            break;
        *text += length;
        *bytes -= length;
        *origin -= length < *origin ? length : *origin;
    }
    while ((argument & QE_STRIP_RIGHT) && *bytes) {
        size_t start = *bytes - 1;
        while (start > 0 && *bytes - start < 4 && ((*text)[start] & 0xC0) == 0x80)
            start--;
        if (qe_utf8_read(*text + start, *bytes - start, &code_point) != *bytes - start ||
            !(qe_unicode_class(code_point) & QE_UNICODE_SPACE)) {
            break;
        }
        *bytes = start;
    }
}

static int run_step(const qe_vocab *vocab, const uint8_t *step, const uint8_t *text,
                    size_t bytes, int is_first, const qe_room *room, qe_work *work,
                    size_t *written, size_t *origin)
{
    texts t;
    int error;
    uint32_t op = qe_vocab_load(step, OP);
    if (op == QE_STEP_CHARACTERS)
        return qe_step_characters(vocab, step, text, bytes, room, work, written, origin);
    if (op == QE_STEP_SENTENCEPIECE)
        return qe_step_sentencepiece(vocab, step, text, bytes, is_first, room, work, written);
    if (!read_texts(vocab, step, &t))
        return QE_ERR_IMAGE;
    if (op == QE_STEP_REPLACE) {
        return t.first_bytes ? replace(&t, text, bytes, room, work, written, origin)
                             : QE_ERR_IMAGE;
    }
    *origin += t.first_bytes; /* prepend */
    error = append(room, written, t.first, t.first_bytes);
    return error ? error : append(room, written, text, bytes);
}

/* A step that leaves the text as it is must not copy it: most texts need no normalizing. */
static int leaves(const qe_vocab *vocab, const uint8_t *step, const uint8_t *text, size_t bytes)
{
    texts t;
    switch (qe_vocab_load(step, OP)) {
    case QE_STEP_REPLACE:
        return read_texts(vocab, step, &t) && t.first_bytes &&
               find(text, bytes, 0, &t) == bytes;
    case QE_STEP_CHARACTERS: /* the first character that it may change */
        for (size_t at = 0; at < bytes;) {
            uint32_t code_point;
            size_t length = qe_utf8_read(text + at, bytes - at, &code_point);
            if (length == 0 || code_point >= qe_vocab_load(step, SECOND))
                return 0;
            at += length;
        }
        return 1;
    default: return 0;
    }
}

int qe_normalize(const qe_vocab *vocab, const qe_room *room, int is_first, qe_work *work,
                 const uint8_t **text, size_t *bytes, size_t *origin)
{
    uint32_t code_point;
    size_t kept = 0; /* of the room: where the text is, once a step has written one */
    *origin = qe_utf8_read(*text, *bytes, &code_point);
    for (uint32_t i = 0; i < vocab->step_count && *bytes; i++) {
        const uint8_t *step = vocab->steps + (size_t)i * 4 * QE_STEP_WORDS;
        if (qe_vocab_load(step, OP) == QE_STEP_STRIP) {
            strip(qe_vocab_load(step, ARGUMENT), text, bytes, origin);
            continue;
        }
        if (leaves(vocab, step, *text, *bytes))
            continue;
        qe_room rest = {room->base + kept, room->bytes - kept};
        size_t written = 0;
        int error =
            run_step(vocab, step, *text, *bytes, is_first, &rest, work, &written, origin);
        if (error)
            return error;
        memmove(room->base, rest.base, written);
        *text = room->base;
        *bytes = kept = written;
    }
    if (kept) { /* a strip may have moved its beginning */
        memmove(room->base, *text, *bytes);
        *text = room->base;
    }
    return QE_OK;
}
