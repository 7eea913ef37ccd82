/* host/port.c - the firmware as a process: the line is stdin and stdout, the flash a file that
 * behaves as NOR (programming only clears bits). For sanitizers, fuzzers and for users who want
 * to try the link without a board. The file is named by QEDGE_FLASH_FILE; its last 8 bytes are
 * the board's id. QEDGE_CUT=N: the power fails in flash operation N. */
#define _GNU_SOURCE
#include "port.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "stack.h"

static uint8_t *flash;
static long cut; /* the flash operation in which the power fails, half done; 0: never */

static void operate(void)
{
    if (cut && --cut == 0)
        exit(75);
}

void port_open(void)
{
    const char *name = getenv("QEDGE_FLASH_FILE");
    const int file = open(name ? name : "", O_RDWR);
    if (file < 0 || lseek(file, 0, SEEK_END) < (off_t)QF_FLASH_BYTES + 8) {
        fprintf(stderr, "QEDGE_FLASH_FILE must name a file of %u bytes\n", QF_FLASH_BYTES + 8);
        exit(2);
    }
    flash = mmap(NULL, QF_FLASH_BYTES + 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (flash == MAP_FAILED) {
        perror(name);
        exit(2);
    }
    close(file);
    cut = getenv("QEDGE_CUT") ? atol(getenv("QEDGE_CUT")) : 0;
}

uint8_t port_read(void)
{
    uint8_t byte;
    if (read(STDIN_FILENO, &byte, 1) != 1)
        exit(0); /* the other end is gone */
    return byte;
}

void port_write(const uint8_t *bytes, size_t count)
{
    while (count) {
        const ssize_t done = write(STDOUT_FILENO, bytes, count);
        if (done <= 0)
            exit(0);
        bytes += done;
        count -= (size_t)done;
    }
}

uint64_t port_ticks(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

const uint8_t *port_flash(void)
{
    return flash;
}

void port_erase(uint32_t offset)
{
    const uint32_t count = port_erase_bytes(offset);
    for (uint32_t i = 0; i < count; i++) {
        if (i == count / 2)
            operate();
        flash[offset + i] = 0xFF;
    }
}

void port_program(uint32_t offset, const uint8_t page[QF_PAGE_BYTES])
{
    for (uint32_t i = 0; i < QF_PAGE_BYTES; i++) {
        if (i == QF_PAGE_BYTES / 2)
            operate();
        flash[offset + i] &= page[i];
    }
}

void port_identity(uint8_t id[8])
{
    for (int i = 0; i < 8; i++)
        id[i] = flash[QF_FLASH_BYTES + i];
}

int port_emulated(void)
{
    return 1;
}

void port_reset(void)
{
    exit(0); /* whoever started it starts it again */
}

uint32_t stack_bytes(void)
{
    return 0;
}

int stack_overrun(void)
{
    return 0;
}

uint32_t stack_used(void)
{
    return 0;
}
