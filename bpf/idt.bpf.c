/* Copies the IDT once, run by BPF_PROG_TEST_RUN. */
#include <uapi/linux/ptrace.h>

#define CPU_ENTRY_AREA_RO_IDT 0xfffffe0000000000ull /* arch/x86/include/asm/cpu_entry_area.h */

struct idt_copy {
	s32 status;
	u8 bytes[4096];
};
BPF_ARRAY(idt, struct idt_copy, 1);

int read_idt(void *ctx)
{
	u32 zero = 0;
	struct idt_copy *copy = idt.lookup((int *)&zero);
	if (copy)
		copy->status = bpf_probe_read_kernel(copy->bytes, sizeof(copy->bytes), (void *)CPU_ENTRY_AREA_RO_IDT);
	return 0;
}
