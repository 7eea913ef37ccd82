/* arm_count.c - a TCG plugin (QEMU's plugin interface, version 1) that counts the instructions
 * a guest program executes, by translated block: at exit one line "address count length" for
 * each block that ran (length: the instructions in it), to the file named by out=. Debian ships
 * no header for the interface; what is used of it is declared here. Debian's qemu-user exports
 * it, its static builds do not. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct block;
struct instruction;
struct machine_info;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id,
                                                  void (*)(plugin_id, struct block *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int operation, void *,
                                                     uint64_t);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern uint64_t qemu_plugin_tb_vaddr(const struct block *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { MOST_BLOCKS = 1 << 17, ADD_U64 = 0 };

/* Executed instructions of a block. QEMU adds to it from translated code. */
static struct {
    uint64_t address, executed, length;
} blocks[MOST_BLOCKS];
static size_t used;
static const char *path;

static void translated(plugin_id id, struct block *block)
{
    (void)id;
    if (used == MOST_BLOCKS) {
        fprintf(stderr, "arm_count: more than %d blocks\n", MOST_BLOCKS);
        exit(1);
    }
    blocks[used].address = qemu_plugin_tb_vaddr(block);
    blocks[used].length = qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &blocks[used].executed,
                                             blocks[used].length);
    used++;
}

static void ended(plugin_id id, void *unused)
{
    FILE *file = fopen(path, "w");
    (void)id;
    (void)unused;
    if (!file) {
        perror(path);
        return;
    }
    for (size_t i = 0; i < used; i++)
        if (blocks[i].executed)
            fprintf(file, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n", blocks[i].address,
                    blocks[i].executed, blocks[i].length);
    if (fclose(file) != 0)
        perror(path);
}

__attribute__((visibility("default"))) int
qemu_plugin_install(plugin_id id, const struct machine_info *info, int argc, char **argv)
{
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) {
        fprintf(stderr, "arm_count: out=FILE is missing\n");
        return 1;
    }
    path = strdup(argv[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
