/* vocab_fuzz.c - mutations of one tokenizer section, texts encoded and tokens decoded with
 * them. Buffers have their exact sizes, so that a sanitizer sees a byte too far; what is
 * written is compared with what was promised. Says how many sections opened and how many texts
 * had ids. Usage: vocab_fuzz SECTION FIRST_SEED COUNT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/qedge.h"

static uint64_t state;

static uint64_t draw(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t below(uint64_t n)
{
    return draw() % n;
}

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    abort();
}

static void require(int holds, const char *what)
{
    if (!holds)
        fail(what);
}

static void *exactly(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    require(memory != NULL, "out of memory");
    return memory;
}

static const char *const PARTS[] = {"the ",         "<s>",
                                    "</s>",         " ",
                                    "  ",           "a",
                                    "\xCC\x81",     "\xCC\xA3",
                                    "\xC3\xA9",     "\xE1\xBA\x9B",
                                    "\xEF\xB7\xBA", "\xED\x95\x9C",
                                    "\xE1\x84\x92", "\xE1\x85\xA1",
                                    "\xE2\x96\x81", "\xF0\x9F\x98\x80",
                                    "'ll",          "'\xC5\xBF",
                                    "12345",        "\n",
                                    "\r\n/",        "\xE3\x80\x80",
                                    "<|im_end|>",   "<x>",
                                    "AbC",          "\xFF",
                                    "\xC3"};

static size_t make_text(uint8_t *text, size_t max)
{
    size_t bytes = 0;
    for (uint64_t i = below(40); i > 0; i--) {
        const char *part = PARTS[below(sizeof PARTS / sizeof PARTS[0] - (below(8) ? 2 : 0))];
        uint64_t times = below(12) ? 1 : below(30);
        for (; times > 0 && bytes + strlen(part) <= max; times--) {
            memcpy(text + bytes, part, strlen(part));
            bytes += strlen(part);
        }
    }
    return bytes;
}

static int stop(void *context)
{
    return --*(int *)context < 0;
}

static long encode(const qe_vocab *vocab)
{
    uint8_t room[1200];
    const size_t bytes = make_text(room, sizeof room),
                 worst = qe_vocab_scratch_bytes(vocab, bytes);
    const size_t need = worst < 1 << 17 ? worst : 1 << 17, most = 3 * bytes + 8;
    const size_t given = below(4) ? need : (size_t)below(need + 1);
    uint8_t *text = exactly(bytes), *scratch = exactly(given);
    uint32_t *ids = exactly(most * 4);
    memcpy(text, room, bytes);
    int left = (int)below(3);
    const qe_poll poll = {stop, &left};
    const uint32_t flags = (uint32_t)below(8);
    const int32_t n = qe_vocab_encode_polled(vocab, text, bytes, flags, ids, most, scratch,
                                             given, below(2) ? &poll : NULL);
    require(n <= (int32_t)most, "more ids than there is room for");
    for (int32_t i = 0; i < n; i++)
        require(ids[i] < qe_vocab_token_count(vocab), "an id that is no token");
    free(text);
    free(scratch);
    free(ids);
    return n > 0;
}

/* A token in pieces is the token. */
static void decode(const qe_vocab *vocab)
{
    const uint32_t id = (uint32_t)below(qe_vocab_token_count(vocab) + 1ull);
    const size_t max = (size_t)below(300);
    uint8_t *whole = exactly(max), part[7];
    const int special = (int)below(2);
    const int32_t n = qe_vocab_decode(vocab, id, special, whole, max);
    require(n <= (int32_t)max, "more bytes than there is room for");
    uint32_t at = 0;
    while (n >= 0) {
        const int32_t more = qe_vocab_decode_at(vocab, id, special, at, part, sizeof part);
        if (more < 0 || (int32_t)at + more > n) /* so that gcc sees what more can be below */
            fail("a token in pieces is longer");
        require(memcmp(whole + at, part, (size_t)more) == 0, "a token in pieces differs");
        if (more == 0) {
            require((int32_t)at == n, "a token in pieces is shorter");
            break;
        }
        at += (uint32_t)more;
    }
    free(whole);
}

int main(int count, char **arguments)
{
    require(count == 4, "usage: vocab_fuzz SECTION FIRST_SEED COUNT");
    FILE *file = fopen(arguments[1], "rb");
    require(file != NULL, "no such file");
    fseek(file, 0, SEEK_END);
    const size_t bytes = (size_t)ftell(file);
    uint8_t *whole = exactly(bytes), *section = exactly(bytes);
    rewind(file);
    require(fread(whole, 1, bytes, file) == bytes, "the file cannot be read");
    fclose(file);
    const uint64_t first = strtoull(arguments[2], NULL, 10);
    const uint64_t cases = strtoull(arguments[3], NULL, 10);
    long opened = 0, encoded = 0;
    uint32_t rules;
    memcpy(&rules, whole + 120, 4);
    for (uint64_t i = 0; i < cases; i++) {
        state = (first + i) * 0x9E3779B97F4A7C15ull + 1;
        memcpy(section, whole, bytes);
        for (uint64_t damage = below(6); damage > 0; damage--) {
            /* anywhere, in the rules block, or a word of either header */
            const uint64_t place = below(4);
            size_t at = (size_t)below(bytes);
            if (place == 1 && rules && rules < bytes)
                at = rules + (size_t)below(bytes - rules < 4096 ? bytes - rules : 4096);
            else if (place == 2)
                at = rules && below(2) ? rules + 4 * (size_t)below(16) : 4 * (size_t)below(32);
            const uint32_t values[] = {0,
                                       1,
                                       2,
                                       0xFFFFFFFF,
                                       0x7FFFFFFF,
                                       (uint32_t)bytes,
                                       (uint32_t)draw(),
                                       (uint32_t)below(300)};
            const uint32_t value = values[below(8)];
            if (place == 2 && at + 4 <= bytes)
                memcpy(section + at, &value, 4);
            else
                section[at] = (uint8_t)value;
        }
        qe_vocab vocab;
        if (qe_vocab_open(&vocab, section, bytes) == QE_OK) {
            opened++;
            for (int j = 0; j < 3; j++) {
                encoded += encode(&vocab);
                decode(&vocab);
            }
        }
    }
    printf("{\"opened\": %ld, \"encoded\": %ld}\n", opened, encoded);
    free(whole);
    free(section);
    return 0;
}
