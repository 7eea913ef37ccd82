/* image_golden.c - the golden section (SPEC 3.6): damaged where it counts, and read. What is
 * given must lie in the section and hold tokens that there are; a board reads it without any
 * more checks (firmware/job.c). */
#include "image_fuzz.h"

static const uint32_t prompt_at = 4, expected_at = 8;

/* Where in the table of sections the golden section's entry lies. */
static uint64_t golden_entry(void)
{
    uint64_t at = qe_load64(whole + 32);
    for (uint32_t n = qe_load32(whole + 24); n; n--, at += ENTRY)
        if (qe_load32(whole + at) == QE_SECTION_GOLDEN)
            return at;
    require(0, "the image has no golden section");
    return 0;
}

void damage_golden(uint8_t *image)
{
    uint64_t bytes;
    uint8_t *p = image + place(QE_SECTION_GOLDEN, &bytes), *entry = image + golden_entry();
    const uint32_t prompt = qe_load32(p + prompt_at), expected = qe_load32(p + expected_at);
    const uint32_t ids = (uint32_t)(bytes - GOLDEN) / 4;
    for (uint64_t n = 1 + below(3); n; n--)
        switch (below(9)) {
        case 0: put32(p + prompt_at, (uint32_t)boundary(prompt)); break;
        case 1: put32(p + expected_at, (uint32_t)boundary(expected)); break;
        case 2: /* as many in all, and one more or less */
            put32(p + prompt_at, (uint32_t)below(ids + 2ull));
            put32(p + expected_at, ids - qe_load32(p + prompt_at) + (uint32_t)below(3) - 1);
            break;
        case 3: /* a sum that wraps */
            put32(p + prompt_at, 0u - (uint32_t)below(4));
            put32(p + expected_at, (uint32_t)below(ids + 4ull));
            break;
        case 4: put32(p + GOLDEN + 4 * below(ids), (uint32_t)boundary(296)); break;
        case 5: put64(entry + 16, boundary(bytes)); break;
        case 6: put64(entry + 16, below(bytes + 1)); break;
        case 7: put64(entry + 8, qe_load64(entry + 8) + 64 * below(3) - 64); break;
        default: p[below(bytes)] = (uint8_t)draw();
        }
}

void read_golden(const qe_image *image)
{
    uint64_t bytes;
    qe_golden found = {0};
    const uint8_t *p = qe_image_section(image, QE_SECTION_GOLDEN, &bytes);
    const int error = qe_image_golden(image, &found);
    if (error) {
        require(error == QE_ERR_IMAGE, "an error of the golden section that is none");
        golden_refused++;
        return;
    }
    golden++;
    require(p && bytes >= GOLDEN, "a golden section that is not there");
    require(found.prompt_count > 0 && found.expected_count > 0, "a golden section of nothing");
    require((const uint8_t *)found.prompt == p + GOLDEN, "a prompt at another place");
    require(found.expected == found.prompt + found.prompt_count, "a gap behind the prompt");
    require((uint64_t)found.prompt_count + found.expected_count <= (bytes - GOLDEN) / 4,
            "more tokens than the section has");
    require(found.digest >= p && found.digest + 32 <= p + bytes, "a digest outside");
    uint64_t sum = 0;
    for (uint32_t i = 0; i < found.prompt_count + found.expected_count; i++)
        require(found.prompt[i] < image->config.vocab_size, "a token that is none");
    for (int i = 0; i < 32; i++)
        sum += found.digest[i];
    require(sum < UINT64_MAX, "sum");
}
