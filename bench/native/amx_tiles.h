/* amx_tiles.h - for building llama.cpp by gcc 12, whose _tile_loadconfig reads 8 of the 64
 * bytes that ldtilecfg reads: the stores of the others are dropped, and it crashes on CPUs with
 * AMX. Given with -include; nothing of qedge uses it. */
#include <immintrin.h>
#define _tile_loadconfig(p) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(p)))
