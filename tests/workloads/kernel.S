/*
 * A kernel of its own for the emulator (multiboot, 32-bit): takes ROUNDS times int3, int 0x80, #UD, #DE and #GP, all in
 * ring 0, and ends the emulator through its debug-exit port. Interrupts stay off, so that nothing else happens.
 */
#define ROUNDS 97

	.section .text
	.code32
	.align 4
	.long 0x1badb002, 0, -0x1badb002 /* multiboot: magic, flags, checksum */

	.globl _start
_start:
	cli
	movl $stack_end, %esp
	/* Multiboot leaves its GDT behind: load our own, flat. */
	lgdt gdt_pointer
	ljmp $0x10, $1f
1:	movw $0x18, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw %ax, %es
	movl $255, %ecx
	movl $plain, %eax
2:	call set_gate
	decl %ecx
	jns 2b
	movl $0, %ecx
	movl $skip, %eax
	call set_gate
	movl $6, %ecx
	call set_gate
	movl $13, %ecx
	movl $skip_error, %eax
	call set_gate
	lidt idt_pointer

	movl $ROUNDS, %esi
3:	.globl at_int3, at_int80, at_ud2, at_div, at_gp
at_int3:
	int3
at_int80:
	int $0x80
at_ud2:
	ud2
	xorl %ecx, %ecx
	xorl %edx, %edx
at_div:
	divl %ecx
	movw $0x50, %ax /* past the end of the GDT */
at_gp:
	.byte 0x8e, 0xe0 /* mov %ax, %fs */
	decl %esi
	jnz 3b
	movb $0, %al
	outb %al, $0xf4
4:	hlt
	jmp 4b

/* Gate %ecx of the IDT leads to %eax. */
set_gate:
	movl %eax, %edx
	movw %dx, idt(, %ecx, 8)
	movw $0x10, idt + 2(, %ecx, 8)
	movw $0x8e00, idt + 4(, %ecx, 8)
	shrl $16, %edx
	movw %dx, idt + 6(, %ecx, 8)
	ret

skip_error:
	addl $4, %esp
skip:
	addl $2, (%esp) /* the instruction that faulted */
plain:
	iret

	.align 8
gdt:	.quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
	.word 4 * 8 - 1
	.long gdt
idt_pointer:
	.word 256 * 8 - 1
	.long idt

	.section .bss
	.align 16
idt:	.skip 256 * 8
	.skip 4096
stack_end:
