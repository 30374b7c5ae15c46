/* Writes the records. What a record says comes in one struct that is mirrored in Rust. */
#include "records.h"

#include <string.h>

struct activity {
  uint64_t start, end, correlation, bytes, address, id, count;
  double bandwidth;
  const char *name, *type, *domain, *algorithm, *communicator;
  uint32_t flag, source, process, thread, device, stream, value, operation, memory_kind, copy_kind;
  uint32_t data_type, external_kind, is_async, growth;
};

/* The size of a record, 0 where the library does not know the kind. */
size_t fake_record_size(uint32_t kind) {
  switch (kind) {
    case 1: return sizeof(struct marker);
    case 2: return sizeof(struct kernel);
    case 3: case 10: case 11: case 12: return sizeof(struct api);
    case 4: return sizeof(struct hccl);
    case 5: return sizeof(struct memory);
    case 6: return sizeof(struct memset_record);
    case 7: return sizeof(struct memcpy_record);
    case 8: return sizeof(struct external);
    case 9: return sizeof(struct communication);
    default: return 0;
  }
}

#define PUT(record) memcpy(out, &(record), sizeof(record))

/* Writes one record; `out` has room for fake_record_size bytes. */
void fake_record_write(void *out, uint32_t kind, const struct activity *a) {
  struct device_object device = {a->device, a->stream};
  struct host_object host = {a->process, a->thread};
  switch (kind) {
    case 1: {
      struct marker r = {kind, a->flag, a->source, a->start, a->id, {0, 0}, a->name, a->domain};
      r.object[0] = a->source == 0 ? a->process : a->device;
      r.object[1] = a->source == 0 ? a->thread : a->stream;
      PUT(r);
      break;
    }
    case 2: {
      struct kernel r = {kind, a->start, a->end, device, a->correlation, a->type, a->name};
      PUT(r);
      break;
    }
    case 3: case 10: case 11: case 12: {
      struct api r = {kind, a->start, a->end, host, a->correlation, a->name};
      PUT(r);
      break;
    }
    case 4: {
      struct hccl r = {kind, a->start, a->end, device, a->bandwidth, a->name, a->communicator};
      PUT(r);
      break;
    }
    case 5: {
      struct memory r = {kind, a->operation, a->memory_kind, a->correlation, a->start, a->end,
                         a->address, a->bytes, a->process, a->device, a->stream};
      PUT(r);
      break;
    }
    case 6: {
      struct memset_record r = {kind, a->value, a->bytes, a->start, a->end, a->device, a->stream,
                                a->correlation, (uint8_t)a->is_async};
      PUT(r);
      break;
    }
    case 7: {
      struct memcpy_record r = {kind, a->copy_kind, a->bytes, a->start, a->end, a->device,
                                a->stream, a->correlation, (uint8_t)a->is_async};
      PUT(r);
      break;
    }
    case 8: {
      struct external r = {kind, a->external_kind, a->id, a->correlation};
      PUT(r);
      break;
    }
    case 9: {
      struct communication r = {kind, a->data_type, a->count, device, a->start, a->end,
                                a->algorithm, a->name, a->communicator, a->correlation};
      PUT(r);
      break;
    }
    default:
      memset(out, 0xEE, 64);
      memcpy(out, &kind, sizeof kind);
  }
}

/* The vendor's library looks for its companions while it is loaded. */
void fake_loaded(void);
__attribute__((constructor)) static void loaded(void) { fake_loaded(); }
