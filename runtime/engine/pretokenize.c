/* pretokenize.c - cuts text into words, as the regular expressions of the known pre-tokenizers
 * do. Each is written out by hand: SPEC-vocab.md has the expressions, and what differs between
 * them. Not a regex engine; every step moves forward, so a text costs time in its length.
 */
#include "unicode.h"
#include "vocab_internal.h"

/* The class of what follows the piece's last code point; none of unicode.h's. */
enum { CLASS_END = 16 };

typedef struct {
    uint32_t value;
    unsigned class;
    size_t next; /* position after it */
} character;

static character read(const uint8_t *text, size_t position, size_t end)
{
    character c = {0, CLASS_END, position};
    if (position < end) {
        size_t bytes = 1;
        if (text[position] < 0x80) {
            c.value = text[position];
        } else {
            bytes = qe_utf8_read(text + position, end - position, &c.value);
            if (bytes == 0) { /* half a sequence: a special token was cut out of it */
                bytes = 1;
                c.value = 0xFFFD;
            }
        }
        c.class = qe_unicode_class(c.value);
        c.next = position + bytes;
    }
    return c;
}

static int is_other(character c)
{
    return (c.class & (QE_UNICODE_SPACE | QE_UNICODE_LETTER | QE_UNICODE_NUMBER | CLASS_END)) ==
           0;
}

static int is_newline(character c)
{
    return c.class != CLASS_END && (c.value == '\r' || c.value == '\n');
}

static size_t skip_class(const uint8_t *text, size_t position, size_t end, unsigned class)
{
    for (;;) {
        character c = read(text, position, end);
        if (!(c.class & class)) {
            return position;
        }
        position = c.next;
    }
}

static size_t skip_other(const uint8_t *text, size_t position, size_t end)
{
    for (;;) {
        character c = read(text, position, end);
        if (!is_other(c)) {
            return position;
        }
        position = c.next;
    }
}

/* 's 't 'm 'd 're 've 'll, in lower case only or in any: the end, or 0. */
static size_t contraction(const uint8_t *text, size_t position, size_t end, int any_case)
{
    size_t left = end - position;
    if (left < 2 || text[position] != '\'') {
        return 0;
    }
    uint8_t fold = any_case ? 0x20 : 0;
    uint8_t a = (uint8_t)(text[position + 1] | fold);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
        return position + 2;
    }
    if (left < 3) {
        return 0;
    }
    uint8_t b = (uint8_t)(text[position + 2] | fold);
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) {
        return position + 3;
    }
    return 0;
}

/* \s+(?!\S)|\s+ at a space; with newlines, \s*[\r\n]+ goes first. */
static size_t spaces(const uint8_t *text, size_t position, size_t end, int newlines)
{
    size_t at = position, last = position, after_newline = 0;
    character c = read(text, at, end);
    while (c.class & QE_UNICODE_SPACE) {
        if (is_newline(c)) {
            after_newline = c.next;
        }
        last = at;
        at = c.next;
        c = read(text, at, end);
    }
    if (newlines && after_newline) {
        return after_newline;
    }
    /* the last space of several goes with what follows */
    return c.class != CLASS_END && last > position ? last : at;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t next_gpt2(const uint8_t *text, size_t position, size_t end)
{
    size_t word_end = contraction(text, position, end, 0);
    if (word_end) {
        return word_end;
    }
    character c = read(text, position, end);
    size_t at = position;
    if (c.value == ' ') {
        at = c.next;
        c = read(text, at, end);
    }
    if (c.class & QE_UNICODE_LETTER) {
        return skip_class(text, c.next, end, QE_UNICODE_LETTER);
    }
    if (c.class & QE_UNICODE_NUMBER) {
        return skip_class(text, c.next, end, QE_UNICODE_NUMBER);
    }
    if (is_other(c)) {
        return skip_other(text, c.next, end);
    }
    return spaces(text, position, end, 0);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}
 * | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t next_llama3(const uint8_t *text, size_t position, size_t end, int digits)
{
    size_t word_end = contraction(text, position, end, 1);
    if (word_end) {
        return word_end;
    }
    character c = read(text, position, end);
    if (c.class & QE_UNICODE_LETTER) {
        return skip_class(text, c.next, end, QE_UNICODE_LETTER);
    }
    if (c.class & QE_UNICODE_NUMBER) {
        size_t at = c.next;
        for (int taken = 1; taken < digits; taken++) {
            c = read(text, at, end);
            if (!(c.class & QE_UNICODE_NUMBER)) {
                break;
            }
            at = c.next;
        }
        return at;
    }
    character following = read(text, c.next, end);
    if (!is_newline(c) && (following.class & QE_UNICODE_LETTER)) {
        return skip_class(text, following.next, end, QE_UNICODE_LETTER);
    }
    if (c.value == ' ' && is_other(following)) {
        c = following;
    }
    if (is_other(c)) {
        size_t at = skip_other(text, c.next, end);
        while (at < end && (text[at] == '\r' || text[at] == '\n')) {
            at++;
        }
        return at;
    }
    return spaces(text, position, end, 1);
}

/* The cuts below isolate matches: from position, the end of the match that begins there, or
 * where the next one begins. */

static size_t cut_newline(const uint8_t *text, size_t position, size_t end)
{
    size_t at = position;
    while (at < end && text[at] != '\r' && text[at] != '\n') {
        at++;
    }
    return at == position ? at + 1 : at;
}

/* \p{N} */
static size_t cut_number(const uint8_t *text, size_t position, size_t end)
{
    size_t at = position;
    character c = read(text, at, end);
    if (c.class & QE_UNICODE_NUMBER) {
        return c.next;
    }
    while (!(c.class & (QE_UNICODE_NUMBER | CLASS_END))) {
        at = c.next;
        c = read(text, at, end);
    }
    return at;
}

/* \s?[class]+ */
static size_t cut_spaced(const uint8_t *text, size_t position, size_t end, unsigned class)
{
    size_t at = position;
    character c = read(text, at, end);
    while (c.class != CLASS_END) {
        character following = read(text, c.next, end);
        if ((c.class & class) || ((c.class & QE_UNICODE_SPACE) && (following.class & class))) {
            return at == position ? skip_class(text, c.next, end, class) : at;
        }
        at = c.next;
        c = following;
    }
    return at;
}

/* U+0800 to U+9FA5 and U+AC00 to U+D7FF, white space excepted */
static int is_deepseek_run(character c)
{
    return !(c.class & (QE_UNICODE_SPACE | CLASS_END)) &&
           ((c.value >= 0x800 && c.value <= 0x9FA5) ||
            (c.value >= 0xAC00 && c.value <= 0xD7FF));
}

static size_t cut_deepseek_run(const uint8_t *text, size_t position, size_t end)
{
    character c = read(text, position, end);
    int inside = is_deepseek_run(c);
    size_t at = position;
    while (c.class != CLASS_END && is_deepseek_run(c) == inside) {
        at = c.next;
        c = read(text, at, end);
    }
    return at;
}

void qe_words_start(qe_words *words, uint32_t pretokenizer, const uint8_t *text, size_t bytes)
{
    memset(words, 0, sizeof *words);
    words->text = text;
    words->end = bytes;
    words->pretokenizer = pretokenizer;
}

/* Each expression cuts the pieces of the one before it. */
static size_t next_deepseek_coder(qe_words *words)
{
    const uint8_t *text = words->text;
    size_t at = words->position, *cuts = words->cuts;
    if (cuts[0] <= at) {
        cuts[0] = cut_newline(text, at, words->end);
    }
    if (cuts[1] <= at) {
        cuts[1] = cut_spaced(text, at, cuts[0], QE_UNICODE_LETTER);
    }
    if (cuts[2] <= at) {
        cuts[2] = cut_spaced(text, at, cuts[1], QE_UNICODE_PUNCTUATION);
    }
    if (cuts[3] <= at) {
        cuts[3] = cut_deepseek_run(text, at, cuts[2]);
    }
    return cut_number(text, at, cuts[3]);
}

size_t qe_words_next(qe_words *words)
{
    size_t at = words->position;
    if (at >= words->end) {
        return 0;
    }
    size_t end = words->end;
    switch (words->pretokenizer) {
    case QE_PRE_GPT2: end = next_gpt2(words->text, at, end); break;
    case QE_PRE_SMOLLM: /* \p{N} alone, then gpt-2 on the pieces between */
        if (words->cuts[0] <= at) {
            words->cuts[0] = cut_number(words->text, at, end);
        }
        end = next_gpt2(words->text, at, words->cuts[0]);
        break;
    case QE_PRE_LLAMA3: end = next_llama3(words->text, at, end, 3); break;
    case QE_PRE_QWEN2: end = next_llama3(words->text, at, end, 1); break;
    case QE_PRE_DEEPSEEK_CODER: end = next_deepseek_coder(words); break;
    default: break;
    }
    words->position = end;
    return end;
}
