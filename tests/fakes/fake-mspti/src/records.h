/* MSPTI's activity records, CANN 8.0 to 9.1. Declared here from documented field lists and observed
 * offsets, not from the vendor's headers. Every record is packed to no inner padding, and its size
 * is rounded up to 8 bytes, so that 64-bit fields lie at 4 modulo 8. */
#ifndef OMNIPROF_FAKE_MSPTI_RECORDS_H
#define OMNIPROF_FAKE_MSPTI_RECORDS_H

#include <stddef.h>
#include <stdint.h>

#define RECORD __attribute__((packed, aligned(8)))

struct host_object { uint32_t process, thread; };
struct device_object { uint32_t device, stream; };

struct RECORD marker {
  uint32_t kind, flag, source;
  uint64_t timestamp, id;
  uint32_t object[2]; /* process and thread, or device and stream, by the source */
  const char *name, *domain;
};

struct RECORD api {
  uint32_t kind;
  uint64_t start, end;
  struct host_object at;
  uint64_t correlation;
  const char *name;
};

struct RECORD kernel {
  uint32_t kind;
  uint64_t start, end;
  struct device_object at;
  uint64_t correlation;
  const char *type, *name;
};

struct RECORD hccl {
  uint32_t kind;
  uint64_t start, end;
  struct device_object at;
  double bandwidth;
  const char *name, *communicator;
};

struct RECORD memory {
  uint32_t kind, operation, memory_kind;
  uint64_t correlation, start, end, address, bytes;
  uint32_t process, device, stream;
};

struct RECORD memset_record {
  uint32_t kind, value;
  uint64_t bytes, start, end;
  uint32_t device, stream;
  uint64_t correlation;
  uint8_t is_async;
};

struct RECORD memcpy_record {
  uint32_t kind, copy_kind;
  uint64_t bytes, start, end;
  uint32_t device, stream;
  uint64_t correlation;
  uint8_t is_async;
};

struct RECORD external {
  uint32_t kind, external_kind;
  uint64_t external_id, correlation;
};

struct RECORD communication {
  uint32_t kind, data_type;
  uint64_t count;
  struct device_object at;
  uint64_t start, end;
  const char *algorithm, *name, *communicator;
  uint64_t correlation;
};

#define AT(type, field, offset) \
  _Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#define SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)

SIZE(marker, 56);
AT(marker, kind, 0);
AT(marker, flag, 4);
AT(marker, source, 8);
AT(marker, timestamp, 12);
AT(marker, id, 20);
AT(marker, object[0], 28);
AT(marker, object[1], 32);
AT(marker, name, 36);
AT(marker, domain, 44);
SIZE(api, 48);
AT(api, kind, 0);
AT(api, start, 4);
AT(api, end, 12);
AT(api, at.process, 20);
AT(api, at.thread, 24);
AT(api, correlation, 28);
AT(api, name, 36);
SIZE(kernel, 56);
AT(kernel, kind, 0);
AT(kernel, start, 4);
AT(kernel, end, 12);
AT(kernel, at.device, 20);
AT(kernel, at.stream, 24);
AT(kernel, correlation, 28);
AT(kernel, type, 36);
AT(kernel, name, 44);
SIZE(hccl, 56);
AT(hccl, kind, 0);
AT(hccl, start, 4);
AT(hccl, end, 12);
AT(hccl, at.device, 20);
AT(hccl, at.stream, 24);
AT(hccl, bandwidth, 28);
AT(hccl, name, 36);
AT(hccl, communicator, 44);
SIZE(memory, 64);
AT(memory, kind, 0);
AT(memory, operation, 4);
AT(memory, memory_kind, 8);
AT(memory, correlation, 12);
AT(memory, start, 20);
AT(memory, end, 28);
AT(memory, address, 36);
AT(memory, bytes, 44);
AT(memory, process, 52);
AT(memory, device, 56);
AT(memory, stream, 60);
SIZE(memset_record, 56);
AT(memset_record, kind, 0);
AT(memset_record, value, 4);
AT(memset_record, bytes, 8);
AT(memset_record, start, 16);
AT(memset_record, end, 24);
AT(memset_record, device, 32);
AT(memset_record, stream, 36);
AT(memset_record, correlation, 40);
AT(memset_record, is_async, 48);
SIZE(memcpy_record, 56);
AT(memcpy_record, kind, 0);
AT(memcpy_record, copy_kind, 4);
AT(memcpy_record, bytes, 8);
AT(memcpy_record, start, 16);
AT(memcpy_record, end, 24);
AT(memcpy_record, device, 32);
AT(memcpy_record, stream, 36);
AT(memcpy_record, correlation, 40);
AT(memcpy_record, is_async, 48);
SIZE(external, 24);
AT(external, kind, 0);
AT(external, external_kind, 4);
AT(external, external_id, 8);
AT(external, correlation, 16);
SIZE(communication, 72);
AT(communication, kind, 0);
AT(communication, data_type, 4);
AT(communication, count, 8);
AT(communication, at.device, 16);
AT(communication, at.stream, 20);
AT(communication, start, 24);
AT(communication, end, 32);
AT(communication, algorithm, 40);
AT(communication, name, 48);
AT(communication, communicator, 56);
AT(communication, correlation, 64);

#endif
