/* A libnvidia-ml.so.1 that says what a scenario says. It reads `scenario.table` beside itself (the flat form that
 * scenario.py writes; the language is described there) once, when it is first asked.
 * Time is seconds since that moment; or, if a file `clock` lies beside it then, the double that this file holds.
 * A power limit that somebody sets is kept in a file `power.INDEX` beside it, in milliwatts, for every process.
 * A process with pid 0 is the one whose number stands in a file `pid` beside it, while that lives.
 * build.py adds a NOT_SUPPORTED stub for every other symbol the binding knows, and hides what an old driver lacks. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default"))) int
#define MAX_CELLS 10

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, TIMEOUT = 10, VERSION = 25 };
typedef unsigned u32;
typedef unsigned long long u64;

typedef struct answer {
  char *key, *text;
  double at;
  int rc;
  struct answer *before; /* of the same section */
} answer;
typedef struct section {
  char *name;
  int gpu, slice; /* -1: none */
  answer *last;
} section;
typedef section *H;

typedef struct { int gpu; char *kind; u32 pid; u64 memory; u32 instance; double start, until; } process;
typedef struct { int gpu; double at; u64 type, value; } event;
typedef struct { char *fn; int gpu, after, rc, hang, crash, calls; double start, until, delay_s; } fault;

static section sections[256];
static process processes[64];
static fault faults[64];
static event events[64];
static int n_sections, n_processes, n_faults, n_events, initialised;
static volatile double *manual; /* the file `clock` in memory: to read it costs a call nothing */
static double born;
static char folder[3072];
static pthread_once_t loaded = PTHREAD_ONCE_INIT;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

/* ---- the table ---- */

static double monotonic(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static double now(void) { return manual ? *manual : monotonic() - born; }

static section *find(const char *name) {
  for (int i = 0; i < n_sections; i++)
    if (!strcmp(sections[i].name, name)) return &sections[i];
  return 0;
}

static void take(char **c) {
  if (!strcmp(c[0], "section")) {
    section *s = &sections[n_sections++];
    *s = (section){c[1], -1, -1, 0};
    if (sscanf(c[1], "gpu%d", &s->gpu) != 1) sscanf(c[1], "mig%d.%d", &s->gpu, &s->slice);
  } else if (!strcmp(c[0], "answer")) {
    section *s = find(c[1]);
    answer *a = malloc(sizeof *a);
    *a = (answer){c[2], c[5], atof(c[3]), atoi(c[4]), s->last};
    s->last = a;
  } else if (!strcmp(c[0], "process")) {
    processes[n_processes++] =
        (process){atoi(c[1]), c[2], (u32)atoi(c[3]), strtoull(c[4], 0, 10), (u32)strtoul(c[5], 0, 10), atof(c[6]), atof(c[7])};
  } else if (!strcmp(c[0], "event")) {
    events[n_events++] = (event){atoi(c[1]), atof(c[2]), strtoull(c[3], 0, 10), strtoull(c[4], 0, 10)};
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
  snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(self.dli_fname, '/') - self.dli_fname), self.dli_fname);
  snprintf(path, sizeof path, "%s/scenario.table", folder);
  FILE *file = fopen(path, "re");
  while (file && getline(&line, &room, file) > 0) {
    char *cells[MAX_CELLS] = {0}, *rest = strdup(line); /* kept: the table points into it */
    rest[strcspn(rest, "\n")] = 0;
    for (int i = 0; i < MAX_CELLS && rest; i++) cells[i] = strsep(&rest, "\t");
    take(cells);
  }
  if (file) fclose(file);
  free(line);
  snprintf(path, sizeof path, "%s/clock", folder);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  void *at = fd < 0 ? MAP_FAILED : mmap(0, sizeof *manual, PROT_READ, MAP_SHARED, fd, 0);
  manual = at == MAP_FAILED ? 0 : at;
  if (fd >= 0) close(fd);
}

static answer *timeline(section *s, const char *key, double t) {
  for (answer *a = s ? s->last : 0; a; a = a->before)
    if (a->at <= t && !strcmp(a->key, key)) return a;
  return 0;
}

/* The answer to `key`, or to it without its version suffix (`_v2`, and numbers asked with after it). */
static answer *find_answer(section *s, const char *key) {
  if (!s) s = find("system");
  char bare[128];
  double t = now();
  answer *a = timeline(s, key, t);
  const char *suffix = strstr(key, "_v");
  if (a || !suffix) return a;
  snprintf(bare, sizeof bare, "%.*s%s", (int)(suffix - key), key, suffix + 2 + strspn(suffix + 2, "0123456789"));
  return timeline(s, bare, t);
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
ONE(nvmlDeviceGetPowerUsage, u32)
ONE(nvmlDeviceGetPersistenceMode, u32) ONE(nvmlDeviceGetMaxMigDeviceCount, u32) ONE(nvmlDeviceGetMinorNumber, u32)
ONE(nvmlDeviceGetFanSpeed, u32) ONE(nvmlDeviceGetPerformanceState, u32) ONE(nvmlDeviceGetComputeMode, u32)
ONE(nvmlDeviceGetDisplayActive, u32) ONE(nvmlDeviceGetTotalEnergyConsumption, u64)
ONE(nvmlDeviceGetCurrPcieLinkGeneration, u32) ONE(nvmlDeviceGetCurrPcieLinkWidth, u32)
ONE(nvmlDeviceGetMaxPcieLinkGeneration, u32) ONE(nvmlDeviceGetMaxPcieLinkWidth, u32)
ONE(nvmlDeviceGetVirtualizationMode, u32) ONE(nvmlDeviceGetGpuInstanceId, u32) ONE(nvmlDeviceGetComputeInstanceId, u32)
ONE(nvmlDeviceGetSupportedEventTypes, u64)
ONE(nvmlDeviceGetCurrentClocksEventReasons, u64) ONE(nvmlDeviceGetCurrentClocksThrottleReasons, u64)
PAIR(nvmlDeviceGetCudaComputeCapability) PAIR(nvmlDeviceGetEccMode) PAIR(nvmlDeviceGetMigMode)
PAIR(nvmlDeviceGetPowerManagementLimitConstraints)
PAIR(nvmlDeviceGetEncoderUtilization) PAIR(nvmlDeviceGetDecoderUtilization)
ASKED(nvmlDeviceGetTemperature) ASKED(nvmlDeviceGetTemperatureThreshold)
ASKED(nvmlDeviceGetClockInfo) ASKED(nvmlDeviceGetMaxClockInfo) ASKED(nvmlDeviceGetNvLinkState)

static FILE *kept_limit(H d, const char *mode) {
  char path[4096];
  snprintf(path, sizeof path, "%s/power.%d", folder, d->gpu);
  return fopen(path, mode);
}

static int limit(const char *fn, H d, u32 *out) {
  u64 x;
  int rc = ask(fn, d, key_of(fn), 1, &x);
  FILE *file = rc ? 0 : kept_limit(d, "re");
  if (file && fscanf(file, "%llu", &x) != 1) rc = INVALID;
  if (file) fclose(file);
  if (!rc) *out = (u32)x;
  return rc;
}
API nvmlDeviceGetEnforcedPowerLimit(H d, u32 *out) { return limit("nvmlDeviceGetEnforcedPowerLimit", d, out); }
API nvmlDeviceGetPowerManagementLimit(H d, u32 *out) { return limit("nvmlDeviceGetPowerManagementLimit", d, out); }

API nvmlDeviceSetPowerManagementLimit(H d, u32 mw) {
  u64 range[2];
  int rc = enter("nvmlDeviceSetPowerManagementLimit", d);
  if (!rc) rc = numbers(d, "PowerManagementLimitConstraints", 2, range);
  if (!rc && (mw < range[0] || mw > range[1])) rc = INVALID;
  FILE *file = rc ? 0 : kept_limit(d, "we");
  if (file) fprintf(file, "%u", mw), fclose(file);
  return rc;
}

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

typedef struct { u32 version; unsigned char cluster[16]; int status; u32 clique, state, health; } fabric;

API nvmlDeviceGetGpuFabricInfoV(H d, fabric *out) {
  u64 x[2];
  if (out->version != (sizeof *out | 2u << 24)) return VERSION;
  int rc = ask("nvmlDeviceGetGpuFabricInfoV", d, "GpuFabricInfo", 2, x);
  if (!rc) out->state = (u32)x[0], out->status = (int)x[1];
  return rc;
}

/* Each field is a key `Field.N`: a refusal is its own. */
typedef struct { u32 field, scope; long long at, latency; u32 type; int rc; u64 value; } field_value;

API nvmlDeviceGetFieldValues(H d, int n, field_value *out) {
  int rc = enter("nvmlDeviceGetFieldValues", d);
  for (int i = 0; i < n && !rc; i++) {
    char key[32];
    snprintf(key, sizeof key, "Field.%u", out[i].field);
    out[i].rc = numbers(d, key, 1, &out[i].value);
    out[i].type = 3; /* unsigned long long */
  }
  return rc;
}

/* ---- events: those of the scenario whose time came after the set was made ---- */

typedef struct { int next; u64 wanted[256]; } event_set;
typedef struct { H device; u64 type, value; u32 gpu_instance, compute_instance; } event_data;

API nvmlEventSetCreate(event_set **out) {
  int rc = enter("nvmlEventSetCreate", 0);
  if (rc) return rc;
  *out = calloc(1, sizeof **out);
  while ((*out)->next < n_events && events[(*out)->next].at <= now()) (*out)->next++;
  return OK;
}

API nvmlEventSetFree(event_set *set) { free(set); return OK; }

API nvmlDeviceRegisterEvents(H d, u64 types, event_set *set) {
  int rc = enter("nvmlDeviceRegisterEvents", d);
  if (!rc && d->gpu >= 0) set->wanted[d->gpu] |= types;
  return rc;
}

API nvmlEventSetWait_v2(event_set *set, event_data *out, u32 timeout_ms) {
  int rc = enter("nvmlEventSetWait_v2", 0);
  for (double until = monotonic() + timeout_ms / 1e3; !rc; nap(0.02)) {
    for (; set->next < n_events && events[set->next].at <= now(); set->next++) {
      event *e = &events[set->next];
      char name[32];
      snprintf(name, sizeof name, "gpu%d", e->gpu);
      if (!(set->wanted[e->gpu] & e->type)) continue;
      *out = (event_data){find(name), e->type, e->value, ~0u, ~0u};
      set->next++;
      return OK;
    }
    if (monotonic() >= until) return TIMEOUT;
  }
  return rc;
}

/* ---- processes ---- */

/* Of an engine that a test starts: the number in the file `pid` beside us, for as long as that process lives. */
static u32 living(u32 pid) {
  char path[4096];
  u32 told = 0;
  if (pid) return pid;
  snprintf(path, sizeof path, "%s/pid", folder);
  FILE *file = fopen(path, "re");
  if (file && fscanf(file, "%u", &told) != 1) told = 0;
  if (file) fclose(file);
  return told && !kill((pid_t)told, 0) ? told : 0;
}

typedef struct { u32 pid; u64 memory; u32 gpu_instance, compute_instance; } listed;

static int list(const char *fn, const char *kind, H d, u32 *n, listed *out) {
  int rc = enter(fn, d);
  u32 room = *n, have = 0;
  answer *refusal = find_answer(d, key_of(fn));
  if (rc || refusal) return rc ? rc : refusal->rc;
  for (process *p = processes; p < processes + n_processes; p++) {
    if (d->slice >= 0 || p->gpu != d->gpu || strcmp(p->kind, kind) || now() < p->start || now() >= p->until) continue;
    u32 pid = living(p->pid);
    if (!pid) continue;
    if (out && have < room) out[have] = (listed){pid, p->memory, p->instance, ~0u};
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
