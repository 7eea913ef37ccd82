/* unicode.h - UTF-8 and the general categories that pre-tokenizers ask for. */
#ifndef QEDGE_UNICODE_H
#define QEDGE_UNICODE_H

#include <stddef.h>
#include <stdint.h>

enum {
    QE_UNICODE_LETTER = 1,      /* \p{L} */
    QE_UNICODE_NUMBER = 2,      /* \p{N} */
    QE_UNICODE_PUNCTUATION = 4, /* \p{P} */
    QE_UNICODE_SPACE = 8,       /* \s: White_Space */
    QE_UNICODE_UPPER = 16,      /* with LETTER: Lu or Lt */
    QE_UNICODE_LOWER = 32,      /* with LETTER: Ll */
    QE_UNICODE_MARK = 64,       /* \p{M} */
    QE_UNICODE_ODD = 16,        /* without LETTER: a number that is no part of a word (No), or
                                 * anything else that is one (Pc and a few symbols) */
    QE_UNICODE_LATER = 128      /* with any of the above: in Unicode 16.0, not in 15.1 */
};

/* The classes of a code point, a sum of the above; 0 for everything else. */
unsigned qe_unicode_class(uint32_t code_point);

/* Transitions: code point << 8 | the classes that hold from there on; ascending. Generated.
 * LETTER, UPPER and LOWER together: letters whose case alternates, the first one in upper case,
 * or in lower case if MARK is there too. */
extern const uint32_t qe_unicode_transitions[];
extern const uint32_t qe_unicode_transition_count;
/* The classes of ASCII. Generated. */
extern const uint8_t qe_unicode_ascii[128];

/* Bytes of the UTF-8 sequence at text (1 to 4), its code point in *code_point; 0 when the bytes
 * are not well-formed UTF-8 (overlong forms, surrogates and values above 10FFFF are not). */
size_t qe_utf8_read(const uint8_t *text, size_t bytes, uint32_t *code_point);

#endif
