/* cpus_check.c ROOT CPU... - which of the CPUs the pool would choose by what the files under
 * ROOT say of them; one line of JSON. */
#include "../../runtime/host/host.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    uint8_t allowed[64] = {0};
    uint32_t chosen[64];
    if (argc < 3)
        return 2;
    for (int i = 2; i < argc; i++)
        allowed[atoi(argv[i]) & 63] = 1;
    const uint32_t found = qe_host_choose_cpus(argv[1], allowed, 64, chosen, 64);
    printf("{\"chosen\": [");
    for (uint32_t i = 0; i < found; i++)
        printf("%s%u", i ? ", " : "", (unsigned)chosen[i]);
    printf("]}\n");
    return 0;
}
