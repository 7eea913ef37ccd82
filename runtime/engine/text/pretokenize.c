/* pretokenize.c - cuts text into words, as the regular expressions of the known pre-tokenizers
 * do. Each is written out by hand: SPEC-vocab.md has the expressions, and what differs between
 * them. Not a regex engine; every step moves forward, so a text costs time in its length.
 */
#include "unicode.h"
#include "vocab_internal.h"

/* A text, and the piece's end in it. */
typedef struct {
    const uint8_t *text;
    size_t end;
    int is_folder;
} span;

/* The class of what follows the piece's last code point; none of unicode.h's. */
enum { CLASS_END = 256 };

typedef struct {
    uint32_t value;
    unsigned class;
    size_t next; /* position after it */
} character;

/* Beyond ASCII; apart from read(), which is then small enough to be a part of what calls it. */
static character read_wide(const span *s, size_t position)
{
    character c;
    size_t bytes = qe_utf8_read(s->text + position, s->end - position, &c.value);
    if (bytes == 0) { /* half a sequence: a special token was cut out of it */
        bytes = 1;
        c.value = 0xFFFD;
    }
    c.class = qe_unicode_class(c.value);
    if ((c.class & QE_UNICODE_LATER) && !s->is_folder)
        c.class = 0;
    c.next = position + bytes;
    return c;
}

static inline character read(const span *s, size_t position)
{
    if (position >= s->end)
        return (character){0, CLASS_END, position};
    const uint8_t first = s->text[position];
    if (first < 0x80)
        return (character){first, qe_unicode_ascii[first], position + 1};
    return read_wide(s, position);
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

static size_t skip_class(const span *s, size_t position, unsigned class)
{
    for (;;) {
        character c = read(s, position);
        if (!(c.class & class))
            return position;
        position = c.next;
    }
}

static size_t skip_other(const span *s, size_t position)
{
    for (;;) {
        character c = read(s, position);
        if (!is_other(c))
            return position;
        position = c.next;
    }
}

/* 's 't 'm 'd 're 've 'll, in lower case only or in any: the end, or 0. For a folder any case
 * is Unicode's, where the long s is one of s. */
static size_t contraction(const span *s, size_t position, int any_case)
{
    size_t left = s->end - position;
    if (left < 2 || s->text[position] != '\'')
        return 0;
    uint8_t fold = any_case ? 0x20 : 0;
    uint8_t a = (uint8_t)(s->text[position + 1] | fold);
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return position + 2;
    if (left < 3)
        return 0;
    if (any_case && s->is_folder && s->text[position + 1] == 0xC5 &&
        s->text[position + 2] == 0xBF) {
        return position + 3;
    }
    uint8_t b = (uint8_t)(s->text[position + 2] | fold);
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return position + 3;
    return 0;
}

/* \s+(?!\S)|\s+ at a space; with newlines, \s*[\r\n]+ goes first. */
static size_t spaces(const span *s, size_t position, int newlines)
{
    size_t at = position, last = position, after_newline = 0;
    character c = read(s, at);
    while (c.class & QE_UNICODE_SPACE) {
        if (is_newline(c))
            after_newline = c.next;
        last = at;
        at = c.next;
        c = read(s, at);
    }
    if (newlines && after_newline)
        return after_newline;
    /* the last space of several goes with what follows */
    return c.class != CLASS_END && last > position ? last : at;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t next_gpt2(const span *s, size_t position)
{
    size_t word_end = contraction(s, position, 0);
    if (word_end)
        return word_end;
    character c = read(s, position);
    size_t at = position;
    if (c.value == ' ') {
        at = c.next;
        c = read(s, at);
    }
    if (c.class & QE_UNICODE_LETTER)
        return skip_class(s, c.next, QE_UNICODE_LETTER);
    if (c.class & QE_UNICODE_NUMBER)
        return skip_class(s, c.next, QE_UNICODE_NUMBER);
    if (is_other(c))
        return skip_other(s, c.next);
    return spaces(s, position, 0);
}

/* The end of a number that begins with c and has at most this many digits. */
static size_t skip_digits(const span *s, character c, int digits)
{
    size_t at = c.next;
    for (int taken = 1; taken < digits; taken++) {
        c = read(s, at);
        if (!(c.class & QE_UNICODE_NUMBER))
            break;
        at = c.next;
    }
    return at;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}
 * | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t next_llama3(const span *s, size_t position, int digits)
{
    size_t word_end = contraction(s, position, 1);
    if (word_end)
        return word_end;
    character c = read(s, position);
    if (c.class & QE_UNICODE_LETTER)
        return skip_class(s, c.next, QE_UNICODE_LETTER);
    if (c.class & QE_UNICODE_NUMBER)
        return skip_digits(s, c, digits);
    character following = read(s, c.next);
    if (!is_newline(c) && (following.class & QE_UNICODE_LETTER))
        return skip_class(s, following.next, QE_UNICODE_LETTER);
    if (c.value == ' ' && is_other(following))
        c = following;
    if (is_other(c)) {
        size_t at = skip_other(s, c.next);
        while (at < s->end && (s->text[at] == '\r' || s->text[at] == '\n'))
            at++;
        return at;
    }
    return spaces(s, position, 1);
}

/* The letters of tekken and o200k: of the first part of a word, of the second, or of both. A
 * folder asks for the case of letters and takes marks; llama.cpp asks for that of ASCII only.
 */
enum { FIRST_PART = 1, SECOND_PART = 2 };

static unsigned part(const span *s, character c)
{
    if (s->is_folder && (c.class & QE_UNICODE_MARK))
        return FIRST_PART | SECOND_PART;
    if (!(c.class & QE_UNICODE_LETTER))
        return 0;
    unsigned cased = c.class & (QE_UNICODE_UPPER | QE_UNICODE_LOWER);
    if (cased == 0 || (!s->is_folder && c.value >= 0x80))
        return FIRST_PART | SECOND_PART;
    return cased == QE_UNICODE_UPPER ? FIRST_PART : SECOND_PART;
}

/* first*second+ from a position on, or else first+second*; the end, or 0. The first part gives
 * back what the second one cannot do without. */
static size_t cased_word(const span *s, size_t position, int second_needed)
{
    size_t at = position, last_shared = 0;
    character c = read(s, at);
    unsigned kind = part(s, c);
    while (kind & FIRST_PART) {
        at = c.next;
        last_shared = kind & SECOND_PART ? at : last_shared;
        c = read(s, at);
        kind = part(s, c);
    }
    if (kind & SECOND_PART) {
        do {
            at = c.next;
            c = read(s, at);
        } while (part(s, c) & SECOND_PART);
        return at;
    }
    return second_needed ? last_shared : at > position ? at : 0;
}

/* [^\r\n\p{L}\p{N}]?first*second+ or the same with first+second*, the one before it first. */
static size_t any_word(const span *s, size_t position)
{
    character c = read(s, position);
    int opens =
        !is_newline(c) && !(c.class & (QE_UNICODE_LETTER | QE_UNICODE_NUMBER | CLASS_END));
    for (int second_needed = 1; second_needed >= 0; second_needed--) {
        size_t end = opens ? cased_word(s, c.next, second_needed) : 0;
        end = end ? end : cased_word(s, position, second_needed);
        if (end)
            return end;
    }
    return 0;
}

/* As llama3, but words are cased, a contraction is part of its word (o200k) or none at all
 * (tekken), and slashes go with the newlines. */
static size_t next_cased(const span *s, size_t position, int digits, int contractions)
{
    size_t at = any_word(s, position);
    if (at) {
        size_t end = contractions ? contraction(s, at, 1) : 0;
        return end ? end : at;
    }
    character c = read(s, position);
    if (c.class & QE_UNICODE_NUMBER)
        return skip_digits(s, c, digits);
    character following = read(s, c.next);
    if (c.value == ' ' && is_other(following))
        c = following;
    if (is_other(c)) {
        at = skip_other(s, c.next);
        while (at < s->end &&
               (s->text[at] == '\r' || s->text[at] == '\n' || s->text[at] == '/')) {
            at++;
        }
        return at;
    }
    return spaces(s, position, 1);
}

/* The cuts below isolate matches: from position, the end of the match that begins there, or
 * where the next one begins. */

static size_t cut_newline(const span *s, size_t position)
{
    size_t at = position;
    while (at < s->end && s->text[at] != '\r' && s->text[at] != '\n')
        at++;
    return at == position ? at + 1 : at;
}

/* \p{N} */
static size_t cut_number(const span *s, size_t position)
{
    size_t at = position;
    character c = read(s, at);
    if (c.class & QE_UNICODE_NUMBER)
        return c.next;
    while (!(c.class & (QE_UNICODE_NUMBER | CLASS_END))) {
        at = c.next;
        c = read(s, at);
    }
    return at;
}

/* \s?[class]+ */
static size_t cut_spaced(const span *s, size_t position, unsigned class)
{
    size_t at = position;
    character c = read(s, at);
    while (c.class != CLASS_END) {
        character following = read(s, c.next);
        if ((c.class & class) || ((c.class & QE_UNICODE_SPACE) && (following.class & class)))
            return at == position ? skip_class(s, c.next, class) : at;
        at = c.next;
        c = following;
    }
    return at;
}

/* U+0800 to U+9FA5 and U+AC00 to U+D7FF, for llama.cpp white space excepted */
static int is_deepseek_run(const span *s, character c)
{
    return !(c.class & (s->is_folder ? CLASS_END : QE_UNICODE_SPACE | CLASS_END)) &&
           ((c.value >= 0x800 && c.value <= 0x9FA5) ||
            (c.value >= 0xAC00 && c.value <= 0xD7FF));
}

static size_t cut_deepseek_run(const span *s, size_t position)
{
    character c = read(s, position);
    int inside = is_deepseek_run(s, c);
    size_t at = position;
    while (c.class != CLASS_END && is_deepseek_run(s, c) == inside) {
        at = c.next;
        c = read(s, at);
    }
    return at;
}

void qe_words_start(qe_words *words, const qe_vocab *vocab, const uint8_t *text, size_t bytes)
{
    memset(words, 0, sizeof *words);
    words->text = text;
    words->end = bytes;
    words->pretokenizer = vocab->pretokenizer;
    words->is_folder = (vocab->flags & QE_VOCAB_FOLDER) != 0;
}

/* Each expression cuts the pieces of the one before it. */
static size_t next_deepseek_coder(qe_words *words)
{
    span s = {words->text, words->end, words->is_folder};
    size_t at = words->position, *cuts = words->cuts;
    if (cuts[0] <= at)
        cuts[0] = cut_newline(&s, at);
    s.end = cuts[0];
    if (cuts[1] <= at)
        cuts[1] = cut_spaced(&s, at, QE_UNICODE_LETTER);
    s.end = cuts[1];
    if (cuts[2] <= at)
        cuts[2] = cut_spaced(&s, at, QE_UNICODE_PUNCTUATION);
    s.end = cuts[2];
    if (cuts[3] <= at)
        cuts[3] = cut_deepseek_run(&s, at);
    s.end = cuts[3];
    return cut_number(&s, at);
}

size_t qe_words_next(qe_words *words)
{
    size_t at = words->position;
    if (at >= words->end)
        return 0;
    size_t end = words->end;
    span s = {words->text, end, words->is_folder};
    switch (words->pretokenizer) {
    case QE_PRE_GPT2: end = next_gpt2(&s, at); break;
    case QE_PRE_SMOLLM: /* \p{N} alone, then gpt-2 on the pieces between */
        if (words->cuts[0] <= at)
            words->cuts[0] = cut_number(&s, at);
        s.end = words->cuts[0];
        end = next_gpt2(&s, at);
        break;
    case QE_PRE_LLAMA3: end = next_llama3(&s, at, 3); break;
    case QE_PRE_QWEN2: end = next_llama3(&s, at, 1); break;
    case QE_PRE_DEEPSEEK_CODER: end = next_deepseek_coder(words); break;
    case QE_PRE_TEKKEN: end = next_cased(&s, at, 1, 0); break;
    case QE_PRE_O200K: end = next_cased(&s, at, 3, 1); break;
    default: break;
    }
    words->position = end;
    return end;
}
