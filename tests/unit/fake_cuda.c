/* A CUDA driver whose device is this host's memory: shows that ctypes passes what the real one is declared to take.
 * Handles and device addresses lie above 4 GiB, so that a 32-bit argument would be seen. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int CUresult;
#define HIGH 0x7000000000000000ull
static int live, context_object, streams[64], next_stream, captured_object, graph_object;
static void *capturing;
int fake_live(void) { return live; }
static int no_stream(void *q) { return (int *)q < streams || (int *)q >= streams + next_stream; }

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
    if (!(d & HIGH) || no_stream(q)) return 1;
    memcpy((void *)(d & ~HIGH), s, n); return 0;
}
CUresult cuMemcpyDtoHAsync_v2(void *d, uint64_t s, size_t n, void *q) {
    if (!(s & HIGH) || no_stream(q)) return 1;
    memcpy(d, (void *)(s & ~HIGH), n); return 0;
}
CUresult cuMemcpyDtoDAsync_v2(uint64_t d, uint64_t s, size_t n, void *q) {
    if (!(d & HIGH) || !(s & HIGH) || no_stream(q)) return 1;
    memcpy((void *)(d & ~HIGH), (void *)(s & ~HIGH), n); return 0;
}
CUresult cuStreamCreate(void **q, unsigned f) { *q = &streams[next_stream++ % 64]; live++; return f != 1; }
CUresult cuStreamSynchronize(void *q) { return no_stream(q) || q == capturing; }
CUresult cuStreamWaitEvent(void *q, void *e, unsigned f) { return no_stream(q) || e == 0 || f; }
CUresult cuStreamDestroy_v2(void *q) { live--; return no_stream(q); }
CUresult cuThreadExchangeStreamCaptureMode(int *mode) { if (*mode != 1) return 1; *mode = 0; return 0; }
CUresult cuStreamBeginCapture_v2(void *q, int mode) { if (no_stream(q) || mode != 1) return 1; capturing = q; return 0; }
CUresult cuStreamIsCapturing(void *q, int *status) { *status = q == capturing; return no_stream(q); }
CUresult cuStreamEndCapture(void *q, void **g) {
    if (q != capturing) return 401;
    capturing = 0; *g = &captured_object; live++; return 0;
}
CUresult cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) {
    if (g != &captured_object || f) return 1;
    *e = &graph_object; live++; return 0;
}
CUresult cuGraphDestroy(void *g) { live--; return g != &captured_object; }
CUresult cuGraphLaunch(void *e, void *q) { return e != &graph_object || no_stream(q); }
CUresult cuGraphExecDestroy(void *e) { live--; return e != &graph_object; }
CUresult cuEventCreate(void **e, unsigned f) { *e = malloc(sizeof(struct timespec)); live++; return f & ~3u; }
CUresult cuEventRecord(void *e, void *q) { clock_gettime(CLOCK_MONOTONIC, e); return no_stream(q); }
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
