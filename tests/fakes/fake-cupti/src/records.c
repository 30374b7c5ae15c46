/* Activity records as CUPTI 12.1 to 13.4 lay them out. Declared here from the documented field
 * lists, not from the vendor's headers; only fields that this project reads have names. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct kernel {
  uint32_t kind;
  uint8_t cache_config, shared_memory_config;
  uint16_t registers_per_thread;
  int32_t partitioned_requested, partitioned_executed;
  uint64_t start, end, completed;
  uint32_t device_id, context_id, stream_id;
  int32_t grid_x, grid_y, grid_z, block_x, block_y, block_z;
  int32_t static_shared, dynamic_shared;
  uint32_t local_per_thread, local_total, correlation_id;
  int64_t grid_id;
  const char *name;
  void *reserved0;
  uint64_t queued, submitted;
  uint8_t launch_type, carveout_requested, carveout, padding;
  uint32_t shared_executed;
  uint64_t graph_node_id;
  int32_t shmem_limit;
  uint32_t graph_id;
  void *access_policy;
  uint32_t channel_id;
  int32_t channel_type;
  uint32_t cluster_x, cluster_y, cluster_z, cluster_policy;
  uint64_t local_total_v2;
  uint32_t max_potential_cluster, max_active_clusters; /* CUDA 12.1: 208 bytes end here */
};
_Static_assert(sizeof(struct kernel) == 208, "kernel");
_Static_assert(offsetof(struct kernel, start) == 16, "kernel.start");
_Static_assert(offsetof(struct kernel, correlation_id) == 92, "kernel.correlation");
_Static_assert(offsetof(struct kernel, name) == 104, "kernel.name");
_Static_assert(offsetof(struct kernel, graph_node_id) == 144, "kernel.graph_node");
_Static_assert(offsetof(struct kernel, graph_id) == 156, "kernel.graph");

struct api {
  uint32_t kind, cbid;
  uint64_t start, end;
  uint32_t process_id, thread_id, correlation_id, return_value;
};
_Static_assert(sizeof(struct api) == 40, "api");

struct memcpy_record {
  uint32_t kind;
  uint8_t copy_kind, src_kind, dst_kind, flags;
  uint64_t bytes, start, end;
  uint32_t device_id, context_id, stream_id, correlation_id, runtime_correlation_id, pad;
  void *reserved0;
  uint64_t graph_node_id;
  uint32_t graph_id, channel_id;
  int32_t channel_type;
  uint32_t pad2;
};
_Static_assert(sizeof(struct memcpy_record) == 88, "memcpy");

struct memset_record {
  uint32_t kind, value;
  uint64_t bytes, start, end;
  uint32_t device_id, context_id, stream_id, correlation_id;
  uint16_t flags, memory_kind;
  uint32_t pad;
  void *reserved0;
  uint64_t graph_node_id;
  uint32_t graph_id, channel_id;
  int32_t channel_type;
  uint32_t pad2;
};
_Static_assert(sizeof(struct memset_record) == 88, "memset");

/* What a fake activity is; mirrored in Rust. */
struct activity {
  uint64_t start, end, bytes, graph_node;
  const char *name;
  uint32_t correlation, thread, process, cbid, stream, context, device, graph, grid_x, block_x;
};

struct peer_record {
  uint32_t kind;
  uint8_t copy_kind, src_kind, dst_kind, flags;
  uint64_t bytes, start, end;
  uint32_t device_id, context_id, stream_id;
  uint32_t src_device_id, src_context_id, dst_device_id, dst_context_id, correlation_id;
  void *reserved0;
  uint64_t graph_node_id;
  uint32_t graph_id, channel_id;
  int32_t channel_type;
  uint32_t pad;
};
_Static_assert(sizeof(struct peer_record) == 96, "peer");

struct synchronization {
  uint32_t kind, type;
  uint64_t start, end;
  uint32_t correlation_id, context_id, stream_id, event_id;
};
_Static_assert(sizeof(struct synchronization) == 40, "synchronization");

struct overhead {
  uint32_t kind, overhead_kind, object_kind, process_id, thread_id, unused;
  uint64_t start, end;
};
_Static_assert(sizeof(struct overhead) == 40, "overhead");

struct context {
  uint32_t kind, context_id, device_id;
  uint16_t compute_api_kind, null_stream_id;
};
_Static_assert(sizeof(struct context) == 16, "context");

struct stream {
  uint32_t kind, context_id, stream_id, priority, flag, correlation_id;
};
_Static_assert(sizeof(struct stream) == 24, "stream");

struct device {
  uint32_t kind, flags;
  uint64_t memory_bandwidth, memory_size;
  uint32_t constant_memory, l2, warp, core_clock, copy_engines, multiprocessors, max_ipc;
  uint32_t warps_multiprocessor, blocks_multiprocessor, shared_multiprocessor;
  uint32_t registers_multiprocessor, registers_block, shared_block, threads_block;
  uint32_t block_dim[3], grid_dim[3];
  uint32_t major, minor, id, ecc;
  uint8_t uuid[16];
  const char *name;
  uint8_t visible, mig, reserved[6];
  uint32_t gpu_instance, compute_instance;
  uint8_t mig_uuid[16];
};
_Static_assert(sizeof(struct device) == 176, "device");

/* The library's newest layouts by its version number. */
static size_t kernel_size(uint32_t version) {
  if (version < 130000) return 208;
  if (version < 130100) return 216;
  if (version < 130300) return 224;
  if (version < 130400) return 232;
  return 248;
}
static size_t memcpy_size(uint32_t version) {
  if (version < 26) return 88;
  return version < 130400 ? 96 : 112;
}
static size_t memset_size(uint32_t version) { return version < 130400 ? 88 : 104; }
static size_t overhead_size(uint32_t version) {
  if (version < 21) return 40;
  return version < 22 ? 48 : 56;
}
static size_t context_size(uint32_t version) {
  if (version < 22) return 16;
  if (version < 23) return 24;
  return version < 130100 ? 32 : 40;
}
static size_t device_size(uint32_t version) {
  if (version < 20) return 176;
  return version < 130200 ? 184 : 192;
}

size_t fake_record_size(uint32_t kind, uint32_t version) {
  switch (kind) {
    case 1: return memcpy_size(version);
    case 2: return memset_size(version);
    case 4:
    case 5: return sizeof(struct api);
    case 8: return device_size(version);
    case 9: return context_size(version);
    case 10: return kernel_size(version);
    case 17: return overhead_size(version);
    case 22: return sizeof(struct peer_record);
    case 37: return sizeof(struct stream);
    case 38: return version < 26 ? 40 : 56;
    default: return 64; /* kinds that nobody knows yet */
  }
}

/* The bytes that every version has, then a tail that no older reader may take for something. */
static void put(void *out, size_t size, const void *record, size_t known) {
  memcpy(out, record, known);
  memset((char *)out + known, 0xEE, size - known);
}

/* Writes one record; `out` has room for fake_record_size bytes, which are zero. */
void fake_record_write(void *out, uint32_t kind, uint32_t version, const struct activity *a) {
  size_t size = fake_record_size(kind, version);
  memset(out, 0, size);
  if (kind == 10) {
    struct kernel k;
    memset(&k, 0, sizeof k);
    k.kind = kind;
    k.registers_per_thread = 32;
    k.start = a->start;
    k.end = a->end;
    k.completed = a->end;
    k.device_id = a->device;
    k.context_id = a->context;
    k.stream_id = a->stream;
    k.grid_x = (int32_t)a->grid_x;
    k.grid_y = k.grid_z = 1;
    k.block_x = (int32_t)a->block_x;
    k.block_y = k.block_z = 1;
    k.static_shared = 1024;
    k.dynamic_shared = 2048;
    k.correlation_id = a->correlation;
    k.name = a->name;
    k.graph_node_id = a->graph_node;
    k.graph_id = a->graph;
    k.channel_id = 7;
    memcpy(out, &k, sizeof k);
    /* Tails that no older reader may take for something else. */
    memset((char *)out + sizeof k, 0xEE, size - sizeof k);
  } else if (kind == 4 || kind == 5) {
    struct api r = {kind, a->cbid, a->start, a->end, a->process, a->thread, a->correlation, 0};
    memcpy(out, &r, sizeof r);
  } else if (kind == 1) {
    struct memcpy_record r;
    memset(&r, 0, sizeof r);
    r.kind = kind;
    r.copy_kind = 1;
    r.src_kind = 2;
    r.dst_kind = 3;
    r.flags = 1;
    r.bytes = a->bytes;
    r.start = a->start;
    r.end = a->end;
    r.device_id = a->device;
    r.context_id = a->context;
    r.stream_id = a->stream;
    r.correlation_id = a->correlation;
    memcpy(out, &r, sizeof r);
    memset((char *)out + sizeof r, 0xEE, size - sizeof r);
  } else if (kind == 2) {
    struct memset_record r;
    memset(&r, 0, sizeof r);
    r.kind = kind;
    r.value = 0;
    r.bytes = a->bytes;
    r.start = a->start;
    r.end = a->end;
    r.device_id = a->device;
    r.context_id = a->context;
    r.stream_id = a->stream;
    r.correlation_id = a->correlation;
    r.memory_kind = 3;
    memcpy(out, &r, sizeof r);
    memset((char *)out + sizeof r, 0xEE, size - sizeof r);
  } else if (kind == 22) {
    struct peer_record r;
    memset(&r, 0, sizeof r);
    r.kind = kind;
    r.copy_kind = 10;
    r.src_kind = r.dst_kind = 3;
    r.bytes = a->bytes;
    r.start = a->start;
    r.end = a->end;
    r.device_id = a->device;
    r.context_id = a->context;
    r.stream_id = a->stream;
    r.src_device_id = 0;
    r.dst_device_id = 1;
    r.correlation_id = a->correlation;
    put(out, size, &r, sizeof r);
  } else if (kind == 38) {
    struct synchronization r = {kind, 3, a->start, a->end, a->correlation, a->context, a->stream,
                                UINT32_MAX};
    put(out, size, &r, sizeof r);
  } else if (kind == 17) {
    struct overhead r = {kind, 1 << 16, 2, a->process, a->thread, 0, a->start, a->end};
    put(out, size, &r, sizeof r);
  } else if (kind == 9) {
    struct context r = {kind, a->context, a->device, 1, 0};
    put(out, size, &r, sizeof r);
  } else if (kind == 37) {
    struct stream r = {kind, a->context, a->stream, 5, 0, 0};
    put(out, size, &r, sizeof r);
  } else if (kind == 8) {
    struct device r;
    memset(&r, 0, sizeof r);
    r.kind = kind;
    r.memory_size = 80ull << 30;
    r.warp = 32;
    r.multiprocessors = 132;
    r.warps_multiprocessor = 64;
    r.major = 9;
    r.id = a->device;
    for (int i = 0; i < 16; i++) r.uuid[i] = (uint8_t)(0xA0 + i);
    r.name = "Stand-in H100";
    put(out, size, &r, sizeof r);
  } else {
    memset(out, 0xEE, size);
    memcpy(out, &kind, sizeof kind);
  }
}
