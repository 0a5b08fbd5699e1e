/*
 * What BCC and the kernel give the programs of bpf/, as ordinary C: maps are arrays, helpers are in machine.c, and a
 * program is a function. One CPU.
 */
#include <linux/types.h>
#include <linux/kconfig.h>

struct bpf_raw_tracepoint_args {
	u64 args[8];
};

#define CUR_CPU_IDENTIFIER 0
#define BPF_RB_NO_WAKEUP   1

u64 read_perf_counter(u32 cpu);
u32 bpf_get_smp_processor_id(void);
u64 bpf_get_current_pid_tgid(void);
u64 bpf_get_current_task(void);
long bpf_get_current_comm(void *to, u32 size);
long bpf_probe_read_kernel(void *to, u32 size, const void *from);
long bpf_probe_read_kernel_str(void *to, u32 size, const void *from);
void *bpf_ringbuf_reserve(void *ring, u64 size, u64 flags);
void bpf_ringbuf_submit(void *data, u64 flags);

/* A map is an array in memory, named map_*, with a method; all of them lie together, so that they can be forgotten. */
#define BPF_ARRAY(name, type, n)                                       \
	__attribute__((section("maps"), aligned(8))) type map_##name[n]; \
	static inline void *lookup_##name(const void *key)             \
	{                                                              \
		return *(const u32 *)key < (n) ? &map_##name[*(const u32 *)key] : NULL; \
	}                                                              \
	static const struct {                                          \
		void *(*lookup)(const void *key);                      \
	} name = { lookup_##name };
#define BPF_PERCPU_ARRAY(name, type, n) BPF_ARRAY(name, type, n)
#define BPF_PERF_ARRAY(name, n)                                        \
	static const struct {                                          \
		u64 (*perf_read)(u32 cpu);                             \
	} name = { read_perf_counter };
#define BPF_RINGBUF_OUTPUT(name, pages)
#define BPF_ARRAY_OF_MAPS(name, inner, n) BPF_ARRAY(name, u8, n)

#define RAW_TRACEPOINT_PROBE(event) int raw_tracepoint__##event(struct bpf_raw_tracepoint_args *ctx)
#define KFUNC_PROBE(event, ...)     int kfunc__##event(void *ctx, __VA_ARGS__)
#define KRETFUNC_PROBE(event, ...)  int kretfunc__##event(void *ctx, __VA_ARGS__)
