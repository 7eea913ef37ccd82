/* model.c - see model.h. */
#include "model.h"

#include "link.h"
#include "port.h"

static _Alignas(64) uint8_t arena[QF_ARENA_BYTES];

qf_model model = {.slot = SLOT_NONE};

int model_peek(int slot, qe_image *image)
{
    return qe_image_open(image, slot_image(slot), slot_capacity());
}

static int distrusted[SLOT_COUNT];

void model_distrust(int slot, int error)
{
    distrusted[slot] = error;
    if (error && model.slot == slot)
        model.slot = SLOT_NONE;
}

int model_open(int slot)
{
    model.slot = SLOT_NONE;
    if (distrusted[slot])
        return distrusted[slot];
    int error = model_peek(slot, &model.image);
    if (error)
        return error;
    if (strcmp(model.image.board, QF_BOARD) != 0)
        return LINK_WRONG_BOARD;
    error = qe_session_init(&model.session, &model.image, &model.image.plan,
                            qe_kernels_find(NULL, 0), NULL, arena, sizeof arena);
    if (!error)
        model.slot = slot;
    return error;
}
