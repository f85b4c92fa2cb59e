/* A libnvidia-ml.so.1 that says what a scenario says. It reads `scenario.table` beside itself (the flat form that
 * scenario.py writes; the language is described there) once, when it is first asked.
 * Time is seconds since that moment; or, if a file `clock` lies beside it then, the number in that file at each call.
 * build.py adds a NOT_SUPPORTED stub for every other symbol the binding knows, and hides what an old driver lacks. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default"))) int
#define MAX_CELLS 10

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, VERSION = 25 };
typedef unsigned u32;
typedef unsigned long long u64;

typedef struct section {
  char *name;
  int gpu, slice; /* -1: none */
} section;
typedef section *H;

typedef struct { char *section, *key, *text; double at; int rc; } answer;
typedef struct { int gpu; char *kind; u32 pid; u64 memory; double start, until; } process;
typedef struct { char *fn; int gpu, after, rc, hang, crash, calls; double start, until, delay_s; } fault;

static section sections[256];
static answer *answers;
static process processes[64];
static fault faults[64];
static int n_sections, n_answers, n_processes, n_faults, initialised, manual;
static char clock_path[4096];
static double born;
static pthread_once_t loaded = PTHREAD_ONCE_INIT;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

/* ---- the table ---- */

static double monotonic(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static double now(void) {
  double seconds = monotonic() - born;
  FILE *file = manual ? fopen(clock_path, "re") : 0;
  if (!file) return seconds;
  if (fscanf(file, "%lf", &seconds) != 1) seconds = 0;
  fclose(file);
  return seconds;
}

static void take(char **c) {
  if (!strcmp(c[0], "section")) {
    section *s = &sections[n_sections++];
    *s = (section){c[1], -1, -1};
    if (sscanf(c[1], "gpu%d", &s->gpu) != 1) sscanf(c[1], "mig%d.%d", &s->gpu, &s->slice);
  } else if (!strcmp(c[0], "answer")) {
    if (n_answers % 256 == 0) answers = realloc(answers, (n_answers + 256) * sizeof *answers);
    answers[n_answers++] = (answer){c[1], c[2], c[5], atof(c[3]), atoi(c[4])};
  } else if (!strcmp(c[0], "process")) {
    processes[n_processes++] =
        (process){atoi(c[1]), c[2], (u32)atoi(c[3]), strtoull(c[4], 0, 10), atof(c[5]), atof(c[6])};
  } else if (!strcmp(c[0], "fault")) {
    faults[n_faults++] = (fault){.fn = c[1], .gpu = atoi(c[2]), .start = atof(c[3]), .until = atof(c[4]),
        .after = atoi(c[5]), .rc = atoi(c[6]), .delay_s = atof(c[7]), .hang = atoi(c[8]), .crash = atoi(c[9])};
  }
}

static void load(void) {
  Dl_info self;
  char path[4096], *line = 0;
  size_t room = 0;
  born = monotonic();
  if (!dladdr((void *)load, &self)) return;
  int folder = (int)(strrchr(self.dli_fname, '/') - self.dli_fname);
  snprintf(path, sizeof path, "%.*s/scenario.table", folder, self.dli_fname);
  snprintf(clock_path, sizeof clock_path, "%.*s/clock", folder, self.dli_fname);
  manual = access(clock_path, F_OK) == 0;
  FILE *file = fopen(path, "re");
  while (file && getline(&line, &room, file) > 0) {
    char *cells[MAX_CELLS] = {0}, *rest = strdup(line); /* kept: the table points into it */
    rest[strcspn(rest, "\n")] = 0;
    for (int i = 0; i < MAX_CELLS && rest; i++) cells[i] = strsep(&rest, "\t");
    take(cells);
  }
  if (file) fclose(file);
  free(line);
}

static section *find(const char *name) {
  for (int i = 0; i < n_sections; i++)
    if (!strcmp(sections[i].name, name)) return &sections[i];
  return 0;
}

static answer *timeline(const char *where, const char *key, double t) {
  for (int i = n_answers; i--;)
    if (answers[i].at <= t && !strcmp(answers[i].key, key) && !strcmp(answers[i].section, where)) return &answers[i];
  return 0;
}

/* The answer to `key`, or to it without its version suffix (`_v2`, and numbers asked with after it). */
static answer *find_answer(section *s, const char *key) {
  const char *where = s ? s->name : "system";
  char bare[128];
  double t = now();
  answer *a = timeline(where, key, t);
  const char *suffix = strstr(key, "_v");
  if (a || !suffix) return a;
  snprintf(bare, sizeof bare, "%.*s%s", (int)(suffix - key), key, suffix + 2 + strspn(suffix + 2, "0123456789"));
  return timeline(where, bare, t);
}

/* ---- one call: its faults, then its answer ---- */

static void nap(double s) {
  struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
  while (nanosleep(&t, &t) && errno == EINTR) {}
}

static int enter(const char *fn, section *s) {
  double t, delay_s = 0;
  int rc = OK, hang = 0, crash = 0;
  pthread_once(&loaded, load);
  t = now();
  if (!initialised && strncmp(fn, "nvmlInit", 8)) rc = UNINITIALIZED;
  pthread_mutex_lock(&counting);
  for (fault *f = faults; f < faults + n_faults; f++) {
    if (fnmatch(f->fn, fn, 0) || (f->gpu >= 0 && (!s || s->gpu != f->gpu))) continue;
    if (t < f->start || t >= f->until || f->calls++ < f->after) continue;
    delay_s += f->delay_s, hang |= f->hang, crash |= f->crash;
    if (rc == OK) rc = f->rc;
  }
  pthread_mutex_unlock(&counting);
  if (crash) abort();
  if (delay_s > 0) nap(delay_s);
  while (hang) nap(3600);
  return rc;
}

static const char *key_of(const char *fn) {
  static const char *prefixes[] = {"nvmlDeviceGet", "nvmlSystemGet", "nvml"};
  for (int i = 0; i < 3; i++)
    if (!strncmp(fn, prefixes[i], strlen(prefixes[i]))) return fn + strlen(prefixes[i]);
  return fn;
}

/* The first n numbers of an answer, the missing ones 0. */
static int numbers(section *s, const char *key, int n, u64 *out) {
  answer *a = find_answer(s, key);
  memset(out, 0, n * sizeof *out);
  if (!a) return NOT_SUPPORTED;
  if (a->rc) return a->rc;
  char *at = a->text;
  for (int i = 0; i < n && *at; i++) {
    out[i] = strtoull(at, &at, 0);
    if (*at == '+') {
      out[i] += (u64)(strtod(at + 1, &at) * now());
      at += strcspn(at, " ");
    }
  }
  return OK;
}

static int ask(const char *fn, section *s, const char *key, int n, u64 *out) {
  int rc = enter(fn, s);
  return rc ? rc : numbers(s, key, n, out);
}

static int text(const char *fn, section *s, char *out, u32 room) {
  int rc = enter(fn, s);
  if (rc) return rc;
  answer *a = find_answer(s, key_of(fn));
  if (!a) return NOT_SUPPORTED;
  if (a->rc) return a->rc;
  if (strlen(a->text) >= room) return SMALL;
  strcpy(out, a->text);
  return OK;
}

/* ---- structures (nvml.h) ---- */

typedef struct { u32 gpu, memory; } utilisation;
typedef struct { u32 version, sensor; int celsius; } temperature;
typedef struct { u32 version; u64 total, reserved, free, used; } memory_v2;
typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } pci_info;

/* ---- functions by shape ---- */

#define TEXT(F) API F(H d, char *out, u32 room) { return text(#F, d, out, room); }
#define ONE(F, T) API F(H d, T *out) { u64 x; int rc = ask(#F, d, key_of(#F), 1, &x); if (!rc) *out = (T)x; return rc; }
#define PAIR(F) API F(H d, u32 *a, u32 *b) { u64 x[2]; int rc = ask(#F, d, key_of(#F), 2, x); if (!rc) *a = (u32)x[0], *b = (u32)x[1]; return rc; }
#define ASKED(F) API F(H d, u32 which, u32 *out) { char k[128]; u64 x; snprintf(k, sizeof k, "%s.%u", key_of(#F), which); \
  int rc = ask(#F, d, k, 1, &x); if (!rc) *out = (u32)x; return rc; }

TEXT(nvmlDeviceGetName) TEXT(nvmlDeviceGetUUID) TEXT(nvmlDeviceGetSerial) TEXT(nvmlDeviceGetVbiosVersion)
ONE(nvmlDeviceGetArchitecture, u32) ONE(nvmlDeviceGetNumGpuCores, u32) ONE(nvmlDeviceGetNumaNodeId, u32)
ONE(nvmlDeviceGetEnforcedPowerLimit, u32) ONE(nvmlDeviceGetPowerManagementLimit, u32) ONE(nvmlDeviceGetPowerUsage, u32)
ONE(nvmlDeviceGetPersistenceMode, u32) ONE(nvmlDeviceGetMaxMigDeviceCount, u32) ONE(nvmlDeviceGetMinorNumber, u32)
ONE(nvmlDeviceGetFanSpeed, u32) ONE(nvmlDeviceGetPerformanceState, u32) ONE(nvmlDeviceGetComputeMode, u32)
ONE(nvmlDeviceGetDisplayActive, u32) ONE(nvmlDeviceGetTotalEnergyConsumption, u64)
ONE(nvmlDeviceGetCurrentClocksEventReasons, u64) ONE(nvmlDeviceGetCurrentClocksThrottleReasons, u64)
PAIR(nvmlDeviceGetCudaComputeCapability) PAIR(nvmlDeviceGetEccMode) PAIR(nvmlDeviceGetMigMode)
PAIR(nvmlDeviceGetEncoderUtilization) PAIR(nvmlDeviceGetDecoderUtilization)
ASKED(nvmlDeviceGetTemperature) ASKED(nvmlDeviceGetTemperatureThreshold)
ASKED(nvmlDeviceGetClockInfo) ASKED(nvmlDeviceGetMaxClockInfo)

API nvmlDeviceGetUtilizationRates(H d, utilisation *out) {
  u64 x[2];
  int rc = ask("nvmlDeviceGetUtilizationRates", d, "UtilizationRates", 2, x);
  if (!rc) out->gpu = (u32)x[0], out->memory = (u32)x[1];
  return rc;
}

API nvmlDeviceGetTemperatureV(H d, temperature *io) {
  char key[64];
  u64 x;
  if (io->version != (sizeof *io | 1u << 24)) return VERSION;
  snprintf(key, sizeof key, "Temperature.%u", io->sensor);
  int rc = ask("nvmlDeviceGetTemperatureV", d, key, 1, &x);
  if (!rc) io->celsius = (int)x;
  return rc;
}

API nvmlDeviceGetMemoryInfo(H d, u64 *total_free_used) {
  return ask("nvmlDeviceGetMemoryInfo", d, "MemoryInfo", 3, total_free_used);
}

API nvmlDeviceGetBAR1MemoryInfo(H d, u64 *total_free_used) {
  return ask("nvmlDeviceGetBAR1MemoryInfo", d, "BAR1MemoryInfo", 3, total_free_used);
}

API nvmlDeviceGetMemoryInfo_v2(H d, memory_v2 *out) {
  u64 x[4];
  if (out->version != (sizeof *out | 2u << 24)) return VERSION;
  int rc = ask("nvmlDeviceGetMemoryInfo_v2", d, "MemoryInfo_v2", 4, x);
  if (!rc) out->total = x[0], out->reserved = x[1], out->free = x[2], out->used = x[3];
  return rc;
}

API nvmlDeviceGetPciInfo_v3(H d, pci_info *out) {
  int rc = enter("nvmlDeviceGetPciInfo_v3", d);
  answer *a = find_answer(d, "PciInfo_v3");
  if (rc || !a || a->rc) return rc ? rc : a ? a->rc : NOT_SUPPORTED;
  memset(out, 0, sizeof *out);
  sscanf(a->text, "%x:%x:%x", &out->domain, &out->bus, &out->device);
  snprintf(out->bus_id, sizeof out->bus_id, "%s", a->text);
  snprintf(out->legacy, sizeof out->legacy, "%s", strlen(a->text) > 4 ? a->text + 4 : "");
  return OK;
}

/* ---- processes ---- */

typedef struct { u32 pid; u64 memory; u32 gpu_instance, compute_instance; } listed;

static int list(const char *fn, const char *kind, H d, u32 *n, listed *out) {
  int rc = enter(fn, d);
  u32 room = *n, have = 0;
  answer *refusal = find_answer(d, key_of(fn));
  if (rc || refusal) return rc ? rc : refusal->rc;
  for (process *p = processes; p < processes + n_processes; p++) {
    if (d->slice >= 0 || p->gpu != d->gpu || strcmp(p->kind, kind) || now() < p->start || now() >= p->until) continue;
    if (out && have < room) out[have] = (listed){p->pid, p->memory, ~0u, ~0u};
    have++;
  }
  *n = have;
  return have > room ? SMALL : OK;
}

#define LIST(K, V) API nvmlDeviceGet##K##RunningProcesses##V(H d, u32 *n, listed *out) \
  { return list("nvmlDeviceGet" #K "RunningProcesses" #V, #K, d, n, out); }
LIST(Compute, _v2) LIST(Compute, _v3) LIST(Graphics, _v2) LIST(Graphics, _v3) LIST(MPSCompute, _v2) LIST(MPSCompute, _v3)

/* ---- system, handles, MIG ---- */

static int plain_gpus(void) {
  int n = 0;
  for (int i = 0; i < n_sections; i++) n += sections[i].gpu >= 0 && sections[i].slice < 0;
  return n;
}

static int count(void) {
  u64 n;
  return numbers(0, "Count", 1, &n) == OK ? (int)n : plain_gpus();
}

API nvmlInitWithFlags(u32 flags) {
  u64 x;
  (void)flags;
  int rc = ask("nvmlInitWithFlags", 0, "Init", 1, &x);
  if (rc && rc != NOT_SUPPORTED) return rc;
  initialised++;
  return OK;
}
API nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API nvmlInit(void) { return nvmlInitWithFlags(0); }
API nvmlShutdown(void) { initialised--; return OK; }
__attribute__((visibility("default"))) const char *nvmlErrorString(int rc) { return rc ? "fake error" : "Success"; }
API nvmlSystemGetDriverVersion(char *out, u32 room) { return text("nvmlSystemGetDriverVersion", 0, out, room); }
API nvmlSystemGetNVMLVersion(char *out, u32 room) { return text("nvmlSystemGetNVMLVersion", 0, out, room); }
API nvmlSystemGetCudaDriverVersion_v2(int *out) {
  u64 x;
  int rc = ask("nvmlSystemGetCudaDriverVersion_v2", 0, "CudaDriverVersion_v2", 1, &x);
  if (!rc) *out = (int)x;
  return rc;
}
API nvmlSystemGetCudaDriverVersion(int *out) { return nvmlSystemGetCudaDriverVersion_v2(out); }

API nvmlDeviceGetCount_v2(u32 *out) {
  int rc = enter("nvmlDeviceGetCount_v2", 0);
  if (!rc) *out = (u32)count();
  return rc;
}

API nvmlDeviceGetHandleByIndex_v2(u32 index, H *out) {
  char name[32];
  snprintf(name, sizeof name, "gpu%u", index);
  pthread_once(&loaded, load);
  section *s = find(name);
  int rc = enter("nvmlDeviceGetHandleByIndex_v2", s);
  if (rc) return rc;
  if (!s || (int)index >= count()) return INVALID;
  *out = s;
  return OK;
}

static int by(const char *fn, const char *key, const char *wanted, H *out) {
  int rc = enter(fn, 0);
  for (int i = 0; i < n_sections && !rc; i++) {
    answer *a = sections[i].gpu >= 0 ? find_answer(&sections[i], key) : 0;
    if (!a || a->rc || strcasecmp(a->text, wanted)) continue;
    *out = &sections[i];
    return OK;
  }
  return rc ? rc : NOT_FOUND;
}
API nvmlDeviceGetHandleByUUID(const char *uuid, H *out) { return by("nvmlDeviceGetHandleByUUID", "UUID", uuid, out); }
API nvmlDeviceGetHandleByPciBusId_v2(const char *id, H *out) { return by("nvmlDeviceGetHandleByPciBusId_v2", "PciInfo", id, out); }

API nvmlDeviceGetIndex(H d, u32 *out) {
  int rc = enter("nvmlDeviceGetIndex", d);
  if (!rc) *out = (u32)(d->slice < 0 ? d->gpu : d->slice);
  return rc;
}

API nvmlDeviceIsMigDeviceHandle(H d, u32 *out) {
  int rc = enter("nvmlDeviceIsMigDeviceHandle", d);
  if (!rc) *out = d->slice >= 0;
  return rc;
}

API nvmlDeviceGetMigDeviceHandleByIndex(H d, u32 index, H *out) {
  char name[32];
  int rc = enter("nvmlDeviceGetMigDeviceHandleByIndex", d);
  snprintf(name, sizeof name, "mig%d.%u", d->gpu, index);
  if (!rc && !(*out = find(name))) rc = NOT_FOUND;
  return rc;
}

API nvmlDeviceGetDeviceHandleFromMigDeviceHandle(H d, H *out) {
  char name[32];
  int rc = enter("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", d);
  snprintf(name, sizeof name, "gpu%d", d->gpu);
  if (!rc && (d->slice < 0 || !(*out = find(name)))) rc = INVALID;
  return rc;
}
