/* A CUDA driver whose device is this host's memory: shows that ctypes passes what the real one is declared to take.
 * Handles and device addresses lie above 4 GiB, so that a 32-bit argument would be seen. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int CUresult;
#define HIGH 0x7000000000000000ull
static int live, stream_object, context_object;
int fake_live(void) { return live; }

CUresult cuInit(unsigned f) { return f || getenv("FAKE_NO_DEVICE") ? 100 : 0; }
CUresult cuDeviceGet(int *d, int n) { *d = n + 7; return n ? 101 : 0; }
CUresult cuDeviceGetName(char *s, int n, int d) { if (d != 7) return 101; strncpy(s, "Fake GPU", n); return 0; }
CUresult cuDeviceGetPCIBusId(char *s, int n, int d) { if (d != 7) return 101; strncpy(s, "0000:0A:00.0", n); return 0; }
CUresult cuDriverGetVersion(int *v) { *v = 13020; return 0; }
CUresult cuDeviceGetAttribute(int *v, int what, int d) { *v = what == 75 ? 8 : what == 76 ? 9 : -1; return d != 7; }
CUresult cuDevicePrimaryCtxRetain(void **c, int d) { *c = &context_object; live++; return d != 7; }
CUresult cuDevicePrimaryCtxRelease_v2(int d) { live--; return d != 7; }
CUresult cuCtxSetCurrent(void *c) { return c != &context_object; }
CUresult cuMemGetInfo_v2(size_t *f, size_t *t) { *f = 5ull << 30; *t = 8ull << 30; return 0; }
CUresult cuMemAlloc_v2(uint64_t *p, size_t n) {
    if (n > 1ull << 32) return 2;
    *p = (uint64_t)malloc(n) | HIGH; live++; return 0;
}
CUresult cuMemFree_v2(uint64_t p) { if (!(p & HIGH)) return 1; free((void *)(p & ~HIGH)); live--; return 0; }
CUresult cuMemHostAlloc(void **p, size_t n, unsigned f) { *p = malloc(n); live++; return f; }
CUresult cuMemFreeHost(void *p) { free(p); live--; return 0; }
CUresult cuMemcpyHtoDAsync_v2(uint64_t d, const void *s, size_t n, void *q) {
    if (!(d & HIGH) || q != &stream_object) return 1;
    memcpy((void *)(d & ~HIGH), s, n); return 0;
}
CUresult cuMemcpyDtoHAsync_v2(void *d, uint64_t s, size_t n, void *q) {
    if (!(s & HIGH) || q != &stream_object) return 1;
    memcpy(d, (void *)(s & ~HIGH), n); return 0;
}
CUresult cuStreamCreate(void **q, unsigned f) { *q = &stream_object; live++; return f != 1; }
CUresult cuStreamSynchronize(void *q) { return q != &stream_object; }
CUresult cuStreamDestroy_v2(void *q) { live--; return q != &stream_object; }
CUresult cuEventCreate(void **e, unsigned f) { *e = malloc(sizeof(struct timespec)); live++; return f; }
CUresult cuEventRecord(void *e, void *q) { clock_gettime(CLOCK_MONOTONIC, e); return q != &stream_object; }
CUresult cuEventSynchronize(void *e) { return e == 0; }
CUresult cuEventElapsedTime(float *ms, void *a, void *b) {
    struct timespec *s = a, *e = b;
    *ms = (e->tv_sec - s->tv_sec) * 1e3f + (e->tv_nsec - s->tv_nsec) * 1e-6f;
    return 0;
}
CUresult cuEventDestroy_v2(void *e) { free(e); live--; return 0; }
CUresult cuGetErrorString(int s, const char **t) {
    *t = s == 100 ? "no CUDA-capable device is detected" : s == 2 ? "out of memory" : "invalid value";
    return 0;
}
