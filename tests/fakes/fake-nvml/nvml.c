/* A stand-in for libnvidia-ml: two devices, the second of which can little. Declared from the
 * documented interface; tests compile it under the vendor's name and load it first. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, UNKNOWN = 999 };
enum { DEVICES = 2 };

static char devices[DEVICES];
static atomic_int users, samples_out, reads, hang_ms, broken;
static char driver[16] = "580.159.04";

/* The side of the test. */
void fake_nvml_hang(int ms) { hang_ms = ms; }
void fake_nvml_broken(int is_broken) { broken = is_broken; }
void fake_nvml_driver(const char *version) { strncpy(driver, version, sizeof driver - 1); }
int fake_nvml_users(void) { return users; }
int fake_nvml_samples_out(void) { return samples_out; }
int fake_nvml_reads(void) { return reads; }

static int index_of(void *device) {
  for (int i = 0; i < DEVICES; i++)
    if (device == &devices[i]) return i;
  return -1;
}

static int text(const char *from, char *to, unsigned size) {
  if (strlen(from) >= size) return 7;
  strcpy(to, from);
  return OK;
}

/* The side of the profiler. */
int nvmlInit_v2(void) {
  if (broken) return 9;
  users++;
  return OK;
}
int nvmlShutdown(void) {
  users--;
  return OK;
}
int nvmlSystemGetDriverVersion(char *to, unsigned size) { return text(driver, to, size); }
int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = DEVICES;
  return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index >= DEVICES) return INVALID;
  *device = &devices[index];
  return OK;
}
int nvmlDeviceGetName(void *device, char *to, unsigned size) {
  return text(index_of(device) ? "Stand-in A100" : "Stand-in H100", to, size);
}
int nvmlDeviceGetUUID(void *device, char *to, unsigned size) {
  return text(index_of(device) ? "GPU-b0b1b2b3-b4b5-b6b7-b8b9-babbbcbdbebf"
                               : "GPU-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf",
              to, size);
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
  reads++;
  if (hang_ms) usleep(1000u * (unsigned)hang_ms);
  rates[0] = index_of(device) ? 10 : 90;
  rates[1] = 40;
  return OK;
}
int nvmlDeviceGetMemoryInfo(void *device, uint64_t *memory) {
  if (index_of(device) < 0) return INVALID;
  memory[0] = 80ull << 30;
  memory[1] = 79ull << 30;
  memory[2] = 1ull << 30;
  return OK;
}
int nvmlDeviceGetClockInfo(void *device, unsigned kind, unsigned *mhz) {
  if (index_of(device) < 0) return INVALID;
  *mhz = kind == 1 ? 1980 : 2619;
  return OK;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
  if (index_of(device) != 0) return NOT_SUPPORTED;
  *milliwatts = 350500;
  return OK;
}
int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *degrees) {
  if (index_of(device) != 0 || sensor != 0) return NOT_SUPPORTED;
  *degrees = 45;
  return OK;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, uint64_t *reasons) {
  if (index_of(device) != 0) return NOT_SUPPORTED;
  *reasons = 4; /* software power cap */
  return OK;
}

struct metric {
  unsigned id;
  int result;
  double value;
  const char *names[3];
};
struct question {
  unsigned version, count;
  void *first, *second;
  struct metric metrics[210];
};
_Static_assert(sizeof(struct metric) == 40, "metric");

int nvmlGpmQueryDeviceSupport(void *device, unsigned *support) {
  if (support[0] != 1) return INVALID;
  support[1] = index_of(device) == 0;
  return OK;
}
int nvmlGpmSampleAlloc(void **sample) {
  *sample = calloc(1, 64);
  samples_out++;
  return *sample ? OK : UNKNOWN;
}
int nvmlGpmSampleFree(void *sample) {
  free(sample);
  samples_out--;
  return OK;
}
int nvmlGpmSampleGet(void *device, void *sample) {
  if (index_of(device) != 0) return NOT_SUPPORTED;
  (*(int *)sample)++;
  return OK;
}
int nvmlGpmMetricsGet(struct question *question) {
  if (question->version != 1 || question->count > 210) return INVALID;
  if (!*(int *)question->first || !*(int *)question->second) return INVALID;
  for (unsigned i = 0; i < question->count; i++) {
    struct metric *metric = &question->metrics[i];
    metric->result = metric->id < 60 ? OK : NOT_SUPPORTED; /* no NVLink here */
    metric->value = metric->id;
  }
  return OK;
}
